"""Does the model replicate? Drawing images and scoring them against references."""
