"""A table of coded pairs → numbers for items and queries, a report, and the dataset directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from xclass.data import writing
from xclass.data.ids import samples
from xclass.data.options import IngestOptions
from xclass.data.pairs import PART_CODES, TRAIN, Pairs
from xclass.data.reading import Table
from xclass.data.store import Dataset
from xclass.progress import say


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
    item_order, train_counts = writing.number_items(pairs, labels, len(table.item_ids), lasting[1])
    has_pairs = np.zeros(len(table.query_ids), dtype=bool)
    has_pairs[pairs.query] = True
    lonely = np.zeros_like(has_pairs)
    lonely[table.lonely] = True
    query_order = np.flatnonzero(has_pairs | (lonely & lasting[0]))
    item_ids, query_ids = table.item_ids.gather(item_order), table.query_ids.gather(query_order)
    writing.numbered(
        pairs, writing.invert(query_order, len(has_pairs)), writing.invert(item_order, len(table.item_ids))
    )
    report |= _describe(pairs, labels, item_ids, query_ids, train_counts)
    items = pl.DataFrame({"item_id": item_ids, "train_count": train_counts})
    items = items if item_columns is None else items.hstack(item_columns[item_order])
    queries = pl.DataFrame({"query_id": query_ids})
    queries = queries if query_columns is None else queries.hstack(query_columns[query_order])
    needed = writing.bytes_needed(
        len(pairs), len(query_ids), [*items.iter_columns(), query_ids], pairs.weight is not None, pairs.time is not None
    )
    with writing.dataset_directory(out, needed, replace) as folder:
        say(f"write {out}")
        splits = writing.write_pairs(folder, pairs, labels, len(query_ids))
        items.write_parquet(folder / "items.parquet")
        queries.write_parquet(folder / "queries.parquet")
        written = {} if features is None else features(folder, item_order)
        told = {"columns": table.columns.used(), "options": options.model_dump(mode="json"), "report": report}
        types = {"query": writing.id_type(query_ids), "item": writing.id_type(item_ids)}
        writing.write_dataset_manifest(
            folder, len(query_ids), len(item_ids), splits, types, {"split": split, **told, **written, **(fields or {})}
        )
    return Dataset(out)


def _describe(
    pairs: Pairs, labels: np.ndarray, item_ids: pl.Series, query_ids: pl.Series, train_counts: np.ndarray
) -> dict[str, Any]:
    """The part of the report that is about what was kept; ``pairs`` are numbered."""
    known = np.zeros(len(query_ids), dtype=bool)
    known[pairs.query[labels == TRAIN]] = True
    anywhere = np.zeros(len(query_ids), dtype=bool)
    anywhere[pairs.query] = True
    facts: dict[str, Any] = {"kept": len(pairs), "queries": len(query_ids), "items": len(item_ids), "splits": {}}
    facts |= {"cold_items": {}, "queries_without_history": {}, "queries_without_pairs": int((~anywhere).sum())}
    for name, label in PART_CODES.items():
        rows = labels == label
        query, item = pairs.query[rows], pairs.item[rows]
        if name != "train" and len(query) == 0:
            continue
        queries = np.flatnonzero(np.bincount(query, minlength=len(query_ids)))
        items = np.flatnonzero(np.bincount(item, minlength=len(item_ids)))
        facts["splits"][name] = {"pairs": len(query), "queries": len(queries), "items": len(items)}
        if pairs.time is not None and len(query):
            times = pairs.time[rows]
            facts["splits"][name] |= {"first_time": times.min().item(), "last_time": times.max().item()}
        if name != "train":
            cold, new = items[train_counts[items] == 0], queries[~known[queries]]
            cold_pairs = int(np.count_nonzero(train_counts[item] == 0))
            facts["cold_items"][name] = {"items": len(cold), "pairs": cold_pairs, "samples": samples(item_ids, cold)}
            facts["queries_without_history"][name] = {"queries": len(new), "samples": samples(query_ids, new)}
    return facts
