"""Query tower and head together, and what a model is built from."""
