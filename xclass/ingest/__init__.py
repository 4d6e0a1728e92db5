"""Raw files in, dataset directories out."""
