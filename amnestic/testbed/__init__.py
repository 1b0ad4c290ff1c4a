"""A model organism of memorization: its builder, and the bundled one."""
