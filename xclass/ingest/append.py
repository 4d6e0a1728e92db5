"""More raw files for a dataset that is there: ``xclass ingest SOURCE --append --out DATASET``."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xclass.config import build_config
from xclass.data.dataset import MANIFEST, Dataset
from xclass.data.dataset_record import GrowableRecord
from xclass.errors import ArtefactError, ConfigError
from xclass.ingest.ingest import apply_min_counts, merge_rows
from xclass.ingest.merge import (
    NEW,
    UNDIVIDED,
    Union,
    as_type_of,
    check_values,
    item_columns,
    join_tables,
    merge_into_old,
)
from xclass.ingest.option_use import check_files
from xclass.ingest.options import IngestOptions
from xclass.ingest.pairs import PART_CODES, TEST, TRAIN, Pairs
from xclass.ingest.reading.reader import Table, describe_files, read_table
from xclass.ingest.reading.weights import check_weights, drop_low_weights
from xclass.ingest.source_columns import about_source
from xclass.ingest.sources import WHOLE, find_parts
from xclass.ingest.splits import FREE, leave_last_split, random_split, time_split
from xclass.ingest.synthetic.spec import PREFIX
from xclass.ingest.synthetic.text import PREFIX as TEXT_PREFIX
from xclass.ingest.text.times import check_units
from xclass.ingest.writing.table import write_table
from xclass.io.files import real_path, remove_leftovers
from xclass.io.records import check_record
from xclass.runtime.progress import say
from xclass.runtime.rng import derive_seed

# What says how a file is read, not what the dataset is: an append does not change what is recorded of it.
READING_OPTIONS = {"format", "query_col", "item_col", "weight_col", "time_col", "header", "separator"}
FILES = {"items.parquet", "queries.parquet"}
PLANTED = (PREFIX, TEXT_PREFIX)


def append(
    source: Path | str, dataset: Path | str, options: IngestOptions | None = None, out: Path | str | None = None
) -> Dataset:
    """Add the pairs of ``source`` to a dataset; everything that it has stays in it.

    The recorded options hold where ``options`` does not set them. A pair (query, item) that the dataset has already is
    merged into it: weights are summed, the first time is kept. Minimum counts look at old and new pairs together and
    drop new queries and items only. Then, by the split of the dataset:

    * random, given: old pairs keep their part. New ones are divided so that the shares hold for each query's old and
      new pairs together, by a seed of their own; but where the dataset's split was given they go to train (a recorded
      ``valid_fraction`` is cut from them), and where the source has parts of its own they keep those.
    * time, leave-last: old and new pairs are divided anew together, as if they had been ingested in one. Old pairs may
      move to another part: what was test may now be train. No train pair is at or after the cut-off.

    Items are numbered anew by falling train count, so numbers of items and queries change; external ids do not.

    Args:
        source: a file or a directory, as for :func:`xclass.ingest.ingest.ingest`.
        dataset: the dataset directory.
        options: only the values that were set in it count.
        out: where to write. None: in place of ``dataset``, in one step: a crash leaves the old directory, and whoever
            has its arrays open goes on reading them.

    Raises:
        DataError: something is wrong with the source; its ids are of another type; it lacks weights or times.
        ConfigError: another split is asked for; parts of a source where the split is cut anew; a planted source.
        ArtefactError: not a whole dataset, another process appends to it, ``out`` exists, the disk is too full.

    Cost: as ingesting old and new pairs together in memory, less reading the old files.
    """
    if str(source).startswith(PLANTED):
        raise ConfigError("planted data can't be appended", where=source, do="make one larger planted dataset instead")
    place = real_path(dataset)
    if out is not None and Path(out).exists():
        raise ArtefactError("this directory exists already", where=out, do="choose another --out, or remove it first")
    with _alone(place):
        old = Dataset(place)
        _check_files(old)
        old.verify()
        return _append(Path(source), old, options or IngestOptions(), place if out is None else Path(out))


class _Recipe(NamedTuple):
    """What holds for this append. parts: the source has parts of its own."""

    split: str
    options: IngestOptions
    test_share: float
    valid_share: float
    seed: int
    parts: bool


def _append(source: Path, old: Dataset, given: IngestOptions, out: Path) -> Dataset:
    parts = find_parts(source)
    recipe = _recipe(old, given, parts, source)
    files = describe_files(parts, recipe.options, source)
    check_files(files, given, source)
    table = read_table(files)
    low = drop_low_weights(table.pairs, recipe.options.min_weight, str(source))
    check_values(old, table, source)
    duplicates = merge_rows(table, str(source))
    queries = Union.of(old.queries["query_id"], as_type_of(old, table, "query", source))
    items = Union.of(old.items["item_id"], as_type_of(old, table, "item", source))
    joined = join_tables(old, table, queries, items, cut_train=recipe.parts and recipe.valid_share > 0)
    known = merge_into_old(joined.pairs)
    part = joined.pairs.part
    assert part is not None
    counted = (part % NEW == TRAIN) | (part == UNDIVIDED) if recipe.split == "given" else None
    kept, dropped = apply_min_counts(joined, counted, recipe.options, (queries.old, items.old))
    labels, cuts = _labels(joined.pairs, recipe)
    check_weights(joined, labels, str(source))
    if joined.pairs.time is not None:
        check_units(joined.pairs.time, source)
    grown = _grown(joined, labels, known, queries, items, kept.queries)
    report: dict[str, Any] = {
        "source": str(source),
        "formats": table.formats,
        "read": table.counts,
        **about_source(table, recipe.split, recipe.options.model_copy(update={"split": recipe.split}), str(source)),
        "dropped": {"duplicates": duplicates, "min_counts": dropped, "low_weights": low},
        "appended": grown,
    }
    if cuts:
        report["cut_offs"] = cuts
    if "planted" in old.manifest:
        say("this was planted data: with other pairs beside them its truth no longer holds, and is left out")
    return write_table(
        joined,
        labels,
        (kept.queries, items.old),
        out,
        recipe.split,
        recipe.options,
        report,
        item_columns=item_columns(old, items),
        replace=out == old.path,
        fields=_fields(old, given, recipe, report),
    )


def _recipe(old: Dataset, given: IngestOptions, parts: dict[str, list[Path]], source: Path) -> _Recipe:
    """The recorded options with those that were set now, and the shares that new pairs are divided by."""
    split, own_parts = old.manifest["split"], WHOLE not in parts
    if given.split not in ("auto", split):
        raise ConfigError(
            "a dataset keeps its split",
            where="--split",
            wanted=split,
            got=given.split,
            do="leave --split out, or ingest all files anew",
        )
    if own_parts and split in ("time", "leave-last"):
        raise ConfigError(
            f"this source has parts of its own, and the dataset's split by {split} is cut anew over everything",
            where=source,
            do="append one file, or a directory without train.* and test.*",
        )
    set_now = given.model_dump(include=given.model_fields_set - {"split"})
    recorded = dict(old.manifest["options"])
    columns = old.manifest.get("columns", {})
    recorded |= {f"{role}_col": "" for role in ("weight", "time") if role not in columns}
    options = build_config(IngestOptions, {**recorded, **set_now}, where=old.path / "dataset.json")
    whole = own_parts or (split == "given" and "test_fraction" not in set_now)
    valid_share = 0.0 if "valid" in parts else options.valid_share("given" if own_parts else split)
    seed = derive_seed(options.seed, "append", len(old.manifest.get("history", [0])))
    return _Recipe(split, options, 0.0 if whole else options.test_fraction, valid_share, seed, own_parts)


def _labels(pairs: Pairs, recipe: _Recipe) -> tuple[np.ndarray, dict[str, float | int]]:
    assert pairs.part is not None
    if recipe.split == "time":
        return time_split(pairs, recipe.options.test_fraction, recipe.options.valid_share("time"))
    if recipe.split == "leave-last":
        return leave_last_split(pairs, valid=recipe.options.valid_share("leave-last") > 0), {}
    labels = np.where(pairs.part == UNDIVIDED, FREE, pairs.part % NEW).astype(np.int8)
    # A given test part is no share of anything: without it the shares are of train and valid, as in `cut_valid`.
    rows = np.flatnonzero(labels != TEST) if recipe.split == "given" and recipe.test_share == 0 else slice(None)
    chosen = Pairs(pairs.query[rows], pairs.item[rows])
    labels[rows] = random_split(chosen, recipe.test_share, recipe.valid_share, recipe.seed, labels[rows])
    return labels, {}


def _grown(
    joined: Table, labels: np.ndarray, known: int, queries: Union, items: Union, alive: np.ndarray
) -> dict[str, Any]:
    """What is new, by part; and which old pairs a split that is cut anew moved. ``alive``: queries that stay."""
    pairs, codes = joined.pairs, PART_CODES.items()
    assert pairs.part is not None
    new = pairs.part >= NEW
    there = np.zeros(len(alive), dtype=bool)
    there[joined.lonely] = alive[joined.lonely]
    there[pairs.query] = True
    items_there = np.bincount(pairs.item, minlength=len(items.ids)) > 0
    moves = {f"{a} to {b}": ~new & (pairs.part == i) & (labels == j) for a, i in codes for b, j in codes if i != j}
    return {
        "queries": int(np.count_nonzero(there & ~queries.old)),
        "items": int(np.count_nonzero(items_there & ~items.old)),
        "pairs": {name: int(np.count_nonzero(new & (labels == code))) for name, code in codes},
        "merged": known,
        "moved": {name: int(np.count_nonzero(rows)) for name, rows in moves.items() if rows.any()},
    }


def _fields(old: Dataset, given: IngestOptions, recipe: _Recipe, report: dict[str, Any]) -> dict[str, Any]:
    """The history of what went in, and the options as they are recorded from now on."""
    first = {
        key: old.manifest["report"][key]
        for key in ("source", "formats", "read", "dropped")
        if key in old.manifest["report"]
    }
    entry = {key: report[key] for key in ("source", "formats", "read", "dropped", "appended")}
    entry["options"] = given.model_dump(mode="json", include=given.model_fields_set)
    lasting = build_config(IngestOptions, old.manifest["options"]).model_dump(mode="json", include=READING_OPTIONS)
    fields = {
        "options": {**recipe.options.model_dump(mode="json"), **lasting},
        "history": [*old.manifest.get("history", [first]), entry],
    }
    return fields | ({"columns": old.manifest["columns"]} if "columns" in old.manifest else {})


def _check_files(old: Dataset) -> None:
    """Whatever lies in a dataset beside pairs and ids would be lost; how it was made must be recorded."""
    if old.sequence is not None:
        raise ArtefactError("nothing can be appended to a text", where=old.path, do="ingest all of it anew")
    check_record(GrowableRecord, old.manifest, old.path / MANIFEST)
    unknown = {name for name in old.manifest["files"] if name not in FILES and name.split("/")[0] not in PART_CODES}
    if unknown:
        raise ArtefactError(
            "nothing can be appended to a dataset with features", where=old.path, got=", ".join(sorted(unknown))
        )


@contextlib.contextmanager
def _alone(place: Path) -> Iterator[None]:
    """One process at a time appends to a dataset. What one that was killed left beside it is removed."""
    try:
        handle = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        raise ArtefactError(
            "there is no dataset to append to", where=place, do="make it first: leave out --append"
        ) from None
    try:
        if not _locked(handle) or os.fstat(handle).st_ino != place.stat().st_ino:  # maybe replaced since it was opened
            raise ArtefactError("another process is appending to this dataset", where=place, do="wait for it")
        remove_leftovers(place.parent, place.name)
        yield
    finally:
        os.close(handle)


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
