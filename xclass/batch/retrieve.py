"""Batch retrieval as a job: queries from a dataset or a file, lists to a file, part by part; a stopped job goes on.

report = retrieve_to_file(recommender, "topk.parquet", Job(k=100, queries="ids.txt"), resume=True)
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from xclass.data.ids import LEFT_OUT, NAMED, TAKEN_FOR_UNKNOWN, Unknown, none_known
from xclass.distributed.process_group import Group
from xclass.distributed.sharded_search import DividedIndex
from xclass.errors import ArtefactError, ConfigError, DataError, lookup
from xclass.index import ExactIndex
from xclass.index.checks import checked_k
from xclass.io.files import atomic_file, check_files
from xclass.io.manifest import sha256_file
from xclass.queries.blocks import count_queries, read_query_blocks
from xclass.queries.files import QUERY_FORMATS
from xclass.queries.given_files import ending_of
from xclass.queries.queries import Queries, dataset_slice, empty_histories
from xclass.recommender import INDEX_FOLDER, Recommender
from xclass.retrieval.filters import FilteredSearch, Wanted
from xclass.retrieval.formats import PART_ROWS, check_ids, empty_frame, format_of, topk_frame
from xclass.retrieval.parts import Counts, Parts, Written, disk_errors, kept_for_resume
from xclass.retrieval.search import Searched
from xclass.runtime.progress import Progress, say

PART_QUERIES = 4096
DIVIDED = ("queries", "items")
WAIT_S = 3600.0  # for the others, at the end: they may have a part more to search for


@dataclass(frozen=True, slots=True)
class Job:
    """What to retrieve.

    Args:
        k: at most so many items for each query.
        queries: a file of ids or of histories; every query of the dataset when None.
        exact: search exactly even if the run has an index.
        include_seen: keep items that a query has in its history; of positions of a text they always stay.
        candidates, exclude: files of items that everybody may get alone, or nobody; or of each query's own.
        short: what becomes of a list with fewer than k items: keep it; fill it up with the most popular items that are
            allowed, seen ones too, without a score; or an error.
        format: parquet, jsonl or trec; by the ending of the output when None.
        directory: the output is a directory of parts.
        unknown: a file for the ids that nobody knows, one a line.
        probabilities: a column of them: "exact" over all items, or over the items that were "retrieved".
        over: how many items are retrieved at least to normalise over; those of the list when None.
        divide: what the processes of a launch divide. queries: each has the whole index and writes parts of its own;
            items: each searches its own items exactly, and their lists are merged.
    """

    k: int = 100
    queries: Path | str | None = None
    exact: bool = False
    include_seen: bool = False
    candidates: Path | str | None = None
    exclude: Path | str | None = None
    short: str = "keep"
    format: str | None = None
    directory: bool = False
    unknown: Path | str | None = None
    probabilities: str | None = None
    over: int | None = None
    divide: str = "queries"


def retrieve_to_file(
    recommender: Recommender, out: Path | str, job: Job, resume: bool = False, group: Group | None = None
) -> Written:
    """Retrieve and write the lists; the result appears when it is complete.

    Memory does not grow with the number of queries: about a million rows of lists are held. They are written as a part;
    a kill loses at most the part at work, and ``resume`` goes on behind the last finished one, once it has checked the
    hashes of those that are finished.

    The processes of a launch do it together, each calling this (with its ``group``, if it has joined one). The lists
    are those that one process writes, to the last bit, and any number of processes can go on with a job. All must see
    the folder of ``out``.

    Raises:
        ConfigError: items are to be divided, but the search is not exact.
        ArtefactError: another process is at it; parts of a stopped job are there and ``resume`` is false, or they are
            of a job with other arguments, another run, index or input; the disk is full.
        DataError: a file that can't be read; not one id of it is known.
        InputError: a short list, where the job says that it is an error.
    """
    job = _checked(Path(out), job)
    with contextlib.nullcontext(group) if group is not None else Group(WAIT_S) as ranks:
        return _retrieve(recommender, Path(out), job, resume, ranks)


def _retrieve(recommender: Recommender, out: Path, job: Job, resume: bool, group: Group) -> Written:
    work = _Work(recommender, job, format_of(out, job.format), group)
    parts = _opened(out, work, resume, group)
    started, done, before = time.perf_counter(), len(parts), parts.counts.queries
    if done and group.is_first:
        say(f"{done:,} parts with {before:,} queries are done; going on behind them")
    keep = kept_for_resume(parts) if group.size == 1 else contextlib.nullcontext()  # others may be writing theirs
    with contextlib.closing(parts), keep, disk_errors(out):
        work.run(parts)
        group.barrier("the end of the retrieval")
        parts.read()
        _check_known(parts.counts, recommender)
        group.barrier("counting the parts")
        if group.is_first:
            parts.finish(job.directory, {"lists": work.identity(), "queries": parts.counts.queries})
        group.barrier("the result")
    if group.is_first:
        _say_unknown(parts.counts, TAKEN_FOR_UNKNOWN if recommender.may_repeat else LEFT_OUT)
    return Written(
        parts.counts, parts.counts.queries - before, time.perf_counter() - started, done, work.probabilities_measured()
    )


def _opened(out: Path, work: _Work, resume: bool, group: Group) -> Parts:
    """The parts: rank 0 makes or takes up their folder, then the others take it up."""
    identity, made = work.identity(), list[Parts]()

    def make() -> None:
        made.append(Parts(out, work.format, identity, resume))

    group.on_first(make, "the folder of parts")
    return made[0] if made else Parts(out, work.format, identity, owner=False)


class _Work:
    """The pieces of a job, made once."""

    def __init__(self, recommender: Recommender, job: Job, format_name: str, group: Group) -> None:
        self._recommender, self._job, self.format, self._group = recommender, job, format_name, group
        lookup("way to divide a retrieval", job.divide, dict.fromkeys(DIVIDED), where="divide")
        self._own_items = job.divide == "items" and group.size > 1
        self._size = max(round(PART_ROWS / job.k / PART_QUERIES), 1) * PART_QUERIES
        self._index_used = not job.exact and recommender.index is not None
        index = recommender.index if self._index_used else recommender.exact_index
        assert index is not None
        if self._own_items:
            index = self._divided(index)
        self._search = FilteredSearch(recommender.model, index, self._wanted(), lambda: recommender.run.item_counts)
        if job.probabilities is not None and format_name == "trec":
            raise ConfigError("a TREC run has no place for probabilities", where="format", do="choose another --format")
        check_ids(format_name, recommender.run.item_ids, "an item id")

    def _divided(self, index: Searched) -> Searched:
        if not isinstance(index, ExactIndex):
            raise ConfigError(
                "only exact search can divide the items",
                where="divide = items",
                got=f"a search of kind {index.kind}",
                do="search exactly (--exact, in Python exact=True), or divide the queries",
            )
        return DividedIndex(index.vectors, self._group)

    def identity(self) -> dict[str, Any]:
        """What makes a resumed job the same one."""
        run, job = self._recommender.run, self._job
        files = {name: getattr(job, name) for name in ("queries", "candidates", "exclude")}
        return {
            "run": run.model_hash,
            "index": self._searched(),
            **{name: None if path is None else _hash_of(Path(path)) for name, path in files.items()},
            "dataset": self._recommender.dataset.fingerprint if job.queries is None else None,
            "k": job.k,
            "include-seen": job.include_seen,
            "short": job.short,
            "probabilities": job.probabilities,
            "over": job.over,
            "format": self.format,
            "queries in a part": self._size,
        }

    def _searched(self) -> str:
        """What decides which lists are found, beside the weights."""
        if not self._index_used:
            return "exact"
        manifest = self._recommender.run.path / INDEX_FOLDER / "index.json"
        return sha256_file(manifest) if manifest.exists() else "the head's own search"

    def run(self, parts: Parts) -> None:
        """Write all parts that are not there yet; of several processes, those whose turn is this one's."""
        total, searched, turn = self._recommender.run.num_queries, 0, 0
        if self._job.queries is not None:
            total = count_queries(self._job.queries)
        unknown = self._job.unknown if self._group.is_first else None
        done = self._group.broadcast_value(parts.numbers())
        with Progress("retrieve", total, "queries") as progress, _unknown_to(unknown) as write_unknown:
            for number, queries in enumerate(self._blocks()):
                write_unknown(queries)
                searched += len(queries) + queries.unknown_queries.count
                if number in done:
                    progress.resume_at(searched)
                    continue
                turn += 1
                if not self._own_items and (turn - 1) % self._group.size != self._group.rank:
                    progress.resume_at(searched)
                    continue
                counts = Counts(
                    known_items=queries.known_items or 0,
                    empty_histories=self._recommender.without_history(queries),
                    unknown_queries=queries.unknown_queries.count,
                    unknown_items=queries.unknown_items.count,
                    unknown_names=(queries.unknown_queries.names + queries.unknown_items.names)[:NAMED],
                )
                frames = self._frames(queries, counts, progress)
                if self._group.is_first or not self._own_items:
                    parts.add(frames, counts, number)
        if not searched:
            raise DataError("there is no query to retrieve for", where=self._job.queries)
        if not done and self._group.size == 1:
            self._search.check_own_lists()

    def probabilities_measured(self) -> dict[str, Any] | None:
        """What is known of their error; None without them."""
        return None if self._search.probabilities is None else self._search.probabilities.measured()

    def _blocks(self) -> Iterator[Queries]:
        """Queries, a part's worth at a time, the finished ones too."""
        recommender = self._recommender
        if self._job.queries is None:
            total = recommender.dataset.num_queries
            for start in range(0, total, self._size):
                yield dataset_slice(recommender.dataset, start, min(start + self._size, total))
        else:
            for file in read_query_blocks(self._job.queries, self._size, recommender.query_map):
                yield recommender.queries_of(file, none_known=True)

    def _frames(self, queries: Queries, counts: Counts, progress: Progress) -> list[pl.DataFrame]:
        """The lists of a part, counted."""
        check_ids(self.format, queries.ids, "a query id")
        item_ids = self._recommender.run.item_ids
        frames = [empty_frame(queries.ids, item_ids, self._job.probabilities is not None)]
        for positions, found, given in self._search.lists(queries, counts):
            frames.append(topk_frame(positions, found, queries.ids, item_ids, given))
            progress.advance(len(positions))
        return frames

    def _wanted(self) -> Wanted:
        job, recommender = self._job, self._recommender
        allow = recommender.read_filter(job.candidates, "candidates")
        deny = recommender.read_filter(job.exclude, "excluded items")
        include = job.include_seen or recommender.may_repeat
        return Wanted(job.k, include, allow, deny, job.short, job.probabilities, job.over)


def _hash_of(path: Path) -> str:
    """SHA-256 of a file that is given to a job; DataError when it is none of the files that can be."""
    ending_of(path, QUERY_FORMATS)
    return sha256_file(path)


@contextlib.contextmanager
def _unknown_to(path: Path | str | None) -> Iterator[Callable[[Queries], None]]:
    """Writes the ids that nobody knows, one a line, where a file for them was asked for."""
    if path is None:
        yield lambda queries: None
        return
    with atomic_file(Path(path)) as temporary, temporary.open("w", encoding="utf-8") as file:

        def write(queries: Queries) -> None:
            for unknown in (queries.unknown_queries, queries.unknown_items):
                file.writelines(f"{name}\n" for name in (() if unknown.ids is None else unknown.ids))

        yield write
        file.flush()


def _checked(out: Path, job: Job) -> Job:
    if out.exists() and (job.directory or out.is_dir()):
        raise ArtefactError("the output is there already", where=out, do="choose another --out, or remove it first")
    check_files(out, job.unknown)
    return replace(job, k=checked_k(job.k))


def _check_known(counts: Counts, recommender: Recommender) -> None:
    """DataError when nothing that the queries were given by is known."""
    if not counts.queries:
        raise none_known("query", counts.unknown_names, recommender.query_map.examples())
    if counts.unknown_items and not counts.known_items:
        raise none_known("item", counts.unknown_names, recommender.item_map.examples())


def _say_unknown(counts: Counts, items_became: str) -> None:
    total = counts.unknown_queries + counts.unknown_items
    if total:
        what = "query ids" if counts.unknown_queries else "items of histories"
        became = LEFT_OUT if counts.unknown_queries else items_became
        say(Unknown(total, list(dict.fromkeys(counts.unknown_names))[:NAMED], became=became).message(what))
    if counts.empty_histories:
        say(empty_histories(counts.empty_histories))
