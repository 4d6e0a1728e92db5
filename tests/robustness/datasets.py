"""A dataset directory read with NumPy and Polars alone, and compared with what an independent reader found."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tests.robustness.plain_documents import Documents
from tests.robustness.plain_readers import Reading


def stored(folder: Path, split: str = "train") -> Reading:
    """The pairs of one split, and all queries."""
    queries, items = (
        ids(folder / f"{name}.parquet", column) for name, column in (("queries", "query_id"), ("items", "item_id"))
    )
    found = Reading(queries=set(queries))
    if not (folder / split).exists():
        return found
    offsets, values = np.load(folder / split / "offsets.npy"), np.load(folder / split / "values.npy")
    weights, times = (
        np.load(path) if (path := folder / split / f"{name}.npy").exists() else None for name in ("weights", "times")
    )
    assert len(offsets) == len(queries) + 1
    for query, (start, stop) in enumerate(zip(offsets[:-1], offsets[1:], strict=True)):
        for place in range(start, stop):
            pair = queries[query], items[values[place]]
            assert pair not in found.pairs, "a pair is there twice"
            found.pairs[pair] = (
                None if weights is None else float(weights[place]),
                None if times is None else times[place].item(),
            )
    return found


def stored_documents(folder: Path) -> Documents:
    """The labels and the features of all documents, in their order."""
    count = len(pl.read_parquet(folder / "queries.parquet", glob=False))
    found = Documents(labels=[set() for _ in range(count)])
    for query, item in stored(folder).pairs:
        found.labels[int(query) - 1].add(item)
    part = folder / "query_features" / "features"
    found.features = None
    if part.exists():
        offsets, values, weights = (np.load(part / f"{name}.npy").tolist() for name in ("offsets", "values", "weights"))
        found.features = [
            dict(zip(values[a:b], weights[a:b], strict=True)) for a, b in zip(offsets, offsets[1:], strict=False)
        ]
    return found


def ids(path: Path, column: str) -> list[str]:
    """Ids as strings, row by row."""
    return [str(value) for value in pl.read_parquet(path, glob=False)[column].to_list()]


def difference(got: Reading, wanted: Reading) -> str:
    """What differs, in words; nothing when both are the same."""
    missing, more = wanted.pairs.keys() - got.pairs.keys(), got.pairs.keys() - wanted.pairs.keys()
    if missing or more:
        return f"pairs missing {_some(missing)}, pairs too many {_some(more)}"
    if got.queries != wanted.queries:
        return f"queries missing {_some(wanted.queries - got.queries)}, too many {_some(got.queries - wanted.queries)}"
    for pair, (weight, time) in wanted.pairs.items():
        stored_weight, stored_time = got.pairs[pair]
        if not close(stored_weight, weight) or stored_time != time:
            return f"{pair}: weight and time {stored_weight}, {stored_time}, wanted {weight}, {time}"
    return ""


def document_difference(got: Documents, wanted: Documents) -> str:
    """What differs, in words; nothing when both are the same."""
    if got.labels != wanted.labels:
        place = next((n for n, (a, b) in enumerate(zip(got.labels, wanted.labels, strict=False)) if a != b), -1)
        return f"{len(got.labels)} documents, wanted {len(wanted.labels)}; labels differ first at {place}"
    if wanted.features is None or got.features is None:
        return ""
    for number, (have, want) in enumerate(zip(got.features, wanted.features, strict=True), 1):
        if have.keys() != want.keys() or not all(close(have[name], want[name]) for name in want):
            return f"features of document {number}: {have}, wanted {want}"
    return ""


def close(got: float | None, wanted: float | None) -> bool:
    """Equal as far as float32 goes."""
    if got is None or wanted is None:
        return got is None and wanted is None
    return math.isclose(got, wanted, rel_tol=2e-6, abs_tol=1e-37)


def _some(values: Any) -> list[Any]:
    return sorted(values)[:3]
