"""A file of candidates: for each query the items to rank."""

from __future__ import annotations

from pathlib import Path

import torch

from xclass.data.dataset import Dataset
from xclass.data.ids import IdMap, unknown
from xclass.errors import DataError
from xclass.queries.files import read_own_lists
from xclass.runtime.progress import say
from xclass.types import Ragged, offsets_of


def read_candidates(path: Path | str, dataset: Dataset) -> Ragged:
    """Ragged by query number of the dataset: the candidates that a file gives each of its queries.

    The file has the forms of a file of histories (:mod:`xclass.queries.files`): rows of query_id, item_id, JSON
    lines with a list, or adjacency lines. Queries and items that the dataset does not have are left out and counted on
    stderr; a query without a line has no candidates. Cost O(pairs log pairs).

    Raises:
        DataError: the file can't be read, or nothing of it is in the dataset.
    """
    found = read_own_lists(Path(path))
    assert found.offsets is not None and found.items is not None
    queries = IdMap(dataset.queries["query_id"]).numbers(found.query_ids)
    items = IdMap(dataset.items["item_id"]).numbers(found.items)
    rows = torch.repeat_interleave(queries, found.offsets.diff(), output_size=len(items))
    keep = (rows >= 0) & (items >= 0)
    if not bool(keep.any()):
        raise DataError("no candidate of this file is in the dataset", where=path, got=f"{len(items):,} pairs")
    for what, ids, numbers in (("queries", found.query_ids, queries), ("items", found.items, items)):
        if bool((numbers < 0).any()):
            say(f"{path}: {unknown(ids, numbers).message(what)}")
    keys = torch.unique(rows[keep] * dataset.num_items + items[keep])
    owners = torch.div(keys, dataset.num_items, rounding_mode="floor")
    return Ragged(offsets_of(torch.bincount(owners, minlength=dataset.num_queries)), keys % dataset.num_items)
