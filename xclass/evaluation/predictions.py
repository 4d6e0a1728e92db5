"""Evaluation of lists in files, from any system: read once, in a stream, without a Python object per row.

result = xclass.evaluate_predictions("topk.parquet", "test.parquet", k=[10, 20])
print(result.table())
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from torch import Tensor

from xclass.data.id_hash import KeyNumbers, first_of_each
from xclass.data.ids import none_known
from xclass.errors import DataError, InputError
from xclass.evaluation.evaluate import evaluate, metrics_at
from xclass.evaluation.prediction_files import ITEM, QUERY, RANK
from xclass.evaluation.truth import PairFiles, Truth, check_ids, read_truth
from xclass.io.list_manifest import check_lists
from xclass.metrics import Evaluation, MetricName, Propensities
from xclass.queries.given_files import temporary_folder, unreadable
from xclass.runtime.progress import Progress, say
from xclass.types import TopK

ROWS_AT_ONCE = 1 << 20
ROWS_PER_PASS = 1 << 25
FEW = 0.1  # of the smaller side: that few ids in common are told
DISJOINT = (
    "check that these are the same ids; if the lists miss every positive, give the train pairs: they name all items"
)
Rows = Path | str | pl.DataFrame | pl.LazyFrame  # or a table of pandas or Arrow
POLICIES = {
    "queries": "the queries of the truth; a list for another query is left out, and counted",
    "missing_lists": "a query of the truth without a list counts 0",
    "repeated_predictions": "an item that comes again in a list is left out, and the list closes up",
    "repeated_positives": "a pair that comes again in the truth counts once",
    "unknown_items": "an item that is neither in truth nor train is a miss, and belongs to the catalogue",
}


class _Apart(Exception):
    """The rows of a query do not stand together in the file."""


class _Rows(NamedTuple):
    """Some rows of the file: keys of query and item, order (rising) and tie."""

    query: np.ndarray
    item: np.ndarray
    order: np.ndarray
    tie: np.ndarray

    def take(self, rows: np.ndarray | slice) -> _Rows:
        return _Rows(*(column[rows] for column in self))


def evaluate_predictions(
    predictions: Rows,
    truth: Rows,
    k: Sequence[int] | int = (10, 20),
    metrics: Sequence[MetricName] | None = None,
    *,
    train: Rows | None = None,
    num_items: int | None = None,
    by_popularity: bool = False,
    propensity: tuple[float, float] | None = None,
) -> Evaluation:
    """Measure predictions against truth: files, directories of files or tables, as
    :mod:`xclass.evaluation.prediction_files` says.

    The truth is held in memory, the predictions are read in parts of about a million rows. Text files become Parquet
    first, in the folder for temporary files, with about as many bytes as they have compressed. Where a query's rows do
    not stand together, they are sorted first, in several passes over the file, 32 million rows in memory at a time.

    Args:
        predictions: rows of query_id, item_id and rank or score or both. With a rank, that is the order, else the
            falling score; equal scores are a tie, and ties count against the positive.
        truth: rows of query_id, item_id.
        k: cut-offs for the usual metrics, if ``metrics`` is None.
        train: rows of query_id, item_id that came before: gives the popularity baseline, cold positives, queries with
            and without history apart, mean popularity, psp and psndcg.
        num_items: items of the catalogue, for coverage and Gini; otherwise the different items of all files.
        by_popularity: recall of popular, middling, rare and cold items apart; needs ``train``.
        propensity: A and B of psp and psndcg; .55 and 1.5 when None.

    Raises:
        DataError: a file or column that is missing or of the wrong type, a null id, a NaN score; not one query id of
            the predictions is in the truth, or not one item id in truth or train.
        InputError: ``num_items`` is less than the files hold; something needs ``train``.
    """
    wanted = list(metrics) if metrics is not None else metrics_at(k)
    if isinstance(predictions, str | Path) and Path(predictions).is_dir():
        check_lists(Path(predictions))
    with temporary_folder() as folder:
        files = PairFiles.open(predictions, truth, train, folder)
        known = read_truth(files)
        if by_popularity and known.item_counts is None:
            raise InputError("popularity bands need train pairs", do="pass the file of train pairs")

        def measured(frames: list[pl.LazyFrame], known: Truth) -> Evaluation:
            return _measure(_Reader(files, known, num_items), frames, total, wanted, by_popularity, propensity)

        frame, total = files.lists(), _count_rows(files)
        try:
            return measured([frame], known)
        except _Apart:
            say(f"{files.predictions.path}: the rows of a query do not stand together; sorting them")
        known = read_truth(files)  # the first pass has numbered items of the predictions, too
        return measured(_sorted(frame, -(-total // ROWS_PER_PASS)), known)


def _count_rows(files: PairFiles) -> int:
    with unreadable(files.predictions.path):
        count = int(files.predictions.frame.select(pl.len()).collect(engine="streaming").item())
    if not count:
        raise DataError("there are no predictions", where=files.predictions.path, wanted="at least one row")
    return count


def _sorted(frame: pl.LazyFrame, passes: int) -> list[pl.LazyFrame]:
    """The same rows, those of a query together: some of the queries in each pass over the file."""
    part = pl.col("query").hash(1) % passes
    return [frame.filter(part == number).sort("query", "order", "item") for number in range(passes)]


def _measure(
    reader: _Reader,
    frames: list[pl.LazyFrame],
    total: int,
    metrics: list[MetricName],
    by_popularity: bool,
    constants: tuple[float, float] | None,
) -> Evaluation:
    truth = reader.truth
    propensities = None
    if truth.item_counts is not None and any(metric.name in ("psp", "psndcg") for metric in metrics):
        propensities = Propensities.of(truth.item_counts, truth.train_queries, *(constants or ()))
    result = evaluate(
        reader.lists(frames, total),
        truth.positives,
        metrics,
        item_counts=truth.item_counts,
        seen=truth.seen,
        propensities=propensities,
        num_items=reader.num_items,
        by_popularity=by_popularity,
    )
    return replace(result, files=reader.told(), query_ids=truth.query_ids)


class _Reader:
    """Rows in, lists by query and item number out; counts what was left out."""

    def __init__(self, files: PairFiles, truth: Truth, num_items: int | None) -> None:
        self.path, self.truth, self._given = files.predictions.path, truth, num_items
        self._files, self._num_known = files, len(truth.items)
        self._met = np.zeros(self._num_known, dtype=np.bool_)
        self._by_rank = RANK in files.predictions.names
        self._came = np.zeros(len(truth.positives), dtype=np.bool_)
        self._unknown = KeyNumbers(np.empty(0, dtype=np.int64))
        self._row = self._repeated = self._gaps = 0

    def lists(self, frames: list[pl.LazyFrame], total: int) -> Iterator[tuple[Tensor, TopK]]:
        """(query numbers, lists), part by part."""
        with Progress("evaluate", total, "rows") as progress:
            for frame in frames:
                held: list[_Rows] = []
                for rows in self._parts(frame):
                    progress.advance(len(rows.query))
                    whole, rest = _cut(rows)
                    held.append(whole)
                    if len(rows.query) != len(rest.query):
                        yield self._lists(_joined(held))
                        held = []
                    held.append(rest)
                yield self._lists(_joined(held))
        self._check_matches()
        if self._gaps:
            say(
                f"{self.path}: in {self._gaps:,} lists the ranks begin after 1 or leave some out, as in lists that were"
                " filtered: their items are measured at the places 1, 2, … that they have in the file"
            )

    def num_items(self) -> int:
        """Items of the catalogue, when all lists have been read."""
        found = len(self.truth.items)
        if self._given is not None and self._given < found:
            raise InputError(
                "the files hold more items than the catalogue", wanted=f"{found:,} or more", got=self._given
            )
        return found if self._given is None else self._given

    def told(self) -> dict[str, Any]:
        """What was counted and decided."""
        return {
            "num_unknown_queries": len(self._unknown),
            "num_repeated_predictions": self._repeated,
            "num_lists_with_rank_gaps": self._gaps,
            "num_repeated_positives": self.truth.repeated,
            "num_items": self.num_items(),
            "items": "as given" if self._given is not None else "the different items of all files",
            "order": RANK if self._by_rank else "score, falling",
            "policies": POLICIES,
        }

    def _check_matches(self) -> None:
        """DataError where the ids of predictions and truth are not of the same things; a note where few are."""
        met, new_items = int(self._met.sum()), len(self.truth.items) - self._num_known
        queries = int(self._came.sum()), len(self._unknown), len(self._came)
        for name, (matched, others, known) in ((QUERY, queries), (ITEM, (met, new_items, self._num_known))):
            what, places = name.removesuffix("_id"), "truth" + self._and_train(name)
            if not matched and others:
                given, there = (file.examples(name) for file in (self._files.predictions, self._files.truth))
                raise none_known(what, given, there, self.path, f"in {places}", DISJOINT)
            if matched < FEW * min(matched + others, known):
                told = f"{matched:,} of {matched + others:,}, and there are {known:,} in {places}"
                say(f"{self.path}: few {what} ids match: {told}. Are these the same ids?")

    def _and_train(self, name: str) -> str:
        return " and train pairs" if name == ITEM and self._files.train is not None else ""

    def _parts(self, frame: pl.LazyFrame) -> Iterator[_Rows]:
        with unreadable(self.path):
            for part in frame.collect_batches(chunk_size=ROWS_AT_ONCE):
                yield self._rows(part)

    def _rows(self, part: pl.DataFrame) -> _Rows:
        check_ids(self.path, part["query"], part["item"], self._row)
        for name in ("order", "tie"):
            bad = part[name].is_null() | part[name].is_nan()
            if bad.any():
                where = f"{self.path}, row {self._row + int(bad.arg_max() or 0) + 1:,}"
                raise DataError("a rank or score is no number", where=where, got="null or NaN")
        self._row += len(part)
        return _Rows(*(part[name].to_numpy(writable=True) for name in ("query", "item", "order", "tie")))

    def _lists(self, rows: _Rows) -> tuple[Tensor, TopK]:
        """The lists of some rows, all of a query's among them."""
        starts = _starts(rows.query)
        numbers = self.truth.queries.of(rows.query[starts])
        known = numbers >= 0
        lengths = np.diff(np.append(starts, len(rows.query)))
        if not known.all():
            self._unknown.of(rows.query[starts[~known]], grow=True)
            rows, lengths, numbers = rows.take(np.repeat(known, lengths)), lengths[known], numbers[known]
        if self._came[numbers].any() or len(np.unique(numbers)) < len(numbers):
            raise _Apart
        self._came[numbers] = True
        rows, offsets = _in_order(rows), np.append(0, np.cumsum(lengths))
        if self._by_rank:
            self._gaps += _with_gaps(rows.order, offsets)
        items = self.truth.items.of(rows.item, grow=True)
        self._met[items[items < self._num_known]] = True
        ties, keep = rows.tie, first_of_each(offsets, items)
        if keep is not None:
            self._repeated += int((~keep).sum())
            offsets = np.append(0, np.cumsum(keep))[offsets]
            items, ties = items[keep], ties[keep]
        return torch.from_numpy(numbers), TopK(*map(torch.from_numpy, (offsets, items, ties)))


def _with_gaps(ranks: np.ndarray, offsets: np.ndarray) -> int:
    """How many lists have ranks, in rising order, that begin after 1 or leave some out."""
    before = np.zeros_like(ranks)
    before[1:] = ranks[:-1]
    before[offsets[:-1][np.diff(offsets) > 0]] = 0.0
    rows = np.flatnonzero(ranks - before > 1)
    return len(np.unique(np.searchsorted(offsets, rows, side="right")))


def _starts(query: np.ndarray) -> np.ndarray:
    """First row of every run of one query."""
    return np.flatnonzero(np.concatenate([np.ones(min(1, len(query)), dtype=np.bool_), query[1:] != query[:-1]]))


def _cut(rows: _Rows) -> tuple[_Rows, _Rows]:
    """All rows but those of the last query, which may go on; and those."""
    starts = _starts(rows.query)
    last = int(starts[-1]) if len(starts) else 0
    return rows.take(slice(0, last)), rows.take(slice(last, None))


def _joined(parts: list[_Rows]) -> _Rows:
    if not parts:
        none, empty = np.empty(0, dtype=np.int64), np.empty(0)
        return _Rows(none, none, empty, empty)
    return parts[0] if len(parts) == 1 else _Rows(*map(np.concatenate, zip(*parts, strict=True)))


def _in_order(rows: _Rows) -> _Rows:
    """Lists sorted by order, equal ones by item key: what comes out does not depend on the order of the file."""
    same = rows.query[1:] == rows.query[:-1]
    wrong = same & (rows.order[1:] <= rows.order[:-1])
    if not wrong.any():
        return rows
    runs = np.append(0, np.cumsum(~same))
    touched = np.zeros(runs[-1] + 1, dtype=np.bool_)
    touched[runs[1:][wrong]] = True
    places = np.flatnonzero(touched[runs])
    some = rows.take(places)
    order = np.lexsort((some.item, some.tie, some.order, runs[places]))
    return _Rows(*(_put(column, places, part[order]) for column, part in zip(rows, some, strict=True)))


def _put(column: np.ndarray, places: np.ndarray, values: np.ndarray) -> np.ndarray:
    changed = column.copy()
    changed[places] = values
    return changed
