"""Recipes: lists of steps that are read, planned, estimated and run; those in `shipped` come with the package."""
