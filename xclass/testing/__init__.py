"""Conformance suites: one per seam, for the kinds of this package and for yours."""

from xclass.testing.index import check_index

__all__ = ["check_index"]
