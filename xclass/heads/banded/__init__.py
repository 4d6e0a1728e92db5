"""Heads that treat bands of frequent and rare items differently."""
