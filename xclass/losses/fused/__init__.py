"""The loss of a head and its gradient in one pass over blocks of logits, compiled where numba is installed."""
