"""Labelled pairs → a dataset directory: numbers for items and queries, arrays, tables, manifest."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from polars.io.plugins import register_io_source

from xclass.data.dataset import FORMAT_VERSION, KIND, MANIFEST
from xclass.data.npy_stream import ArrayWriter
from xclass.errors import ArtefactError
from xclass.ingest.pairs import PART_CODES, TRAIN, Pairs, blocks_of, count_codes, offsets_by_query
from xclass.ingest.reading.id_encoder import index_dtype, recode
from xclass.ingest.reading.id_sorted import Ids
from xclass.io.files import atomic_directory, require_space
from xclass.io.manifest import write_manifest

IDS_PER_BLOCK = 1 << 18


def number_items(
    pairs: Pairs, labels: np.ndarray, num_codes: int, lasting: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Item numbers by falling train count, then rising code; items that only valid or test have come last.

    Returns:
        order: codes in the order of their numbers (N,), only codes that some pair has or that the mask ``lasting``
            names.
        counts: int64 (N,), train pairs of each.
    """
    counts = count_codes(pairs.item, num_codes, labels == TRAIN)
    present = marked(pairs.item, num_codes)
    if lasting is not None:
        present |= lasting
    codes = np.flatnonzero(present)
    order = codes[np.argsort(-counts[codes], kind="stable")]
    return order, counts[order]


def marked(codes: np.ndarray, size: int, chosen: np.ndarray | None = None) -> np.ndarray:
    """Mask (size,) of the codes that come up, among the pairs of the mask ``chosen`` if there is one."""
    mask = np.zeros(size, dtype=bool)
    for low, high in blocks_of(len(codes)):
        mask[codes[low:high] if chosen is None else codes[low:high][chosen[low:high]]] = True
    return mask


def invert(order: np.ndarray, size: int) -> np.ndarray:
    """Number of each code: ``result[order[n]] = n``; other entries are meaningless."""
    numbers = np.zeros(size, dtype=index_dtype(len(order)))
    numbers[order] = np.arange(len(order), dtype=numbers.dtype)
    return numbers


def write_pairs(folder: Path, pairs: Pairs, labels: np.ndarray, num_queries: int) -> dict[str, dict[str, Any]]:
    """The arrays of every part that has pairs (train always); returns pairs and queries of each for the manifest.

    ``pairs`` are numbered and grouped by query.
    """
    splits = {}
    for name, label in PART_CODES.items():
        chosen = labels == label
        if name != "train" and not chosen.any():
            continue
        offsets = offsets_by_query(pairs.query, num_queries, chosen)
        np.save(_made(folder / name) / "offsets.npy", offsets)
        arrays = {"values": pairs.item, "weights": pairs.weight, "times": pairs.time}
        for role, array in arrays.items():
            if array is not None:
                _save_chosen(folder / name / f"{role}.npy", array, chosen)
        splits[name] = {"pairs": int(offsets[-1]), "queries": int(np.count_nonzero(np.diff(offsets)))}
    return splits


def _save_chosen(path: Path, array: np.ndarray, chosen: np.ndarray) -> None:
    """``np.save(path, array[chosen])``, block by block."""
    with ArrayWriter(path, array.dtype.type) as writer:
        for low, high in blocks_of(len(array)):
            writer.append(array[low:high][chosen[low:high]])


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_ids(path: Path, name: str, ids: Ids, order: np.ndarray, columns: pl.DataFrame) -> None:
    """``ids`` (in the order of codes) by ``order``, beside ``columns``, as Parquet; in blocks: ids may be on disk."""

    def blocks(wanted: object, where: object, rows: object, size: object) -> Iterator[pl.DataFrame]:
        named = None if isinstance(ids, pl.Series) else ids.blocks(order, IDS_PER_BLOCK)
        for low, high in blocks_of(len(order), IDS_PER_BLOCK):
            block = next(named) if named is not None else ids.gather(order[low:high])
            yield pl.DataFrame([block.alias(name)]).hstack(columns[low:high])

    schema = pl.Schema({name: ids.dtype, **columns.schema})
    source = register_io_source(blocks, schema=schema)
    source.sink_parquet(path, row_group_size=IDS_PER_BLOCK, engine="streaming")


def bytes_needed(num_pairs: int, num_queries: int, ids: Sequence[Ids], weighted: bool, timed: bool) -> int:
    """An upper estimate of what :func:`write_pairs` and the two tables take on disk."""
    per_pair = 8 + 4 * weighted + 8 * timed
    return (
        num_pairs * per_pair
        + 3 * 8 * (num_queries + 1)
        + sum(int(series.estimated_size()) + 24 * len(series) for series in ids)
        + (1 << 20)
    )


@contextlib.contextmanager
def dataset_directory(out: Path, needed_bytes: int, replace: bool = False) -> Iterator[Path]:
    """A temporary directory that becomes ``out``; nothing stays when writing fails.

    Raises:
        ArtefactError: ``out`` exists and ``replace`` is false; the disk has too little room, before or while writing.
    """
    require_space(out, needed_bytes)
    try:
        with atomic_directory(out, replace) as folder:
            yield folder
    except (OSError, pl.exceptions.PolarsError) as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or _sounds_full(str(error))
        raise ArtefactError(
            "the disk is full" if full else "the dataset can't be written",
            where=out,
            wanted=f"about {needed_bytes:,} bytes",
            got=str(error).strip().split("\n")[0][:200],
            do="free some space or choose another --out; nothing was left behind",
        ) from None


def write_dataset_manifest(
    folder: Path,
    num_queries: int,
    num_items: int,
    splits: dict[str, Any],
    id_types: dict[str, str],
    fields: dict[str, Any],
) -> None:
    """``dataset.json``, last of all: what :class:`Dataset` reads, then ``fields``, then the hashes."""
    known = {"num_queries": num_queries, "num_items": num_items, "splits": splits, "id_types": id_types}
    write_manifest(folder, MANIFEST, KIND, FORMAT_VERSION, {**known, **fields})


def id_type(ids: Ids) -> str:
    """The name of a series' id type in the manifest."""
    return "int64" if ids.dtype == pl.Int64 else "string"


def numbered(pairs: Pairs, query_number: np.ndarray, item_number: np.ndarray) -> None:
    """Replace codes by numbers, in place."""
    pairs.query, pairs.item = recode(pairs.query, query_number), recode(pairs.item, item_number)


def _sounds_full(text: str) -> bool:
    return "No space left" in text or "requested and" in text or "Disk quota" in text
