"""Whom to retrieve for: queries of a dataset, and those that files and callers give."""
