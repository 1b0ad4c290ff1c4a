"""What can be got out of a model: one file for each attack."""
