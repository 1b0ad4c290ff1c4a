"""House rules: records, seeds, the run folder, errors. Nothing of ours is imported here."""
