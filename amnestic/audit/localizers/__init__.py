"""Where memorization lives: one file for each method of localisation."""
