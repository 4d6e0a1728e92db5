"""Documents → a dataset directory: labels become pairs, features arrays that are written as they are read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

from xclass.data.dataset import Dataset
from xclass.data.vectorizer import Vectoriser
from xclass.errors import ConfigError, DataError
from xclass.ingest.documents.reader import ReadDocuments, read_documents, read_texts, text_blocks
from xclass.ingest.documents.sources import DocumentSource, read_filters, read_split_files
from xclass.ingest.documents.writer import PART_OF_CODE, DocumentJob, write_documents
from xclass.ingest.formats.text import text_columns
from xclass.ingest.label_texts import LabelTexts, read_names
from xclass.ingest.option_use import check_shares, check_use
from xclass.ingest.options import IngestOptions
from xclass.ingest.pairs import PART_CODES, TEST, TRAIN, VALID
from xclass.ingest.writing.features import FeatureSpool
from xclass.io.files import scratch_directory
from xclass.runtime.rng import numpy_generator


def ingest_documents(source: DocumentSource, out: Path, options: IngestOptions) -> Dataset:
    """Read documents and write the dataset directory ``out``; see :func:`xclass.ingest.ingest.ingest`.

    Documents are queries. Those without ids of their own are numbered from 1 in the order of the files, train before
    valid before test. Labels are items, with the file's numbers or names as their ids: all that a header counts or a
    file of label texts names, those without a document too. A split is by document: a test document is not in train.
    Raw text becomes features by a vectoriser that is fitted on train documents.

    Memory: about 20 bytes a pair of document and label, ids, the vocabulary; features go to the disk block by block.

    Raises:
        DataError: the first line that is wrong. ConfigError: an option that is not for documents.
    """
    split, raw = _checked_split(source, options), source.form == "text"
    with scratch_directory(out) as folder, FeatureSpool(folder) as spool:
        labels = LabelTexts.find(source, options)
        if raw:
            read = read_texts(source, options, labels.ids, labels.path if labels.by_row else None)
        else:
            read = read_documents(source, options, spool)
        if not read.lengths.sum():
            raise DataError("no document has a label", where=source.folder, do="check that this is the right file")
        parts = document_parts(read, split, options, source)
        job = DocumentJob(str(source.place), source.form, options, split, read, parts, spool)
        job.titles = labels.titles(read.item_ids, np.unique(read.labels))
        job.hidden = read_filters(source, read.counts, read.item_ids)
        if raw:
            job.vectoriser = _vectorise(source, parts, options, spool)
            job.columns = text_columns(next(iter(source.parts.values()))[0], options)
        elif source.form != "svmlight":
            job.feature_names = read_names(source.folder, "feature", read.layout.features)
        spool.close()
        return write_documents(job, out)


def _checked_split(source: DocumentSource, options: IngestOptions) -> str:
    check_use(options, "documents with text" if source.form == "text" else source.form, source.place)
    check_shares(options, "given" if source.given else "random", source.place)
    if source.splits is None and "split_number" in options.model_fields_set and options.split_number > 1:
        raise ConfigError(
            "there are no files of splits beside these documents", where="--split-number", do="leave it out"
        )
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


def document_parts(
    read: ReadDocuments, split: str, options: IngestOptions, source: DocumentSource | None = None
) -> np.ndarray:
    """int8 (D,), the part of each document."""
    share, seed = options.valid_share(split), options.seed
    if split == "random":
        codes = np.full(len(read.lengths), TRAIN, dtype=np.int8)
        _cut(codes, TEST, options.test_fraction, seed)
        _cut(codes, VALID, share / (1 - options.test_fraction), seed)
        return codes
    assert source is not None
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
