"""The hierarchical softmax: trees over the items, their loss, and search by beam."""
