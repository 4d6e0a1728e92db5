"""Files in, datasets out: formats, ids, splits, the dataset directory, batches, planted data."""
