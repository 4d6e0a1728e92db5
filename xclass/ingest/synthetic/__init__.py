"""Synthetic data whose truth is known: pairs, documents, text."""
