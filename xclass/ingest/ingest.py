"""Raw files → a dataset directory: ``xclass ingest``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from xclass.data.dataset import Dataset
from xclass.errors import ConfigError, DataError
from xclass.ingest.documents.ingest import ingest_documents
from xclass.ingest.documents.sources import find_documents
from xclass.ingest.option_use import check_files, check_shares
from xclass.ingest.options import IngestOptions
from xclass.ingest.pairs import (
    PART_CODES,
    TRAIN,
    MinCounts,
    Pairs,
    alive_pairs,
    filter_min_counts,
    group_by_query,
    merge_duplicates,
)
from xclass.ingest.reading.external_sort import memory_needed, read_spilled
from xclass.ingest.reading.reader import Table, describe_files, read_table
from xclass.ingest.reading.weights import check_weights, drop_low_weights
from xclass.ingest.source_columns import about_source
from xclass.ingest.sources import WHOLE, find_parts
from xclass.ingest.sources_text import find_corpus, ingest_corpus
from xclass.ingest.splits import cut_valid, leave_last_split, random_split, time_split
from xclass.ingest.synthetic import documents as planted_documents
from xclass.ingest.synthetic import pairs as planted
from xclass.ingest.synthetic import text
from xclass.ingest.synthetic.spec import PREFIX
from xclass.ingest.text.times import check_units, count_missing
from xclass.ingest.writing.arrays import marked
from xclass.ingest.writing.table import write_table
from xclass.io.files import remove_leftovers, require_absent, scratch_directory
from xclass.runtime.memory import left_memory
from xclass.runtime.progress import say


def ingest(source: Path | str, out: Path | str, options: IngestOptions | None = None) -> Dataset:
    """Read ``source``, divide it into train, valid and test, and write the dataset directory ``out``.

    In this order: rows are read (Polars, streaming; ids become integer codes at once); pairs are grouped by query, in
    the order of time where there are times, else of the file; a (query, item) that comes again is merged into the first
    (weights summed); minimum counts are applied until nothing changes (on train only for a given split, whose other
    parts then lose what train lost); the rest is split; items are numbered by falling train count, queries by id.
    Documents and plain text go their own ways: :func:`ingest_documents`, :func:`ingest_corpus`.

    Args:
        source: a file, a directory, or ``planted:items=…,queries=…,pairs=…`` (:func:`parse_planted`).
        out: must not exist.
        options: see :class:`IngestOptions`.

    Raises:
        DataError: something is wrong with the source; says where.
        ConfigError: the options don't fit the source.
        ArtefactError: ``out`` exists or the disk is too full.

    Cost: one pass over the files; memory about 30 bytes per pair and the distinct ids, as long as that is no more than
    ``options.memory``. Beyond, pairs and ids are sorted on disk (:mod:`xclass.ingest.reading.external_sort`): two
    passes, the same dataset. Memory then is that, and about 30 bytes per distinct id and 2 bytes per pair besides.
    """
    options, out = options or IngestOptions(), Path(out)
    remove_leftovers(out.parent, out.name)
    require_absent(out)
    if str(source).startswith(PREFIX):
        return planted.ingest_planted(str(source), out, options)
    if str(source).startswith(planted_documents.PREFIX):
        return planted_documents.ingest_planted_documents(str(source), out, options)
    if str(source).startswith(text.PREFIX):
        return text.ingest_planted_text(str(source), out, options)
    corpus = find_corpus(Path(source), options)
    if corpus is not None:
        return ingest_corpus(corpus, out, options)
    documents = find_documents(Path(source), options)
    if documents is not None:
        return ingest_documents(documents, out, options)
    parts = find_parts(Path(source))
    split = _choose_split(options, parts, Path(source))
    files = describe_files(parts, options, Path(source))
    check_files(files, options, source)
    memory = memory_of(options)
    with contextlib.ExitStack() as stack:
        if memory_needed(files) <= memory:
            table = read_table(files)
        else:
            table = read_spilled(files, stack.enter_context(_beside(out)), memory)
        return _build(table, str(source), out, split or _split_by_times(table), options)


def _split_by_times(table: Table) -> str:
    return "time" if table.pairs.time is not None else "random"


def memory_of(options: IngestOptions) -> int:
    """Bytes that pairs and ids may take: as said, else half of what can be had."""
    return left_memory()[0] // 2 if options.memory is None else int(options.memory * (1 << 30))


@contextlib.contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """A folder for pairs and ids on their way, on the disk where the dataset will be."""
    with scratch_directory(out) as folder:
        say(f"pairs and ids go through {folder}: they would not fit in memory")
        yield folder


def _choose_split(options: IngestOptions, parts: dict[str, list[Path]], source: Path) -> str | None:
    """The split, or None when it depends on whether there are times."""
    given = WHOLE not in parts
    if given and options.split not in ("auto", "given"):
        raise ConfigError(
            "this directory already is split",
            where="--split",
            wanted="given",
            got=options.split,
            do="leave --split out, or give one file as the source",
        )
    if options.split == "given" and not given:
        raise DataError(
            "there is no given split here",
            where=source,
            wanted="a directory with train.* and test.*",
            do="choose another --split",
        )
    if given and "valid" in parts and options.valid_fraction:
        raise ConfigError(
            "this directory has a valid part already",
            where="--valid-fraction",
            got=options.valid_fraction,
            do="leave it out",
        )
    return "given" if given else None if options.split == "auto" else options.split


def _build(table: Table, source: str, out: Path, split: str, options: IngestOptions) -> Dataset:
    pairs = table.pairs
    if split == "time" and pairs.time is None:
        raise DataError(
            "a split by time needs times", where=source, wanted="a time column", do="name it: --time-col NAME"
        )
    check_shares(options, split, source)
    low = drop_low_weights(pairs, options.min_weight, source)
    if pairs.time is not None:
        check_units(pairs.time, source)
    merged = merge_rows(table, source)
    train = None if pairs.part is None else pairs.part == TRAIN
    kept, counts_dropped = apply_min_counts(table, train, options)
    _check_something_is_left(pairs, counts_dropped["pairs"], source, options)
    labels, cuts = _labels(pairs, split, options)
    check_weights(table, labels, source)
    report: dict[str, Any] = {
        "source": source,
        "formats": table.formats,
        "read": table.counts,
        **about_source(table, split, options, source),
        "dropped": {"duplicates": merged, "min_counts": counts_dropped, "low_weights": low},
    }
    if pairs.time is not None and (missing := count_missing(pairs.time)):
        report["missing_times"] = missing
    if cuts:
        report["cut_offs"] = cuts
    return write_table(table, labels, (kept.queries, None), out, split, options, report)


def merge_rows(table: Table, source: str) -> int:
    """Group the pairs by query and merge what comes again; returns how many pairs went.

    Raises:
        DataError: a pair stands in two parts of a given split.
    """
    group_by_query(table.pairs)
    merged, overlaps = merge_duplicates(table.pairs)
    if len(overlaps):
        raise _overlap(table, overlaps, source)
    return merged


def apply_min_counts(
    table: Table,
    counted: np.ndarray | None,
    options: IngestOptions,
    lasting: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[MinCounts, dict[str, int]]:
    """Filter the pairs by the minimum counts among those ``counted`` (None: all); returns which queries
    and items stay (those of the masks ``lasting`` do), and the report of what went."""
    pairs, before = table.pairs, len(table.pairs)
    queries, items = _present(table) if options.min_query_count or options.min_item_count else (False, False)
    kept = filter_min_counts(
        pairs.query,
        pairs.item,
        len(table.query_ids),
        len(table.item_ids),
        options.min_query_count,
        options.min_item_count,
        lasting,
        counted,
    )
    if kept.rounds:
        pairs.select(alive_pairs(pairs.query, pairs.item, kept.queries, kept.items))
    gone = {
        "pairs": before - len(pairs),
        "queries": int(np.count_nonzero(queries & ~kept.queries)),
        "items": int(np.count_nonzero(items & ~kept.items)),
        "rounds": kept.rounds,
    }
    return kept, gone


def _present(table: Table) -> tuple[np.ndarray, np.ndarray]:
    """Masks of the queries and items that are there: those of pairs below the minimum weight are not any more."""
    queries = marked(table.pairs.query, len(table.query_ids))
    queries[table.lonely] = True
    return queries, marked(table.pairs.item, len(table.item_ids))


def _check_something_is_left(pairs: Pairs, dropped: int, source: str, options: IngestOptions) -> None:
    if len(pairs) == 0 or (pairs.part is not None and not (pairs.part == TRAIN).any()):
        raise DataError(
            "the minimum counts leave nothing",
            where=source,
            wanted="pairs that meet them",
            got=f"none of {len(pairs) + dropped:,} left with min_query_count {options.min_query_count} and "
            f"min_item_count {options.min_item_count}",
            do="lower --min-query-count or --min-item-count",
        )


def _labels(pairs: Pairs, split: str, options: IngestOptions) -> tuple[np.ndarray, dict[str, float | int]]:
    share = options.valid_share(split)
    if split == "given":
        assert pairs.part is not None
        return (cut_valid(pairs, share, options.seed) if share else pairs.part), {}
    if split == "random":
        return random_split(pairs, options.test_fraction, share, options.seed), {}
    if split == "leave-last":
        return leave_last_split(pairs, valid=share > 0), {}
    return time_split(pairs, options.test_fraction, share)


def _overlap(table: Table, overlaps: np.ndarray, source: str) -> DataError:
    names = {code: name for name, code in PART_CODES.items()}
    assert table.pairs.part is not None
    shown = []
    for first, second in overlaps[:3]:
        query = table.query_ids[int(table.pairs.query[first])]
        item = table.item_ids[int(table.pairs.item[first])]
        parts = sorted({names[int(table.pairs.part[row])] for row in (first, second)})
        shown.append(f"({query}, {item}) in {' and '.join(parts)}")
    return DataError(
        f"{len(overlaps):,} pairs stand in more than one part of the split",
        where=source,
        wanted="every pair in one part only",
        got="; ".join(shown) + ("; …" if len(overlaps) > 3 else ""),
        do="remove them from one part: a model that saw them in train would be praised for knowing them in test",
    )
