"""The search for the index, and its parameters, that reach a recall at the least cost."""
