"""Documents → a dataset directory: labels become pairs, features arrays that are written as they are read."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from xclass.data.columns import Columns
from xclass.data.document_blocks import FEATURES, TEXT
from xclass.data.document_reading import ReadDocuments, read_documents, read_texts, text_blocks
from xclass.data.document_sources import DocumentSource, read_split_files
from xclass.data.feature_files import FeatureSpool, write_features
from xclass.data.label_texts import LabelTexts, read_names
from xclass.data.options import IngestOptions
from xclass.data.pairs import PART_CODES, TEST, TRAIN, VALID, Pairs, group_by_query, merge_duplicates
from xclass.data.reading import Table
from xclass.data.store import Dataset
from xclass.data.table_writing import write_table
from xclass.data.vectoriser import Vectoriser
from xclass.errors import ArtefactError, ConfigError, DataError
from xclass.rng import numpy_generator

REFUSED = ("weight_col", "time_col", "header", "separator", "min_query_count", "min_item_count")
COLUMNS = ("query_col", "item_col", "text_col", "item_text")
PART_OF_CODE = {code: name for name, code in PART_CODES.items()}


def ingest_documents(source: DocumentSource, out: Path, options: IngestOptions) -> Dataset:
    """Read documents and write the dataset directory ``out``; see :func:`xclass.data.ingest.ingest`.

    Documents are queries. Those without ids of their own are numbered from 1 in the order of the files, train before
    valid before test. Labels are items, with the file's numbers or names as their ids: all that a header counts or a
    file of label texts names, those without a document too. A split is by document: a test document is not in train.
    Raw text becomes features by a vectoriser that is fitted on train documents.

    Memory: about 20 bytes a pair of document and label, ids, the vocabulary; features go to the disk block by block.

    Raises:
        DataError: the first line that is wrong. ConfigError: an option that is not for documents.
    """
    split = _checked_split(source, options)
    with scratch_directory(out) as folder, FeatureSpool(folder) as spool:
        labels = LabelTexts.find(source, options)
        read = (
            read_texts(source, options, labels.ids) if source.form == "text" else read_documents(source, options, spool)
        )
        if not read.lengths.sum():
            raise DataError("no document has a label", where=source.folder, do="check that this is the right file")
        parts = _document_parts(source, read, split, options)
        vectoriser = None if read.texts is None else _vectorise(source, parts, options, spool)
        spool.close()
        return _write(_Job(source, options, split, read, parts, spool, labels, vectoriser), out)


class _Job(NamedTuple):
    """Everything that was found out, for writing. parts: int8 (D,), the part of each document."""

    source: DocumentSource
    options: IngestOptions
    split: str
    read: ReadDocuments
    parts: np.ndarray
    spool: FeatureSpool
    labels: LabelTexts
    vectoriser: Vectoriser | None


def _checked_split(source: DocumentSource, options: IngestOptions) -> str:
    refused = REFUSED if source.form == "text" else (*REFUSED, *COLUMNS)
    for option in refused:
        if getattr(options, option) not in (None, 0, ()):
            flag = "--" + option.replace("_", "-")
            raise ConfigError(f"this option is not for the format {source.form}", where=flag, do=f"leave {flag} out")
    allowed = ("auto", "given") if source.given else ("auto", "random")
    if options.split not in allowed:
        what = "are divided already" if source.given else "have no times and no given split"
        raise ConfigError(
            f"these documents {what}",
            where="--split",
            wanted=" or ".join(allowed),
            got=options.split,
            do="leave it out",
        )
    return "given" if source.given else "random"


@contextmanager
def scratch_directory(out: Path) -> Iterator[Path]:
    """A hidden directory beside ``out``, on its disk, removed at the end."""
    if out.exists():
        raise ArtefactError("this directory exists already", where=out, do="choose another --out, or remove it first")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.", suffix=".tmp") as folder:
        yield Path(folder)


def _document_parts(source: DocumentSource, read: ReadDocuments, split: str, options: IngestOptions) -> np.ndarray:
    """int8 (D,), the part of each document."""
    share, seed = options.valid_share(split), options.seed
    if split == "random":
        codes = np.full(len(read.lengths), TRAIN, dtype=np.int8)
        _cut(codes, TEST, options.test_fraction, seed)
        _cut(codes, VALID, share / (1 - options.test_fraction), seed)
        return codes
    if share and "valid" in source.parts:
        raise ConfigError("there is a valid part already", where="--valid-fraction", got=share, do="leave it out")
    if source.splits is not None:
        codes = read_split_files(source.splits, options.split_number, len(read.lengths))
        if (codes < 0).any():
            raise DataError(
                "there are documents in neither part of the split",
                where=source.splits[0],
                got=f"{int((codes < 0).sum()):,}, the first is number {int((codes < 0).argmax()) + 1:,}",
            )
    else:
        names = np.array([PART_CODES[part] for part in read.counts], dtype=np.int8)
        codes = np.repeat(names, list(read.counts.values()))
    _cut(codes, VALID, share, seed)
    return codes


def _cut(codes: np.ndarray, part: int, share: float, seed: int) -> None:
    """Give a share of the train documents to another part, at random."""
    train = np.flatnonzero(codes == TRAIN)
    chosen = numpy_generator(seed, f"documents of {PART_OF_CODE[part]}").permutation(len(train))
    codes[train[chosen[: round(share * len(train))]]] = part


def _vectorise(source: DocumentSource, parts: np.ndarray, options: IngestOptions, spool: FeatureSpool) -> Vectoriser:
    """Fit on the train documents, then write every document's features to ``spool``."""

    def train_texts() -> Iterator[pl.Series]:
        for first, texts in text_blocks(source, options, "count words"):
            yield texts.filter(pl.Series(parts[first : first + len(texts)] == TRAIN))

    vectoriser = Vectoriser.fit(train_texts(), options.text)
    for _, texts in text_blocks(source, options, "weigh words"):
        spool.append(vectoriser.transform(texts))
    return vectoriser


def _write(job: _Job, out: Path) -> Dataset:
    read = job.read
    number = len(read.lengths)
    order, ids = _sorted_ids(read, job.source)
    codes = np.arange(number, dtype=np.int32)
    if order is not None:
        codes[order] = np.arange(number, dtype=np.int32)
    pairs = Pairs(np.repeat(codes, read.lengths), read.labels)
    group_by_query(pairs)
    merged, _ = merge_duplicates(pairs)
    parts = job.parts if order is None else job.parts[order]
    labels = parts[pairs.query]
    if not (labels == TRAIN).any():
        raise DataError(
            "no train document has a label", where=job.source.folder, do="check that this is the right file"
        )
    lonely = np.flatnonzero((read.lengths if order is None else read.lengths[order]) == 0)
    table = Table(pairs, ids, read.item_ids, _pairs_by_part(read), lonely, [job.source.form], Columns("query", "item"))
    everything = np.ones(number, dtype=bool), np.ones(len(read.item_ids), dtype=bool)
    titles = job.labels.titles(read.item_ids)
    return write_table(
        table,
        labels,
        everything,
        out,
        job.split,
        job.options,
        _report(job, merged),
        item_columns=None if titles is None else pl.DataFrame({"title": titles}),
        query_columns=pl.DataFrame({"split": _part_names(parts)}),
        features=_feature_writer(job, order, titles),
    )


def _sorted_ids(read: ReadDocuments, source: DocumentSource) -> tuple[np.ndarray | None, pl.Series]:
    """Documents in the order of their ids (None: they are in it), and the ids rising."""
    if read.ids is None:
        return None, pl.Series("query_id", np.arange(1, len(read.lengths) + 1))
    order = read.ids.arg_sort().to_numpy()
    ids = read.ids.gather(order).alias("query_id")
    again = (ids == ids.shift(1)).fill_null(False)
    if again.any():
        raise DataError(
            "two documents have the same id",
            where=source.folder,
            wanted="an id for each document",
            got=", ".join(map(str, ids.filter(again).unique(maintain_order=True).head(3))),
        )
    return order, ids


def _feature_writer(
    job: _Job, order: np.ndarray | None, titles: pl.Series | None
) -> Callable[[Path, np.ndarray], dict[str, Any]]:
    """Writes both sides' features below a folder, given the codes of the items in the order of their numbers."""

    def write(target: Path, item_order: np.ndarray) -> dict[str, Any]:
        name = FEATURES if job.vectoriser is None else TEXT
        names = (
            None if job.vectoriser is not None else read_names(job.source.folder, "feature", job.read.layout.features)
        )
        size = job.read.layout.features if job.vectoriser is None else job.vectoriser.size
        folder = target / "query_features" / name
        counted = job.parts == TRAIN
        found = {"query": {name: write_features(folder, job.spool, size, counted, names, order, job.vectoriser)}}
        ids = job.read.item_ids
        texts = titles if titles is not None else ids if ids.dtype == pl.String else None
        if texts is None:
            return found
        vectoriser = job.vectoriser or Vectoriser.fit([texts], job.options.text.model_copy(update={"min_documents": 1}))
        with FeatureSpool(job.spool.folder / "items") as spool:
            for block in vectoriser.blocks(texts.gather(item_order)):
                spool.append(block)
            spool.close()
            everything = np.ones(len(item_order), dtype=bool)
            folder = target / "item_features" / TEXT
            found["item"] = {TEXT: write_features(folder, spool, vectoriser.size, everything, None, None, vectoriser)}
        return found

    return write


def _pairs_by_part(read: ReadDocuments) -> dict[str, int]:
    ends = np.cumsum([0, *read.counts.values()])
    each = zip(read.counts, ends[:-1], ends[1:], strict=True)
    return {part: int(read.lengths[low:high].sum()) for part, low, high in each}


def _part_names(parts: np.ndarray) -> pl.Series:
    names = pl.Series([PART_OF_CODE[code] for code in range(len(PART_OF_CODE))], dtype=pl.String)
    return names.gather(parts.astype(np.int64)).alias("split")


def _report(job: _Job, merged: int) -> dict[str, Any]:
    nothing = {"pairs": 0, "queries": 0, "items": 0, "rounds": 0}
    counted = zip(*np.unique(job.parts, return_counts=True), strict=True)
    return {
        "source": str(job.source.place),
        "formats": [job.source.form],
        "read": _pairs_by_part(job.read),
        "documents": {PART_OF_CODE[code]: int(count) for code, count in counted},
        "feature_values": job.spool.num_values,
        "dropped": {"duplicates": merged, "min_counts": nothing},
    }
