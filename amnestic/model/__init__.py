"""The only room that knows the libraries which hold models."""
