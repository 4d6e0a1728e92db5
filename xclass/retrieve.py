"""Batch retrieval: queries in, top-k lists out, in memory that does not grow with the number of queries.

queries = dataset_queries(dataset)
results = retrieve(model, index, queries.batches(), k=100)
write_topk("topk.parquet", results, queries.ids, dataset.items["item_id"], k=100)
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import polars as pl
import torch
from torch import Tensor

from xclass.errors import ArtefactError, InputError, lookup
from xclass.index.approximate import ApproximateIndex
from xclass.index.checks import checked_k
from xclass.index.kinds import Index
from xclass.index.subset import SubsetIndex
from xclass.manifest import atomic_file
from xclass.progress import Progress
from xclass.types import Batch, Ragged, TopK, concat_ragged, offsets_of

PART_ROWS = 1 << 20
LONG_DENY_LIST = 1000

Results = Iterable[tuple[Tensor, TopK]]


class RetrievalModel(Protocol):
    """What retrieval needs of a model."""

    def query_vectors(self, batch: Batch) -> Tensor:
        """(B,D) vectors of the queries of a batch."""


def retrieve(
    model: RetrievalModel,
    index: Index,
    batches: Iterable[tuple[Tensor, Batch]],
    k: int,
    *,
    include_seen: bool = False,
    exclude: Tensor | None = None,
    total: int | None = None,
    label: str = "retrieve",
) -> Iterator[tuple[Tensor, TopK]]:
    """The top k of each query, batch by batch: (positions, lists).

    Batches are searched together, as many queries as the index takes best at once.

    Args:
        batches: (positions, batch), as ``Queries.batches()`` gives them; positions come back with the lists.
        include_seen: keep items of a query's history; they are left out otherwise.
        exclude: int64, item numbers that nobody gets. See :func:`restricted` for long lists.
        total, label: number of queries and a word, for the progress on stderr.

    Raises:
        InputError: k < 1 at once; NaN in a vector or other dimensions when its batch comes.
    """
    checked_k(k)
    progress = Progress(label, total, "queries")
    return _retrieve(model, index, batches, k, include_seen, exclude, progress)


def restricted(index: Index, candidates: Tensor | None, exclude: Tensor | None) -> tuple[Index, Tensor | None]:
    """The index to search, and what is left to exclude per query, for a global allow and a global deny list.

    :class:`SubsetIndex` says how an allow list is searched. A deny list becomes the allow list of all others; one of up
    to 1000 items is added to each query's exclusions instead where the search is exact.
    """
    inside = isinstance(index, ApproximateIndex)
    if candidates is None and (exclude is None or (len(exclude) <= LONG_DENY_LIST and not inside)):
        return index, exclude
    allowed = torch.zeros(index.num_items, dtype=torch.bool)
    allowed[slice(None) if candidates is None else candidates] = True
    if exclude is not None:
        allowed[exclude] = False
    return SubsetIndex(index, allowed.nonzero().squeeze(1)), None


@dataclass(frozen=True, slots=True)
class Written:
    """What :func:`write_topk` wrote. A short list has fewer than k items, an empty one (also short) none."""

    queries: int
    rows: int
    short_lists: int
    empty_lists: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        rate = self.queries / max(self.seconds, 1e-9)
        counts = {"rows": self.rows, "short_lists": self.short_lists, "empty_lists": self.empty_lists}
        return {"queries": self.queries, "queries_per_s": rate, **counts}


def write_topk(
    path: Path | str, results: Results, query_ids: pl.Series, item_ids: pl.Series, k: int, format: str | None = None
) -> Written:
    """Write lists as rows (query_id, rank, item_id, score), rank 1 first, queries in the order they come.

    The file appears when it is complete. Memory: about a million rows, however many there are in all.

    Args:
        results: (positions, lists); positions are rows of ``query_ids``, ids rows of ``item_ids``.
        k: lists with fewer items are counted as short.
        format: parquet or jsonl; by the path's ending when None.

    Raises:
        ConfigError: another format. ArtefactError: the disk is full or may not be written to.
    """
    path = Path(path)
    name = format or {".jsonl": "jsonl", ".ndjson": "jsonl"}.get(path.suffix.lower(), "parquet")
    sink = lookup("format", name, TOPK_FORMATS)
    counter = _Counter(k)
    frames = (topk_frame(positions, found, query_ids, item_ids) for positions, found in counter.watch(results))
    empty = topk_frame(*_nothing(), query_ids, item_ids)
    try:
        sink(path, frames, empty)
    except (OSError, pl.exceptions.ComputeError) as error:
        raise ArtefactError("the lists can't be written", where=path, got=str(error).splitlines()[0]) from None
    return counter.written()


def topk_frame(positions: Tensor, found: TopK, query_ids: pl.Series, item_ids: pl.Series) -> pl.DataFrame:
    """One batch as a table: query_id, rank, item_id, score."""
    return pl.DataFrame(
        {
            "query_id": query_ids.gather(positions[found.rows()].numpy()),
            "rank": pl.Series(found.ranks().to(torch.int32).numpy()),
            "item_id": item_ids.gather(found.ids.numpy()),
            "score": pl.Series(found.scores.numpy()),
        }
    )


def _retrieve(
    model: RetrievalModel,
    index: Index,
    batches: Iterable[tuple[Tensor, Batch]],
    k: int,
    include_seen: bool,
    exclude: Tensor | None,
    progress: Progress,
) -> Iterator[tuple[Tensor, TopK]]:
    with progress:
        for group in _groups(batches, index.queries_at_once):
            query_BD = torch.cat([_vectors(model, batch) for _, batch in group])
            found = index.search(query_BD, k, _together([_hidden(batch, include_seen, exclude) for _, batch in group]))
            first = 0
            for positions, batch in group:
                yield positions, _lists(found, first, first + len(batch))
                progress.advance(len(batch))
                first += len(batch)


def _groups(batches: Iterable[tuple[Tensor, Batch]], least: int) -> Iterator[list[tuple[Tensor, Batch]]]:
    """Consecutive batches with ``least`` queries together, or what is left at the end."""
    group: list[tuple[Tensor, Batch]] = []
    for positions, batch in batches:
        group.append((positions, batch))
        if sum(len(other) for _, other in group) >= least:
            yield group
            group = []
    if group:
        yield group


def _vectors(model: RetrievalModel, batch: Batch) -> Tensor:
    with torch.inference_mode():
        query_BD = model.query_vectors(batch)
    if len(query_BD) != len(batch):
        raise InputError("the model gives another number of vectors", wanted=len(batch), got=len(query_BD))
    return query_BD


def _together(parts: list[Ragged | None]) -> Ragged | None:
    """The lists of several batches, in order; all of them are None, or none is."""
    held = [part.long() for part in parts if part is not None]
    if not held:
        return None
    return Ragged(offsets_of(torch.cat([part.lengths() for part in held])), torch.cat([part.values for part in held]))


def _lists(found: TopK, start: int, stop: int) -> TopK:
    """The lists ``start … stop − 1``."""
    low, high = int(found.offsets[start]), int(found.offsets[stop])
    return TopK(found.offsets[start : stop + 1] - low, found.ids[low:high], found.scores[low:high])


def _hidden(batch: Batch, include_seen: bool, exclude: Tensor | None) -> Ragged | None:
    seen = None if include_seen else Ragged(batch.history.offsets, batch.history.values)
    if exclude is None or not len(exclude):
        return seen
    everybody = Ragged(torch.arange(len(batch) + 1) * len(exclude), exclude.repeat(len(batch)))
    return everybody if seen is None else concat_ragged(seen, everybody)


def _nothing() -> tuple[Tensor, TopK]:
    none = torch.empty(0, dtype=torch.int64)
    return none, TopK(torch.zeros(1, dtype=torch.int64), none, torch.empty(0))


class _Counter:
    """Counts the lists that pass by."""

    def __init__(self, k: int) -> None:
        self._k, self._started = k, time.perf_counter()
        self._queries = self._rows = self._short = self._empty = 0

    def watch(self, results: Results) -> Iterator[tuple[Tensor, TopK]]:
        for positions, found in results:
            lengths = found.lengths()
            self._queries += len(found)
            self._rows += len(found.ids)
            self._short += int((lengths < self._k).sum())
            self._empty += int((lengths == 0).sum())
            yield positions, found

    def written(self) -> Written:
        seconds = time.perf_counter() - self._started
        return Written(self._queries, self._rows, self._short, self._empty, seconds)


def _write_parquet(path: Path, frames: Iterator[pl.DataFrame], empty: pl.DataFrame) -> None:
    """Parts of about a million rows beside the file, then streamed into one, a row group each."""
    with atomic_file(path) as temporary, _part_folder(path) as folder:
        parts: list[Path] = []
        for rows in _gathered(frames):
            parts.append(folder / f"part-{len(parts):06d}.parquet")
            rows.write_parquet(parts[-1])
        if len(parts) > 1:
            pl.scan_parquet(parts).sink_parquet(temporary, row_group_size=PART_ROWS)
        elif parts:
            shutil.copyfile(parts[0], temporary)
        else:
            empty.write_parquet(temporary)


def _gathered(frames: Iterator[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    waiting: list[pl.DataFrame] = []
    for frame in frames:
        waiting.append(frame)
        if sum(map(len, waiting)) >= PART_ROWS:
            yield pl.concat(waiting)
            waiting = []
    if any(map(len, waiting)):
        yield pl.concat(waiting)


@contextmanager
def _part_folder(path: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".parts"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write_json_lines(path: Path, frames: Iterator[pl.DataFrame], empty: pl.DataFrame) -> None:
    """One row a line."""
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        for frame in frames:
            frame.write_ndjson(file)


TOPK_FORMATS: dict[str, Callable[[Path, Iterator[pl.DataFrame], pl.DataFrame], None]] = {
    "parquet": _write_parquet,
    "jsonl": _write_json_lines,
}
