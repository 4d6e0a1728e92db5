"""The formats of files: a reader each, and the two tables of names."""
