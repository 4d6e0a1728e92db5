"""Raw files in, dataset directories out; batches; planted data."""
