"""Documents → a dataset directory: labels become pairs, features arrays that are written as they are read."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from xclass.data.columns import Columns
from xclass.data.document_blocks import FEATURES, DocumentFormat, Documents, Layout
from xclass.data.document_formats import DOCUMENT_FORMATS
from xclass.data.feature_files import FeatureSpool, write_features
from xclass.data.label_names import read_names
from xclass.data.options import IngestOptions
from xclass.data.pairs import PART_CODES, TEST, TRAIN, VALID, Pairs, merge_duplicates
from xclass.data.reading import Table
from xclass.data.sources import WHOLE
from xclass.data.store import Dataset
from xclass.data.table_writing import write_table
from xclass.errors import ConfigError, DataError
from xclass.progress import Progress
from xclass.rng import numpy_generator

REFUSED = (
    "query_col",
    "item_col",
    "weight_col",
    "time_col",
    "header",
    "separator",
    "min_query_count",
    "min_item_count",
)
PART_OF_CODE = {code: name for name, code in PART_CODES.items()}


@dataclass(slots=True)
class _Read:
    """What grows while file after file is read."""

    spool: FeatureSpool
    labels: list[np.ndarray] = field(default_factory=list)
    label_lengths: list[np.ndarray] = field(default_factory=list)
    layout: Layout = field(default_factory=Layout)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, block: Documents) -> None:
        """Take in one block."""
        self.spool.append(block.features)
        self.label_lengths.append(block.label_lengths)
        assert isinstance(block.labels, np.ndarray)
        self.labels.append(block.labels.astype(np.int32))


def ingest_documents(
    name: str, parts: dict[str, list[Path]], source: Path, out: Path, options: IngestOptions
) -> Dataset:
    """Read documents and write the dataset directory ``out``; see :func:`xclass.data.ingest.ingest`.

    Documents are queries, numbered in the order of the files, train before valid before test; their ids are these
    numbers, from 1. Labels are items: all that the header counts, those without a document too; their ids are the
    file's numbers. A split is by document: a test document is not in train.

    Memory: about 20 bytes a pair of document and label; features go to the disk block by block.

    Raises:
        DataError: the first line that is wrong. ConfigError: an option that is not for documents.
    """
    split = _checked_split(options, parts)
    with scratch_directory(out) as folder:
        read = _read_parts(DOCUMENT_FORMATS[name], parts, options, folder)
        document_parts = _document_parts(read, parts, split, options)
        return _write(read, document_parts, name, source, out, split, options)


def _checked_split(options: IngestOptions, parts: dict[str, list[Path]]) -> str:
    for option in REFUSED:
        if getattr(options, option) not in (None, 0):
            flag = "--" + option.replace("_", "-")
            raise ConfigError("this option is not for documents", where=flag, do=f"leave {flag} out")
    given = WHOLE not in parts
    allowed = ("auto", "given") if given else ("auto", "random")
    if options.split not in allowed:
        what = "are divided already" if given else "have no times and no given split"
        raise ConfigError(
            f"these documents {what}",
            where="--split",
            wanted=" or ".join(allowed),
            got=options.split,
            do="leave it out",
        )
    return "given" if given else "random"


@contextmanager
def scratch_directory(out: Path) -> Iterator[Path]:
    """A hidden directory beside ``out``, on its disk, removed at the end."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.", suffix=".tmp") as folder:
        yield Path(folder)


def _read_parts(form: DocumentFormat, parts: dict[str, list[Path]], options: IngestOptions, folder: Path) -> _Read:
    with FeatureSpool(folder) as spool:
        read = _Read(spool)
        for part, files in parts.items():
            before = len(spool)
            for path in files:
                layout = form.layout(path, options)
                _check_same(read.layout, layout, path)
                read.layout = layout
                with Progress(f"read {path.name}", layout.documents, "documents") as progress:
                    for block in form.read(path, layout):
                        read.add(block)
                        progress.advance(len(block))
            read.counts[part] = len(spool) - before
    return read


def _check_same(first: Layout, layout: Layout, path: Path) -> None:
    for what in ("features", "labels"):
        wanted, got = getattr(first, what), getattr(layout, what)
        if None not in (wanted, got) and wanted != got:
            raise DataError(
                f"this file has another number of {what} than the one before",
                where=f"{path}, line 1",
                wanted=f"{wanted:,}",
                got=f"{got:,}",
                do="give files of one dataset, with the same features and labels",
            )


def _document_parts(read: _Read, parts: dict[str, list[Path]], split: str, options: IngestOptions) -> np.ndarray:
    """int8, the part of each document."""
    share = options.valid_share(split)
    if split == "random":
        codes = np.full(len(read.spool), TRAIN, dtype=np.int8)
        _cut(codes, TEST, options.test_fraction, options.seed)
    else:
        codes = np.repeat(
            np.array([PART_CODES[part] for part in read.counts], dtype=np.int8), list(read.counts.values())
        )
        if share and "valid" in parts:
            raise ConfigError("there is a valid part already", where="--valid-fraction", got=share, do="leave it out")
    of_all = share if split == "given" else share / (1 - options.test_fraction)
    _cut(codes, VALID, of_all, options.seed)
    return codes


def _cut(codes: np.ndarray, part: int, share: float, seed: int) -> None:
    """Give a share of the train documents to another part, at random."""
    train = np.flatnonzero(codes == TRAIN)
    number = round(share * len(train))
    chosen = numpy_generator(seed, f"documents of {PART_OF_CODE[part]}").permutation(len(train))[:number]
    codes[train[chosen]] = part


def _write(
    read: _Read, parts: np.ndarray, name: str, source: Path, out: Path, split: str, options: IngestOptions
) -> Dataset:
    lengths = np.concatenate(read.label_lengths)
    pairs = Pairs(np.repeat(np.arange(len(lengths), dtype=np.int32), lengths), np.concatenate(read.labels))
    read_pairs = dict.fromkeys(read.counts, 0) | _pairs_by_part(read, lengths)
    merged, _ = merge_duplicates(pairs)
    labels = parts[pairs.query]
    if not (labels == TRAIN).any():
        raise DataError("no train document has a label", where=source, do="check that this is the right file")
    assert read.layout.labels is not None
    query_ids = pl.Series("query_id", np.arange(1, len(lengths) + 1))
    item_ids = pl.Series("item_id", np.arange(read.layout.labels))
    lonely = np.flatnonzero(lengths == 0)
    table = Table(pairs, query_ids, item_ids, read_pairs, lonely, [name], Columns("query", "item"))
    everything = np.ones(len(query_ids), dtype=bool), np.ones(len(item_ids), dtype=bool)
    report = _report(read, parts, name, source, merged)
    folder = source if source.is_dir() else source.parent
    names = read_names(folder, "label", read.layout.labels)
    feature_names = read_names(folder, "feature", read.layout.features)
    return write_table(
        table,
        labels,
        everything,
        out,
        split,
        options,
        report,
        item_columns=None if names is None else pl.DataFrame({"title": names}),
        query_columns=pl.DataFrame({"split": _part_names(parts)}),
        features=lambda target, order: {
            "query": {
                FEATURES: write_features(
                    target / "query_features" / FEATURES,
                    read.spool,
                    read.layout.features,
                    parts == TRAIN,
                    feature_names,
                )
            }
        },
    )


def _pairs_by_part(read: _Read, lengths: np.ndarray) -> dict[str, int]:
    ends = np.cumsum([0, *read.counts.values()])
    return {
        part: int(lengths[low:high].sum()) for part, low, high in zip(read.counts, ends[:-1], ends[1:], strict=True)
    }


def _part_names(parts: np.ndarray) -> pl.Series:
    names = [PART_OF_CODE[code] for code in range(len(PART_OF_CODE))]
    return (
        pl.Series("split", parts).cast(pl.UInt32).replace_strict(list(range(len(names))), names, return_dtype=pl.String)
    )


def _report(read: _Read, parts: np.ndarray, name: str, source: Path, merged: int) -> dict[str, Any]:
    nothing = {"pairs": 0, "queries": 0, "items": 0, "rounds": 0}
    documents = {
        PART_OF_CODE[code]: int(count) for code, count in zip(*np.unique(parts, return_counts=True), strict=True)
    }
    return {
        "source": str(source),
        "formats": [name],
        "read": _pairs_by_part(read, np.concatenate(read.label_lengths)),
        "documents": documents,
        "feature_values": read.spool.num_values,
        "features": read.layout.features,
        "dropped": {"duplicates": merged, "min_counts": nothing},
    }
