"""Faiss indexes: factory strings, selectors, and search spread by what lists may hold."""
