"""Closed forms that are written into tables before the first step."""
