"""Raw files → a dataset directory: ``xclass ingest``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from xclass.data import planted, writing
from xclass.data.ids import samples
from xclass.data.options import IngestOptions
from xclass.data.pairs import (
    PART_CODES,
    TRAIN,
    MinCounts,
    Pairs,
    filter_min_counts,
    group_by_query,
    merge_duplicates,
)
from xclass.data.planted_spec import PREFIX
from xclass.data.reading import Table, read_table
from xclass.data.sources import WHOLE, find_parts
from xclass.data.splits import cut_valid, leave_last_split, random_split, time_split
from xclass.data.store import Dataset
from xclass.errors import ArtefactError, ConfigError, DataError
from xclass.progress import say


def ingest(source: Path | str, out: Path | str, options: IngestOptions | None = None) -> Dataset:
    """Read ``source``, divide it into train, valid and test, and write the dataset directory ``out``.

    In this order: rows are read (Polars, streaming; ids become integer codes at once); pairs are grouped by query, in
    the order of time where there are times, else of the file; a (query, item) that comes again is merged into the first
    (weights summed); minimum counts are applied until nothing changes (on train only for a given split, whose other
    parts then lose what train lost); the rest is split; items are numbered by falling train count, queries by id.

    Args:
        source: a file, a directory, or ``planted:items=…,queries=…,pairs=…`` (:func:`parse_planted`).
        out: must not exist.
        options: see :class:`IngestOptions`.

    Raises:
        DataError: something is wrong with the source; says where.
        ConfigError: the options don't fit the source.
        ArtefactError: ``out`` exists or the disk is too full.

    Cost: one pass over the files; memory about 30 bytes per pair and the distinct ids.
    """
    options, out = options or IngestOptions(), Path(out)
    if out.exists():
        raise ArtefactError("this directory exists already", where=out, do="choose another --out, or remove it first")
    if str(source).startswith(PREFIX):
        return planted.ingest_planted(str(source), out, options)
    parts = find_parts(Path(source))
    split = _choose_split(options, parts, Path(source))
    table = read_table(parts, options)
    split = split or ("time" if table.pairs.time is not None else "random")
    return _build(table, str(source), out, split, options)


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
    merged = merge_rows(table, source)
    train = slice(None) if pairs.part is None else pairs.part == TRAIN
    kept, counts_dropped = apply_min_counts(table, train, options)
    _check_something_is_left(pairs, counts_dropped["pairs"], source, options)
    labels, cuts = _labels(pairs, split, options)
    report: dict[str, Any] = {
        "source": source,
        "formats": table.formats,
        "read": table.counts,
        "dropped": {"duplicates": merged, "min_counts": counts_dropped},
    }
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
    counted: np.ndarray | slice,
    options: IngestOptions,
    lasting: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[MinCounts, dict[str, int]]:
    """Filter the pairs by the minimum counts among those ``counted``; returns which queries and items stay (those of
    the masks ``lasting`` do), and the report of what went."""
    pairs, before = table.pairs, len(table.pairs)
    kept = filter_min_counts(
        pairs.query[counted],
        pairs.item[counted],
        len(table.query_ids),
        len(table.item_ids),
        options.min_query_count,
        options.min_item_count,
        lasting,
    )
    if kept.rounds:
        pairs.select(kept.queries[pairs.query] & kept.items[pairs.item])
    gone = {
        "pairs": before - len(pairs),
        "queries": kept.dropped_queries,
        "items": kept.dropped_items,
        "rounds": kept.rounds,
    }
    return kept, gone


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
    replace: bool = False,
    fields: dict[str, Any] | None = None,
) -> Dataset:
    """Number items and queries, describe what was kept in ``report``, and write the dataset directory.

    Args:
        table: its pairs are grouped by query; they are numbered in place.
        labels: int8 (n,), the part of each pair.
        lasting: masks of the queries and items to keep even without a pair; of queries only those that stand alone in
            the source are meant.
        item_columns: further columns of items.parquet, a row per item of ``table.item_ids``.
        replace: ``out`` may exist, and is replaced in one step.
        fields: what the manifest says besides, or instead.
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
    needed = writing.bytes_needed(
        len(pairs), len(query_ids), [*items.iter_columns(), query_ids], pairs.weight is not None, pairs.time is not None
    )
    with writing.dataset_directory(out, needed, replace) as folder:
        say(f"write {out}")
        splits = writing.write_pairs(folder, pairs, labels, len(query_ids))
        items.write_parquet(folder / "items.parquet")
        pl.DataFrame({"query_id": query_ids}).write_parquet(folder / "queries.parquet")
        told = {"columns": table.columns.used(), "options": options.model_dump(mode="json"), "report": report}
        types = {"query": writing.id_type(query_ids), "item": writing.id_type(item_ids)}
        writing.write_dataset_manifest(
            folder, len(query_ids), len(item_ids), splits, types, {"split": split, **told, **(fields or {})}
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
