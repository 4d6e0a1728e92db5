"""Files that appear whole: manifests with hashes, tensors, tables in Markdown."""
