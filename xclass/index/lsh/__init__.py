"""Locality-sensitive hashing: families of hash functions, and the index over their tables."""
