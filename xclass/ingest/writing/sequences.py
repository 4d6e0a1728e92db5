"""Sequences of numbered items → a dataset directory whose queries are the positions, streamed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from xclass.data.dataset import SEQUENCE, Dataset
from xclass.data.npy_stream import ArrayWriter
from xclass.data.windows import SequenceFacts
from xclass.ingest.reading.id_encoder import index_dtype
from xclass.ingest.sources import PARTS
from xclass.ingest.writing import arrays
from xclass.runtime.progress import Progress, say

OFFSETS_AT_ONCE = 1 << 20


class SequenceJob(NamedTuple):
    """What is known before the second pass.

    items: a row per item number: item_id, train_count. sizes: part → positions. facts, fields: for the manifest.
    """

    items: pl.DataFrame
    sizes: dict[str, int]
    facts: SequenceFacts
    fields: dict[str, Any]


def write_sequences(job: SequenceJob, blocks: Iterable[tuple[str, np.ndarray]], out: Path) -> Dataset:
    """Write the dataset directory ``out``.

    Queries are numbered in the order of their parts (train, valid, test) and of the sequence; their ids are these
    numbers from 1. A query has one positive, the item at its position, in the split of its part.

    Args:
        blocks: (part, item numbers) in order; of each part as many as ``job.sizes`` says.

    Memory: one block. Disk: 4 bytes a position (8 from 2^31 items on) and 8 for each split.
    """
    sizes = {part: job.sizes.get(part, 0) for part in PARTS if part == "train" or job.sizes.get(part, 0)}
    total, dtype = sum(sizes.values()), index_dtype(len(job.items))
    needed = total * (8 * len(sizes) + 16) + int(job.items.estimated_size()) + (1 << 20)
    with arrays.dataset_directory(out, needed) as folder:
        distinct = _write_values(folder, sizes, blocks, dtype, len(job.items))
        say(f"write {out}")
        starts = dict(zip(sizes, np.cumsum([0, *sizes.values()]).tolist(), strict=False))
        for part, size in sizes.items():
            _write_offsets(folder / part / "offsets.npy", starts[part], size, total)
        job.items.write_parquet(folder / "items.parquet")
        numbers = pl.LazyFrame().select(pl.int_range(1, total + 1, dtype=pl.Int64).alias("query_id"))
        numbers.sink_parquet(folder / "queries.parquet")
        splits = {part: {"pairs": size, "queries": size} for part, size in sizes.items()}
        report = job.fields["report"]
        report |= {"kept": total, "queries": total, "items": len(job.items)}
        report["splits"] = {part: {**splits[part], "items": distinct[part]} for part in splits}
        types = {"query": "int64", "item": arrays.id_type(job.items["item_id"])}
        fields = {**job.fields, SEQUENCE: job.facts._asdict()}
        arrays.write_dataset_manifest(folder, total, len(job.items), splits, types, fields)
    return Dataset(out)


def _write_values(
    folder: Path, sizes: dict[str, int], blocks: Iterable[tuple[str, np.ndarray]], dtype: Any, num_items: int
) -> dict[str, int]:
    """The items of every part; returns how many different ones each has."""
    there = {part: np.zeros(num_items, dtype=bool) for part in sizes}
    with contextlib.ExitStack() as stack, Progress("write positions", sum(sizes.values()), "positions") as progress:
        writers = {part: stack.enter_context(ArrayWriter(folder / part / "values.npy", dtype)) for part in sizes}
        for part, items in blocks:
            there[part][items] = True
            writers[part].append(items)
            progress.advance(len(items))
    return {part: int(found.sum()) for part, found in there.items()}


def _write_offsets(path: Path, start: int, size: int, total: int) -> None:
    """0 up to list ``start``, then one value each for ``size`` lists, then no more."""
    with ArrayWriter(path, np.int64) as writer:
        for low in range(0, total + 1, OFFSETS_AT_ONCE):
            lists = np.arange(low, min(low + OFFSETS_AT_ONCE, total + 1))
            writer.append(np.clip(lists - start, 0, size))
