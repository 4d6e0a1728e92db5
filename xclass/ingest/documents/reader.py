"""Files of documents → pairs of numbers, ids, and features on the disk; in the order of the files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from xclass.errors import DataError
from xclass.ingest.columns import IdKind
from xclass.ingest.documents.sources import DocumentSource
from xclass.ingest.formats.document_blocks import DocumentFormat, Layout
from xclass.ingest.formats.documents import DOCUMENT_FORMATS
from xclass.ingest.formats.text import TextColumns, read_rows, text_columns
from xclass.ingest.options import IngestOptions
from xclass.ingest.reading.id_encoder import IdEncoder, recode
from xclass.ingest.text import lines
from xclass.ingest.writing.features import FeatureSpool
from xclass.runtime.progress import Progress


@dataclass(slots=True)
class ReadDocuments:
    """What was read of D documents, in order.

    lengths: int64 (D,), labels of each. labels: their places in ``item_ids``, document after document. ids: of the
    documents, None where they are known by their place. counts: documents by part. layout: of the first file; features
    None where nobody says. texts: the columns of raw text, None where features are numbered.
    """

    lengths: np.ndarray
    labels: np.ndarray
    item_ids: pl.Series
    ids: pl.Series | None
    counts: dict[str, int]
    layout: Layout
    texts: TextColumns | None = None

    @classmethod
    def numbered(cls, lengths: np.ndarray, labels: np.ndarray, counts: dict[str, int], layout: Layout) -> ReadDocuments:
        """Documents known by their place, with labels that are numbers."""
        assert layout.labels is not None
        ids = pl.Series("item_id", np.arange(layout.labels))
        return cls(lengths, labels, ids, None, counts, layout)


@dataclass(slots=True)
class _Growing:
    """What grows while file after file is read."""

    items: IdEncoder = field(default_factory=IdEncoder)
    lengths: list[np.ndarray] = field(default_factory=list)
    labels: list[np.ndarray] = field(default_factory=list)
    ids: list[pl.Series] = field(default_factory=list)
    documents: int = 0

    def add(self, lengths: np.ndarray, labels: np.ndarray | pl.Series) -> None:
        """The labels of one block: numbers, or ids that get a code."""
        codes = labels if isinstance(labels, np.ndarray) else self.encoded(labels)
        self.lengths.append(lengths)
        self.labels.append(codes.astype(np.int32))
        self.documents += len(lengths)

    def encoded(self, labels: pl.Series) -> np.ndarray:
        """uint32 codes."""
        return labels.to_frame("label").select(self.items.expression("label")).to_series().to_numpy()

    def finish(self, kinds: set[IdKind], where: Path, size: int | None) -> tuple[np.ndarray, pl.Series]:
        """Labels as places among the sorted ids, and these ids. ``size``: they are numbers below it already."""
        labels = np.concatenate(self.labels)
        if size is not None:
            return labels, pl.Series("item_id", np.arange(size))
        ids, places = self.items.finish(int(labels.max(initial=-1)) + 1, kinds, where, "label")
        return recode(labels, places), ids


def read_documents(source: DocumentSource, options: IngestOptions, spool: FeatureSpool) -> ReadDocuments:
    """Read every file of documents with numbered features; these go to ``spool``.

    Raises:
        DataError: the first line that is wrong; files of different sizes.
    """
    form, grown, counts = DOCUMENT_FORMATS[source.form], _Growing(), dict[str, int]()
    first: Layout | None = None
    for part, files in source.parts.items():
        before = grown.documents
        for path in files:
            layout = form.layout(path, options)
            _check_same(first or layout, layout, path)
            first = first or layout
            _read_file(form, path, layout, grown, spool)
        counts[part] = grown.documents - before
    assert first is not None
    labels, item_ids = grown.finish({"text"}, source.folder, first.labels)
    return ReadDocuments(np.concatenate(grown.lengths), labels, item_ids, None, counts, first)


def _read_file(form: DocumentFormat, path: Path, layout: Layout, grown: _Growing, spool: FeatureSpool) -> None:
    with Progress(f"read {path.name}", layout.documents, "documents") as progress:
        try:
            for block in form.read(path, layout):
                spool.append(block.features)
                grown.add(block.label_lengths, block.labels)
                progress.advance(len(block))
        except (pl.exceptions.PolarsError, *lines.READ_ERRORS) as error:
            for _ in lines.numbered_lines(path):
                pass
            raise DataError("this file can't be read", where=path, got=str(error).split("\n")[0][:200]) from None


def read_texts(
    source: DocumentSource, options: IngestOptions, item_ids: pl.Series | None, label_file: Path | None = None
) -> ReadDocuments:
    """Read labels and ids of every file of raw text; the text itself is read later, by :func:`text_blocks`.

    Args:
        item_ids: labels that are there whether a document has them or not.
        label_file: labels are the numbers of its rows, from 0: no other label can be.

    Raises:
        DataError: a row is wrong; a label is beyond the rows of ``label_file``.
    """
    grown, counts, described = _Growing(), dict[str, int](), list[TextColumns]()
    first = item_ids is not None and grown.encoded(item_ids.cast(pl.String))
    for part, files in source.parts.items():
        before = grown.documents
        for path in files:
            columns = text_columns(path, options)
            described.append(columns)
            if (columns.id is None) != (described[0].id is None):
                raise DataError("one file has ids of documents and another has none", where=path)
            with Progress(f"read {path.name}", None, "documents") as progress:
                for block in read_rows(path, columns, ["labels"] if columns.id is None else ["labels", "id"]):
                    lengths = block["labels"].list.len().to_numpy().astype(np.int64)
                    grown.add(lengths, block["labels"].explode(empty_as_null=False))
                    grown.ids += [] if columns.id is None else [block["id"]]
                    progress.advance(len(block))
        counts[part] = grown.documents - before
    if first is not False:
        grown.labels.insert(0, first.astype(np.int32))
    kinds: set[IdKind] = {"int64" if columns.labels_whole else "string" for columns in described if columns.labels_seen}
    where = next(iter(source.parts.values()))[0]
    labels, ids = grown.finish(kinds, where, None)
    labels = labels[len(item_ids) if item_ids is not None else 0 :]
    names = pl.concat(grown.ids) if grown.ids else None
    if names is not None and described[0].ids_whole:
        names = names.cast(pl.Int64)
    read = ReadDocuments(np.concatenate(grown.lengths), labels, ids, names, counts, Layout(), described[0])
    if item_ids is not None and label_file is not None:
        _check_numbers(read, len(item_ids), label_file)
    return read


def _check_numbers(read: ReadDocuments, size: int, label_file: Path) -> None:
    """Labels must be numbers of the ``size`` rows of a file."""
    beyond = ~read.item_ids.is_between(0, size - 1).to_numpy()
    if not beyond.any():
        return
    place = int(beyond[read.labels].argmax())
    document = int(np.searchsorted(np.cumsum(read.lengths), place, side="right"))
    name = f"number {document + 1:,}" if read.ids is None else f'"{read.ids[document]}"'
    raise DataError(
        f"a label is beyond the {size:,} labels of {label_file.name}",
        where=label_file,
        wanted=f"labels 0 to {size - 1:,}",
        got=f"label {read.item_ids[int(read.labels[place])]} of document {name}",
        do="check that the file of labels and the documents are of the same data set",
    )


def text_blocks(source: DocumentSource, options: IngestOptions, label: str) -> Iterator[tuple[int, pl.Series]]:
    """(number of the first document, texts) of every block of documents, in order."""
    number = 0
    with Progress(label, None, "documents") as progress:
        for files in source.parts.values():
            for path in files:
                for block in read_rows(path, text_columns(path, options), ["text"]):
                    yield number, block["text"]
                    number += len(block)
                    progress.advance(len(block))


def _check_same(first: Layout, layout: Layout, path: Path) -> None:
    for what in ("features", "labels"):
        wanted, got = getattr(first, what), getattr(layout, what)
        if wanted != got:
            raise DataError(
                f"this file has another number of {what} than the one before",
                where=path,
                wanted=f"{wanted:,}",
                got=f"{got:,}",
                do="give files of one dataset, with the same features and labels",
            )
