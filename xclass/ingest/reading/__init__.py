"""Files → pairs of numbers, in memory or sorted on the disk."""
