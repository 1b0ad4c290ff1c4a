"""One file per command: options in, one stage called, its answer printed. Nothing heavy is imported at the top."""
