"""A table of coded pairs → numbers for items and queries, a report, and the dataset directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from xclass.data.dataset import Dataset
from xclass.ingest.options import IngestOptions
from xclass.ingest.pairs import PART_CODES, TRAIN, Pairs, blocks_of
from xclass.ingest.reading.id_sorted import Ids
from xclass.ingest.reading.reader import Table
from xclass.ingest.writing import arrays
from xclass.runtime.progress import say

SAMPLES = 5


def write_table(
    table: Table,
    labels: np.ndarray,
    lasting: tuple[np.ndarray, np.ndarray | None],
    out: Path,
    split: str,
    options: IngestOptions,
    report: dict[str, Any],
    *,
    item_columns: pl.DataFrame | None = None,
    query_columns: pl.DataFrame | None = None,
    replace: bool = False,
    fields: dict[str, Any] | None = None,
    features: Callable[[Path, np.ndarray], dict[str, Any]] | None = None,
) -> Dataset:
    """Number items and queries, describe what was kept in ``report``, and write the dataset directory.

    Args:
        table: its pairs are grouped by query; they are numbered in place.
        labels: int8 (n,), the part of each pair.
        lasting: masks of the queries and items to keep even without a pair; of queries only those that stand alone in
            the source are meant.
        item_columns: further columns of items.parquet, a row per item of ``table.item_ids``.
        query_columns: further columns of queries.parquet, a row per query of ``table.query_ids``.
        replace: ``out`` may exist, and is replaced in one step.
        fields: what the manifest says besides, or instead.
        features: writes features below the folder, given the code of each item in the order of their numbers; returns
            what the manifest says of them.
    """
    pairs = table.pairs
    item_order, train_counts = arrays.number_items(pairs, labels, len(table.item_ids), lasting[1])
    has_pairs = arrays.marked(pairs.query, len(table.query_ids))
    lonely = np.zeros_like(has_pairs)
    lonely[table.lonely] = True
    query_order = np.flatnonzero(has_pairs | (lonely & lasting[0]))
    item_ids, query_ids = table.item_ids, table.query_ids
    arrays.numbered(pairs, arrays.invert(query_order, len(has_pairs)), arrays.invert(item_order, len(table.item_ids)))
    report |= _describe(pairs, labels, _Named(item_ids, item_order), _Named(query_ids, query_order), train_counts)
    items = pl.DataFrame({"train_count": train_counts})
    items = items if item_columns is None else items.hstack(item_columns[item_order])
    queries = pl.DataFrame(height=len(query_order)) if query_columns is None else query_columns[query_order]
    needed = arrays.bytes_needed(
        len(pairs),
        len(query_order),
        [item_ids, query_ids, *items.iter_columns(), *queries.iter_columns()],  # what is left out takes nothing
        pairs.weight is not None,
        pairs.time is not None,
    )
    with arrays.dataset_directory(out, needed, replace) as folder:
        say(f"write {out}")
        splits = arrays.write_pairs(folder, pairs, labels, len(query_order))
        arrays.write_ids(folder / "items.parquet", "item_id", item_ids, item_order, items)
        arrays.write_ids(folder / "queries.parquet", "query_id", query_ids, query_order, queries)
        written = {} if features is None else features(folder, item_order)
        told = {"columns": table.columns.used(), "options": options.model_dump(mode="json"), "report": report}
        types = {"query": arrays.id_type(query_ids), "item": arrays.id_type(item_ids)}
        arrays.write_dataset_manifest(
            folder,
            len(query_order),
            len(item_order),
            splits,
            types,
            {"split": split, **told, **written, **(fields or {})},
        )
    return Dataset(out)


class _Named(NamedTuple):
    """Ids in the order of codes, and the code of each number."""

    ids: Ids
    order: np.ndarray

    def __len__(self) -> int:
        return len(self.order)

    def samples(self, numbers: np.ndarray) -> list[str | int]:
        return self.ids.gather(self.order[numbers[:SAMPLES]]).to_list()


def _describe(pairs: Pairs, labels: np.ndarray, items: _Named, queries: _Named, counts: np.ndarray) -> dict[str, Any]:
    """The part of the report that is about what was kept; ``pairs`` are numbered, ``counts`` the items' in train."""
    known = arrays.marked(pairs.query, len(queries), labels == TRAIN)
    alone = len(queries) - int(np.count_nonzero(arrays.marked(pairs.query, len(queries))))
    facts: dict[str, Any] = {"kept": len(pairs), "queries": len(queries), "items": len(items), "splits": {}}
    facts |= {"cold_items": {}, "queries_without_history": {}, "queries_without_pairs": alone}
    for name, label in PART_CODES.items():
        rows = labels == label
        size = int(np.count_nonzero(rows))
        if name != "train" and size == 0:
            continue
        there_q = np.flatnonzero(arrays.marked(pairs.query, len(queries), rows))
        there_i = np.flatnonzero(arrays.marked(pairs.item, len(items), rows))
        facts["splits"][name] = {"pairs": size, "queries": len(there_q), "items": len(there_i)}
        if pairs.time is not None and size:
            first, last = _extremes(pairs.time, rows)
            facts["splits"][name] |= {"first_time": first, "last_time": last}
        if name != "train":
            cold, new = there_i[counts[there_i] == 0], there_q[~known[there_q]]
            cold_pairs = sum(np.count_nonzero(rows[low:high] & (counts[pairs.item[low:high]] == 0))
                             for low, high in blocks_of(len(pairs)))  # fmt: skip
            facts["cold_items"][name] = {"items": len(cold), "pairs": int(cold_pairs), "samples": items.samples(cold)}
            facts["queries_without_history"][name] = {"queries": len(new), "samples": queries.samples(new)}
    return facts


def _extremes(values: np.ndarray, chosen: np.ndarray) -> tuple[Any, Any]:
    """Least and largest of the values of a mask, which has some."""
    blocks = (values[low:high][chosen[low:high]] for low, high in blocks_of(len(values)))
    found = [(block.min(), block.max()) for block in blocks if len(block)]
    return min(low for low, _ in found).item(), max(high for _, high in found).item()
