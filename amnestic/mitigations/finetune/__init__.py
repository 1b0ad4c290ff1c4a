"""Fine-tuning that takes memorized images out, one file per method, and the loop that trains them all."""
