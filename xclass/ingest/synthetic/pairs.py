"""Planted data: datasets drawn from a world whose true P(item | query) is known, of any size, streamed to disk.

    xclass ingest planted:items=2000,queries=5000,pairs=150000 --out DATASET

The parameters go into ``dataset.json``, so that :func:`best_recall` can be computed from the dataset alone.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from xclass.data.dataset import Dataset
from xclass.data.npy_stream import VALUES_PER_BLOCK, ArrayWriter, rewrite_blocks
from xclass.errors import ConfigError, InputError
from xclass.ingest.option_use import check_use
from xclass.ingest.options import DEFAULT_VALID_FRACTION, IngestOptions
from xclass.ingest.pairs import PART_CODES, Pairs
from xclass.ingest.reading.id_encoder import index_dtype
from xclass.ingest.splits import random_split
from xclass.ingest.synthetic.oracle import (
    best_recall,
    external_number,
    model_items,
    planted_world,
    true_probabilities,
    world_item,
)
from xclass.ingest.synthetic.spec import DECIMAL_KEYS, PREFIX, SPEC_KEYS, parse_planted
from xclass.ingest.synthetic.world import PlantedWorld
from xclass.ingest.writing import arrays
from xclass.runtime.progress import Progress, say
from xclass.runtime.rng import derive_seed

__all__ = [
    "PlantedModel",
    "best_recall",
    "ingest_planted",
    "model_items",
    "parse_planted",
    "planted_world",
    "true_probabilities",
]

DRAWING_THREADS = 4


@dataclass(frozen=True)
class PlantedModel(PlantedWorld):
    """A planted world that can be written as a dataset; parameters as in :class:`PlantedWorld`.

    >>> model = PlantedModel(num_items=200, num_queries=50, pairs=500, num_topics=10)
    >>> model.probabilities(np.array([0, 49])).sum(axis=1).round(12).tolist()
    [1.0, 1.0]
    """

    def write_dataset(
        self, out: Path | str, test_fraction: float = 0.2, valid_fraction: float = DEFAULT_VALID_FRACTION
    ) -> Dataset:
        """Draw all pairs, divide every query's at random (as :func:`random_split`), write the dataset directory.

        External ids are ``item-…`` and ``query-…`` with leading zeros; an item's digits tell nothing about how popular
        it is. ``items.parquet`` has the true ``topic`` beside. Every item is in the catalogue, drawn or not.

        Cost: O(pairs) time; memory about 30 bytes per item and one block of queries, whatever the number of pairs.
        """
        out = Path(out)
        with arrays.dataset_directory(
            out, self.pairs * 8 + self.num_queries * 40 + self.num_items * 40 + (1 << 20)
        ) as folder:
            drawn = _Drawn(self, np.zeros(self.num_items, dtype=np.int32))
            drawn.draw(folder, test_fraction, valid_fraction)
            facts = drawn.number_items(folder)
            say(f"write {out}")
            _write_queries(folder, self.num_queries)
            options = {"test_fraction": test_fraction, "valid_fraction": valid_fraction, "seed": self.seed}
            notes = {"split": "random", "planted": self.parameters(), "options": options, "report": facts}
            types = {"query": "string", "item": "string"}
            splits = {
                name: {"pairs": part["pairs"], "queries": part["queries"]} for name, part in facts["splits"].items()
            }
            arrays.write_dataset_manifest(folder, self.num_queries, self.num_items, splits, types, notes)
        return Dataset(out)


@dataclass(slots=True)
class _Drawn:
    """What is known once every block was drawn: train counts by model item, pairs and queries of every part."""

    world: PlantedWorld
    counts: np.ndarray
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)

    def draw(self, folder: Path, test_fraction: float, valid_fraction: float) -> None:
        """Stream all blocks to ``folder``; the values are model items for now."""
        shares = {"train": 1.0, "valid": valid_fraction, "test": test_fraction}
        with contextlib.ExitStack() as stack:
            dtype, writers = index_dtype(self.world.num_items), {}
            for name in (name for name, share in shares.items() if share > 0):
                offsets = stack.enter_context(ArrayWriter(folder / name / "offsets.npy", np.int64))
                offsets.append(np.zeros(1, dtype=np.int64))
                writers[name] = offsets, stack.enter_context(ArrayWriter(folder / name / "values.npy", dtype))
                self.parts[name] = {"pairs": 0, "queries": 0}
            with Progress("draw planted pairs", self.world.pairs, "pairs") as progress:
                for lengths, items, labels in self._blocks(test_fraction, valid_fraction):
                    for name, (offsets, values) in writers.items():
                        self._append(name, lengths, items, labels == PART_CODES[name], offsets, values)
                    progress.advance(len(items))

    def _blocks(
        self, test_fraction: float, valid_fraction: float
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """(lengths, items, labels) of every block, in order; the next ones are drawn meanwhile, a thread each."""

        def make(block: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            lengths, items = self.world.sample_block(block)
            return lengths, items, self._labels(block, lengths, items, test_fraction, valid_fraction)

        ahead = min(os.cpu_count() or 1, DRAWING_THREADS)
        waiting: deque[Future[tuple[np.ndarray, np.ndarray, np.ndarray]]] = deque()
        with ThreadPoolExecutor(ahead, "planted") as pool:
            for block in range(self.world.num_blocks):
                waiting.append(pool.submit(make, block))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def number_items(self, folder: Path) -> dict[str, Any]:
        """Replace model items by item numbers on disk, write items.parquet, return the report."""
        world, num_warm = self.world, int(np.count_nonzero(self.counts))
        external = self._in_order(folder)
        number = np.empty(world.num_items, dtype=index_dtype(world.num_items))
        for low in range(0, world.num_items, VALUES_PER_BLOCK):
            block = external[low : low + VALUES_PER_BLOCK]
            number[world_item(block, world.num_items)] = np.arange(low, low + len(block), dtype=number.dtype)
        cold = {}
        for name, part in self.parts.items():
            there, cold_pairs = np.zeros(world.num_items, dtype=bool), 0
            for values in rewrite_blocks(folder / name / "values.npy"):
                values[:] = number[values]
                there[values] = True
                cold_pairs += int(np.count_nonzero(values >= num_warm))
            part["items"] = int(np.count_nonzero(there))
            if name != "train":
                cold_items = num_warm + np.flatnonzero(there[num_warm:])
                names = [item_name(int(external[item]), world.num_items) for item in cold_items[:5]]
                cold[name] = {"items": len(cold_items), "pairs": cold_pairs, "samples": names}
        return self._report(cold)

    def _in_order(self, folder: Path) -> np.ndarray:
        """The number in the external id of every item number, int64 (N,); items.parquet is written on the way.

        The keys most − count, then external number, sorted; counts are not needed after that.
        """
        num_items, most = self.world.num_items, int(self.counts.max())
        key = np.empty(num_items, dtype=np.int64)
        for low in range(0, num_items, VALUES_PER_BLOCK):
            block = self.counts[low : low + VALUES_PER_BLOCK].astype(np.int64)
            numbers = external_number(np.arange(low, low + len(block)), num_items)
            key[low : low + len(block)] = (most - block) * num_items + numbers
        self.counts = self.counts[:0]
        key.sort()
        _write_items(folder, self.world, key, most)
        key %= num_items
        return key

    def _labels(
        self, block: int, lengths: np.ndarray, items: np.ndarray, test_fraction: float, valid_fraction: float
    ) -> np.ndarray:
        pairs = Pairs(np.repeat(np.arange(len(lengths)), lengths), items)
        return random_split(pairs, test_fraction, valid_fraction, derive_seed(self.world.seed, "planted split", block))

    def _append(
        self,
        name: str,
        lengths: np.ndarray,
        items: np.ndarray,
        chosen: np.ndarray,
        offsets: ArrayWriter,
        values: ArrayWriter,
    ) -> None:
        rows = np.repeat(np.arange(len(lengths)), lengths)[chosen]
        sizes = np.bincount(rows, minlength=len(lengths))
        part = self.parts[name]
        offsets.append(part["pairs"] + np.cumsum(sizes))
        values.append(items[chosen])
        part["pairs"] += len(rows)
        part["queries"] += int(np.count_nonzero(sizes))
        if name == "train":
            np.add.at(self.counts, items[chosen], 1)

    def _report(self, cold: dict[str, Any]) -> dict[str, Any]:
        world = self.world
        none: dict[str, int] = {"pairs": 0, "queries": 0, "items": 0, "rounds": 0}
        default = {field.name: field.default for field in fields(world)}
        keys = SPEC_KEYS | {key: name for key, name in DECIMAL_KEYS.items() if getattr(world, name) != default[name]}
        spec = ",".join(f"{key}={getattr(world, name)}" for key, name in keys.items())
        return {
            "source": PREFIX + spec,
            "formats": ["planted"],
            "read": {"all": world.pairs},
            "dropped": {"duplicates": 0, "min_counts": none},
            "kept": world.pairs,
            "queries": world.num_queries,
            "items": world.num_items,
            "splits": self.parts,
            "cold_items": cold,
            "queries_without_history": {name: {"queries": 0, "samples": []} for name in self.parts if name != "train"},
            "queries_without_pairs": 0,
        }


def item_name(external: int, num_items: int) -> str:
    """The external id with this number.

    >>> item_name(7, 2000)
    'item-0007'
    """
    return f"item-{external:0{len(str(num_items - 1))}d}"


def ingest_planted(source: str, out: Path, options: IngestOptions) -> Dataset:
    """``xclass ingest planted:…``: the options test_fraction, valid_fraction and seed apply; others are refused.

    A seed in the source goes before the option.
    """
    check_use(options, "planted data", source)
    if options.split not in ("auto", "random"):
        raise ConfigError(
            "planted data is split at random", where="--split", wanted="random", got=options.split, do="leave it out"
        )
    values = {"seed": options.seed, **parse_planted(source)}
    try:
        model = PlantedModel(**values)
    except InputError as error:
        raise ConfigError(error.what, where=source, wanted=error.wanted, got=error.got, do=error.do) from None
    return model.write_dataset(out, options.test_fraction, options.valid_share("random"))


def _write_items(folder: Path, world: PlantedWorld, key: np.ndarray, most: int) -> None:
    """Row by row in the order of item numbers; all columns are made from the keys while they stream to the file."""
    keys, width = pl.col("key"), len(str(world.num_items - 1))
    external = keys % world.num_items
    digits = external.cast(pl.String).str.zfill(width)
    pl.LazyFrame({"key": key}).select(
        ("item-" + digits).alias("item_id"),
        (most - keys // world.num_items).alias("train_count"),
        (world_item(external, world.num_items) % world.num_topics).cast(pl.Int32).alias("topic"),
    ).sink_parquet(folder / "items.parquet", engine="streaming")


def _write_queries(folder: Path, num_queries: int) -> None:
    width = len(str(num_queries - 1))
    frame = pl.LazyFrame({"n": np.arange(num_queries)})
    digits = pl.col("n").cast(pl.String).str.zfill(width)
    frame.select(("query-" + digits).alias("query_id")).sink_parquet(folder / "queries.parquet", engine="streaming")
