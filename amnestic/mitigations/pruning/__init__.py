"""One-shot edits of the units that a localizer found, one file per method."""
