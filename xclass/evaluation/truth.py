"""Truth and train pairs of any system, numbered: queries by their id, items by falling train count."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from xclass.data.id_hash import KeyNumbers
from xclass.errors import DataError
from xclass.evaluation.prediction_files import ITEM, QUERY, PairFile, scan_pairs, scan_predictions
from xclass.queries.given_files import unreadable
from xclass.runtime.progress import say
from xclass.types import Ragged, offsets_of


@dataclass(frozen=True, slots=True)
class PairFiles:
    """The files of one evaluation, opened together: an id column that is text in one of them is text in all."""

    predictions: PairFile
    truth: PairFile
    train: PairFile | None
    text_queries: bool
    text_items: bool

    @classmethod
    def open(cls, predictions: Any, truth: Any, train: Any, folder: Path) -> PairFiles:
        """Look at the columns of all files; DataError for what is missing or of the wrong type.

        Text files are read and become Parquet in ``folder``, which must stay as long as the files are read.
        """
        files = [scan_predictions(predictions, folder), scan_pairs(truth, folder)]
        files += [] if train is None else [scan_pairs(train, folder, "train pairs")]
        text_queries, text_items = (any(file.has_text(name) for file in files) for name in (QUERY, ITEM))
        return cls(files[0], files[1], files[2] if len(files) > 2 else None, text_queries, text_items)

    def lists(self) -> pl.LazyFrame:
        """The predictions: columns query, item, order, tie."""
        return self.predictions.keyed(self.text_queries, self.text_items)

    def pairs(self, file: PairFile) -> pl.DataFrame:
        """Truth or train: columns query, item, and the ids."""
        frame = file.frame.with_columns(file.keyed_columns(self.text_queries, self.text_items))
        with unreadable(file.path):
            pairs = frame.select("query", "item", QUERY, ITEM).collect(engine="streaming")
        check_ids(file.path, pairs["query"], pairs["item"], 0)
        return pairs


@dataclass(frozen=True, slots=True)
class Truth:
    """What the lists are measured against.

    query_ids: of query number 0, 1, …; rising.
    queries, items: key → number. Item numbers fall with train count, then rise with the id.
    positives: Ragged, query number → distinct item numbers, rising.
    repeated: pairs that came again.
    item_counts: int64, train pairs of every item of truth and train; None without train pairs.
    seen: Ragged, query number → its train items; None without train pairs.
    train_queries: queries with a train pair.
    """

    query_ids: pl.Series
    queries: KeyNumbers
    items: KeyNumbers
    positives: Ragged
    repeated: int
    item_counts: Tensor | None
    seen: Ragged | None
    train_queries: int


def read_truth(files: PairFiles) -> Truth:
    """Read truth and train pairs. Memory: both of them, some 50 bytes a pair while they are numbered."""
    pairs = files.pairs(files.truth)
    if not len(pairs):
        raise DataError("this file holds no pair", where=files.truth.path)
    train = None if files.train is None else files.pairs(files.train).unique(["query", "item"])
    named = pairs.select("query", QUERY).unique("query").sort(QUERY)
    queries = KeyNumbers(named["query"].to_numpy(writable=True))
    items, counts = _numbered_items(pairs, train)
    positives = _ragged(pairs, queries, items, len(named))
    if train is None:
        return Truth(named[QUERY], queries, items, positives, len(pairs) - len(positives.values), None, None, 0)
    for name in ("query", "item"):
        if len(train) and not train[name].is_in(pairs[name].implode()).any():
            shown = " and ".join(str(some[f"{name}_id"][0]) for some in (pairs, train))
            say(f"not one {name} id is in both truth and train pairs, such as {shown}. Are these the same ids?")
    return Truth(
        named[QUERY],
        queries,
        items,
        positives,
        len(pairs) - len(positives.values),
        torch.from_numpy(counts),
        _ragged(train, queries, items, len(named)),
        train["query"].n_unique(),
    )


def check_ids(path: Path, queries: pl.Series, items: pl.Series, rows_before: int) -> None:
    """DataError where an id is missing."""
    for name, keys in ((QUERY, queries), (ITEM, items)):
        if keys.null_count():
            row = rows_before + int(keys.is_null().arg_max() or 0) + 1
            raise DataError("an id is missing", where=f"{path}, column {name}", got=f"null in row {row:,}")


def _numbered_items(pairs: pl.DataFrame, train: pl.DataFrame | None) -> tuple[KeyNumbers, np.ndarray]:
    there = [pairs.select("item", ITEM).unique("item").with_columns(count=pl.lit(0, pl.Int64))]
    if train is not None:
        there.append(train.group_by("item").agg(pl.col(ITEM).first(), pl.len().cast(pl.Int64).alias("count")))
    if len({frame.schema[ITEM] for frame in there}) > 1:
        there = [frame.with_columns(pl.col(ITEM).cast(pl.String)) for frame in there]
    together = pl.concat(there).group_by("item").agg(pl.col(ITEM).first(), pl.col("count").sum())
    ordered = together.sort(["count", ITEM], descending=[True, False])
    return KeyNumbers(ordered["item"].to_numpy(writable=True)), ordered["count"].to_numpy(writable=True)


def _ragged(pairs: pl.DataFrame, queries: KeyNumbers, items: KeyNumbers, num_queries: int) -> Ragged:
    """Distinct pairs of known queries, by number."""
    rows, columns = queries.of(pairs["query"].to_numpy(writable=True)), items.of(pairs["item"].to_numpy(writable=True))
    stride = max(len(items), 1)
    keys = np.sort(rows[rows >= 0] * stride + columns[rows >= 0])
    keys = keys[np.append(True, keys[1:] != keys[:-1])[: len(keys)]]
    rows = keys // stride
    lengths = torch.from_numpy(np.bincount(rows, minlength=num_queries))
    return Ragged(offsets_of(lengths), torch.from_numpy(keys - rows * stride))
