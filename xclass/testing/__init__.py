"""Conformance suites: one per seam, for the implementations of this package and for yours."""

from xclass.testing.document_format import check_document_format
from xclass.testing.head import check_head
from xclass.testing.index import check_index
from xclass.testing.loss import check_loss
from xclass.testing.sampler import check_sampler
from xclass.testing.table import check_table

__all__ = ["check_document_format", "check_head", "check_index", "check_loss", "check_sampler", "check_table"]
