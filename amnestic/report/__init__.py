"""The report room: from finished results to one page that a person can read, print and file."""
