"""Lists for queries: search with filters, probabilities beside scores, files of lists."""
