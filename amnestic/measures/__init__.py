"""Measures: pure functions from tensors and arrays to values; no model, no file, no state."""
