"""Distributions over items: fixed or learned from labels, with and without replacement."""
