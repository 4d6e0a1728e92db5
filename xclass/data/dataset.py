"""The dataset directory: open one, read its splits as memory-mapped Ragged, look up external ids.

dataset.json       format version, counts, split, ingest report, SHA-256 of every file
items.parquet      row number = item number: item_id, train_count, …; falling train_count, then id
queries.parquet    row number = query number: query_id; rising id
train/ valid/ test/    offsets.npy (int64) values.npy (int32 or int64) [weights.npy] [times.npy]
query_features/<name>/ item_features/<name>/    offsets.npy values.npy weights.npy (float32) vocabulary.parquet:
                       sparse features, row = query or item number; a vocabulary's row number is the feature's number
hidden/                offsets.npy values.npy: items that a query is never shown

Of sequences (plain text) queries are positions: train, valid and test one after the other, a next item each, and
"sequence" in dataset.json says how the items before a position are its history.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl
import torch
from torch import Tensor

from xclass.data.dataset_record import DatasetRecord
from xclass.data.given import checked_path
from xclass.data.lists import Joined, Lists
from xclass.data.stored import FINITE, FLOATS, INTEGERS, Wanted, map_array, offsets_wanted
from xclass.data.vectorizer import FILE as VECTORISER
from xclass.data.vectorizer import Vectoriser
from xclass.data.windows import SequenceFacts, Windows
from xclass.errors import ArtefactError, lookup, nearest
from xclass.io.frames import COUNTS, Kinds, check_columns, read_parquet, reading, scan_parquet
from xclass.io.manifest import read_manifest, verified_file, verify_files
from xclass.runtime.once import once
from xclass.types import Ragged

TEXT = "text"  # the name of what a vectoriser makes of texts

MANIFEST = "dataset.json"
KIND = "dataset"
FORMAT_VERSION = 1
SPLITS = ("train", "valid", "test")
SIDES = ("query", "item")
HIDDEN = "hidden"  # items that a query must never be shown
SEQUENCE = "sequence"  # in the manifest: queries are positions in sequences
COUNTS_PER_BLOCK = 1 << 22
TIME_TYPES = ("int64", "float64")
ID_TYPES = (pl.Int64, pl.String)
Found = TypeVar("Found")
TABLES: dict[str, dict[str, Kinds]] = {
    "items.parquet": {"item_id": ID_TYPES, "train_count": COUNTS},
    "queries.parquet": {"query_id": ID_TYPES},
}


class Dataset:
    """An open, immutable dataset directory. Cheap to open: nothing is read before it is asked for.

    A file is checked when it is first asked for, once a process: it is the one of the manifest (SHA-256), and its
    numbers are in range. That reads it once, at about 1.5 GB/s.

    Raises:
        ArtefactError: not a dataset, of another format version, or a file is missing, cut or altered; whatever reads
            files raises it too.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._mapped: dict[str, Ragged] = {}
        self._tables: dict[str, Path] = {}
        self._opened = _identity(self.path / MANIFEST)
        self.manifest: dict[str, Any] = read_manifest(self.path, MANIFEST, KIND, FORMAT_VERSION, DatasetRecord)
        self.num_queries: int = self.manifest["num_queries"]
        self.num_items: int = self.manifest["num_items"]
        self.splits: tuple[str, ...] = tuple(name for name in SPLITS if name in self.manifest["splits"])

    def __repr__(self) -> str:
        pairs = ", ".join(f"{name} {self.manifest['splits'][name]['pairs']:,}" for name in self.splits)
        return f"Dataset({self.path}: {self.num_queries:,} queries, {self.num_items:,} items; pairs: {pairs})"

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the hashes of all files: equal for equal content, wherever it lies."""
        return hashlib.sha256(json.dumps(self.manifest["files"], sort_keys=True).encode()).hexdigest()

    def split(self, name: str) -> Ragged:
        """The pairs of a split, Ragged by query (num_queries lists), memory-mapped; items in time or file order.

        A split stays mapped once it was asked for, so that it can be read on when the dataset is replaced.
        """
        if name in self._mapped:
            return self._mapped[name]
        if name not in self.splits:
            raise ArtefactError(
                f'this dataset has no split "{name}"', where=self.path, do=nearest(str(name), self.splits)
            )
        self._mapped[name] = self._ragged(name, self.num_items, least_weight=0)
        return self._mapped[name]

    def lengths(self, folder: str) -> Tensor:
        """int64, the length of each list of a split, or of the features ``query_features/NAME``; no value is read."""
        return torch.from_numpy(np.diff(self._array(f"{folder}/offsets.npy", offsets_wanted(*self._shape(folder)))))

    def times(self, split: str) -> np.ndarray | None:
        """The time of each pair of a split, memory-mapped: int64 or float64; None where there are none."""
        name = f"{split}/times.npy"
        pairs = self.manifest["splits"][split]["pairs"]
        return self._array(name, Wanted(TIME_TYPES, pairs)) if self._has(name) else None

    def check_unchanged(self) -> None:
        """ArtefactError when another dataset has taken the place of this one (``ingest --append``) since it was opened:
        its numbers of items and queries are others. Arrays that were mapped before stay readable."""
        if _identity(self.path / MANIFEST) != self._opened:
            raise ArtefactError("this dataset was replaced while it was open", where=self.path, do="open it again")

    @property
    def holds_documents(self) -> bool:
        """Whether it was made from documents: queries without a history, in one part of the split each."""
        return "documents" in self.manifest.get("report", {})

    @property
    def sequence(self) -> SequenceFacts | None:
        """How its sequences are read, where queries are positions of a text; None where histories are sets."""
        return sequence_facts(self.manifest)

    @once
    def windows(self) -> Windows | None:
        """The items before every position, oldest first; None where queries are no positions."""
        facts = self.sequence
        if facts is None:
            return None
        stop = facts.border_item if facts.borders == "stop" else None
        return Windows([self.split(name).values for name in self.splits], facts.context, stop)

    @property
    def num_train_queries(self) -> int:
        """Train documents, those without a label too; of other datasets the queries with a train pair."""
        if self.holds_documents:
            return int(self.manifest["report"]["documents"].get("train", 0))
        return int(self.manifest["splits"]["train"]["queries"])

    @property
    def propensity(self) -> tuple[float, float]:
        """A and B of the propensities, as they were given when it was ingested."""
        options = self.manifest.get("options", {})
        return options.get("propensity_a", 0.55), options.get("propensity_b", 1.5)

    def history(self, split: str) -> Lists:
        """What a query tower may look at for every query before ``split``: what it has seen; of positions in sequences
        the items just before, in order. Nothing is read before lists are taken."""
        return self.windows or self.seen(split)

    def seen(self, split: str) -> Ragged | Joined:
        """What is known of every query before ``split``: train, and valid too when ``split`` is test.

        It is what retrieval leaves out, and as a rule the query's history. Of positions in sequences nothing: what came
        before may come again. Nothing is read before lists are taken.
        """
        if self.sequence is not None:
            return Ragged(torch.zeros(1, dtype=torch.int64).expand(self.num_queries + 1), torch.zeros(0).long())
        parts = [self.split("train")]
        if split == "test" and "valid" in self.splits:
            parts.append(self.split("valid"))
        plain = [part.with_values(part.values) for part in parts]
        return plain[0] if len(plain) == 1 else Joined(*plain)

    @once
    def query_features(self) -> dict[str, Ragged]:
        """Name → sparse features of every query, Ragged with float32 weights, memory-mapped; rising within a list."""
        return self._features("query")

    @once
    def item_features(self) -> dict[str, Ragged]:
        """Name → sparse features of every item, as :attr:`query_features`."""
        return self._features("item")

    @once
    def hidden(self) -> Ragged | None:
        """Items that a query must never be shown (a document that is itself a label), Ragged by query; None without."""
        return self._ragged(HIDDEN, self.num_items) if HIDDEN in self.manifest else None

    def feature_sizes(self, side: str) -> dict[str, int]:
        """Name → number of different features that there can be, of side "query" or "item"."""
        return {name: part["size"] for name, part in self._described_features(side).items()}

    def vocabulary(self, side: str, name: str) -> pl.DataFrame:
        """One row per feature number: ``feature``, its name or its number in the file, and ``count``: the train queries
        (of side "item": the items) that have it; and what else its making left (``idf``)."""
        known = self._described_features(side)
        if name not in known:
            raise ArtefactError(
                f'this dataset has no {side} features "{name}"', where=self.path, do=nearest(name, list(known))
            )
        file = f"{side}_features/{name}/vocabulary.parquet"
        columns: dict[str, Kinds] = {"feature": (*ID_TYPES, *COUNTS), "count": COUNTS}
        check_columns(self.file(file), known[name]["size"], columns)
        return self._read(file)

    def feature_counts(self, side: str, name: str) -> tuple[Tensor, int]:
        """int64 (F,): the column ``count`` of the vocabulary; and how many train queries (or items) there are."""
        counts = torch.from_numpy(self.vocabulary(side, name)["count"].cast(pl.Int64).to_numpy().copy())
        return counts, self.num_train_queries if side == "query" else self.num_items

    def vectoriser(self, side: str = "query", name: str = TEXT) -> Vectoriser:
        """What made the features of texts, for texts that the dataset does not have; ArtefactError when nothing did."""
        folder = f"{side}_features/{name}"
        if name not in self._described_features(side) or f"{folder}/{VECTORISER}" not in self.manifest["files"]:
            raise ArtefactError(
                "this dataset was not made from raw text",
                where=self.path,
                wanted=f"features of a vectoriser in {side}_features/{name}",
                do="give features, or ingest the texts: xclass ingest --format text",
            )
        return Vectoriser.load(self.file(f"{folder}/{VECTORISER}"), self.vocabulary(side, name))

    def _described_features(self, side: str) -> dict[str, Any]:
        lookup("side", side, dict.fromkeys(SIDES))
        found: dict[str, Any] = self.manifest.get("features", {}).get(side, {})
        return found

    def _features(self, side: str) -> dict[str, Ragged]:
        sizes = self.feature_sizes(side)
        return {name: self._ragged(f"{side}_features/{name}", size) for name, size in sizes.items()}

    @once
    def items(self) -> pl.DataFrame:
        """One row per item number: item_id, train_count and what else ingest found (title, …)."""
        return self._read("items.parquet")

    @property
    def item_texts(self) -> pl.Series:
        """(N,) strings: what each item is called, its title; its id where it has none. Read anew at every access."""
        ids = self._read("items.parquet", ["item_id"])["item_id"].cast(pl.String)
        if "title" not in self.items.columns:
            return ids.alias("text")
        return self.items.select(pl.coalesce(pl.col("title").cast(pl.String), ids).alias("text"))["text"]

    @once
    def queries(self) -> pl.DataFrame:
        """One row per query number: query_id."""
        return self._read("queries.parquet")

    @property
    def item_counts(self) -> Tensor:
        """int32 (N,), train pairs of each item, as ingest numbers them never rising. Read anew at every access."""
        return self._checked(lambda: read_item_counts(self._table("items.parquet")))

    def file(self, name: str) -> Path:
        """The path of one of its files, whose content is the manifest's."""
        return self._checked(lambda: verified_file(self.path, self.manifest, name))

    def _table(self, name: str) -> Path:
        """The path of a table that has its columns and rows."""
        if name not in self._tables:
            rows = self.num_items if name == "items.parquet" else self.num_queries
            self._tables[name] = checked_table(self.file(name), rows)
        return self._tables[name]

    def _read(self, name: str, columns: list[str] | None = None) -> pl.DataFrame:
        path = self._table(name) if name in TABLES else self.file(name)
        return self._checked(lambda: read_ours(path, columns))

    def _array(self, name: str, wanted: Wanted) -> np.ndarray:
        return self._checked(lambda: map_array(self.path, self.manifest, name, wanted))

    def _has(self, name: str) -> bool:
        """Whether there is such a file: one that the manifest does not name is an error when it is read."""
        return name in self.manifest["files"] or (self.path / name).exists()

    def _shape(self, folder: str) -> tuple[int, int]:
        """How many lists lie below a folder, and how many values they have together."""
        side, _, name = folder.partition("_features/")
        if name:
            rows = self.num_queries if side == "query" else self.num_items
            return rows, int(self._described_features(side)[name]["values"])
        described = self.manifest[HIDDEN] if folder == HIDDEN else self.manifest["splits"][folder]
        return self.num_queries, int(described["pairs"])

    def _ragged(self, folder: str, size: int, least_weight: float = -FINITE) -> Ragged:
        """What :func:`write_ragged` wrote below a folder, memory-mapped: values below ``size``."""
        lists, values = self._shape(folder)
        wanted = {"offsets": offsets_wanted(lists, values), "values": Wanted(INTEGERS, values, 0, size - 1)}
        if self._has(f"{folder}/weights.npy"):
            wanted["weights"] = Wanted(FLOATS, values, least_weight)
        arrays = (self._array(f"{folder}/{name}.npy", each) for name, each in wanted.items())
        return Ragged.checked(*map(torch.from_numpy, arrays))

    def _checked(self, read: Callable[[], Found]) -> Found:
        """What ``read`` gives. Where the dataset was replaced meanwhile, that is what is said."""
        try:
            return read()
        finally:
            self.check_unchanged()

    def verify(self) -> None:
        """Check the SHA-256 of every file; ArtefactError names the first that differs."""
        verify_files(self.path, self.manifest)


def sequence_facts(manifest: dict[str, Any]) -> SequenceFacts | None:
    """What the manifest of a dataset, or of a run over it, says about sequences."""
    return SequenceFacts(**manifest[SEQUENCE]) if SEQUENCE in manifest else None


def checked_table(path: Path, rows: int | None = None) -> Path:
    """``path``, of an items.parquet or queries.parquet that has its columns (and so many rows); else ArtefactError."""
    check_columns(path, rows, TABLES[path.name])
    return path


def read_ours(path: Path, columns: list[str] | None = None) -> pl.DataFrame:
    """A Parquet file of ours; ArtefactError where it can't be read."""
    with reading(path):
        return read_parquet(path, columns)


def read_item_counts(path: Path) -> Tensor:
    """int32 (N,), the column ``train_count`` of an ``items.parquet``; int64 where a count needs it.

    Memory: 4 bytes an item and a block of rows.
    """
    column = scan_parquet(path).select(pl.col("train_count").cast(pl.Int64))
    rows, most = column.select(pl.len(), pl.col("train_count").max().alias("most")).collect(engine="streaming").row(0)
    counts = torch.empty(rows, dtype=torch.int32 if (most or 0) < 1 << 31 else torch.int64)
    for start in range(0, rows, COUNTS_PER_BLOCK):
        block = column.slice(start, COUNTS_PER_BLOCK).collect()["train_count"].to_numpy()
        counts[start : start + len(block)] = torch.from_numpy(block.copy())
    return counts


def _identity(path: Path) -> tuple[int, int]:
    """Tells a file from another that took its name."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return 0, 0
    return found.st_ino, found.st_mtime_ns


def open_dataset(path: Path | str) -> Dataset:
    """Open a dataset directory that ``xclass ingest`` made."""
    return Dataset(checked_path(path, "a dataset"))


def write_ragged(
    folder: Path,
    offsets: np.ndarray,
    values: np.ndarray,
    weights: np.ndarray | None = None,
    times: np.ndarray | None = None,
) -> None:
    """Write the arrays of one Ragged below ``folder`` under the names that :class:`Dataset` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "offsets.npy", offsets.astype(np.int64))
    np.save(folder / "values.npy", values)
    if weights is not None:
        np.save(folder / "weights.npy", weights.astype(np.float32))
    if times is not None:
        np.save(folder / "times.npy", times)
