"""Slow and literal reference implementations; tests compare the product with them."""
