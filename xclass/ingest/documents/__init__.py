"""Documents with texts or sparse features and many labels: read, written as datasets, and exported."""
