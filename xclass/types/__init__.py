"""What is passed around: lists without padding, batches, top-k lists, item vectors in blocks."""

from xclass.types.ragged import (
    Batch,
    Negatives,
    Ragged,
    Rows,
    Selection,
    TopK,
    check_offsets,
    concat_ragged,
    offsets_of,
)

__all__ = [
    "Batch",
    "Negatives",
    "Ragged",
    "Rows",
    "Selection",
    "TopK",
    "check_offsets",
    "concat_ragged",
    "offsets_of",
]
