"""Documents that were read → the dataset directory: numbers, parts, features of both sides, hidden pairs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from xclass.data.dataset import HIDDEN, TEXT, Dataset, write_ragged
from xclass.data.vectorizer import Vectoriser
from xclass.errors import DataError
from xclass.ingest.columns import Columns
from xclass.ingest.documents.reader import ReadDocuments
from xclass.ingest.formats.document_blocks import FEATURES
from xclass.ingest.formats.text import TextColumns
from xclass.ingest.options import IngestOptions
from xclass.ingest.pairs import PART_CODES, TRAIN, Pairs, group_by_query, merge_duplicates
from xclass.ingest.reading.reader import Table
from xclass.ingest.writing.features import FeatureSpool, write_features
from xclass.ingest.writing.table import write_table

PART_OF_CODE = {code: name for name, code in PART_CODES.items()}


@dataclass(slots=True)
class DocumentJob:
    """Everything that was found out about D documents, for writing.

    source, form: as the report names them. parts: int8 (D,), the part of each document. spool: their features, closed.
    titles: of the labels, by code. feature_names: of numbered features. vectoriser: what made the features of texts.
    item_features: gives the labels' features in the order of item numbers, which it is given as codes. hidden: places
    of documents and codes of labels that are never to be shown together. fields: more for the manifest.
    columns: of the first file of raw text.
    """

    source: str
    form: str
    options: IngestOptions
    split: str
    read: ReadDocuments
    parts: np.ndarray
    spool: FeatureSpool
    titles: pl.Series | None = None
    feature_names: pl.Series | None = None
    vectoriser: Vectoriser | None = None
    item_features: Callable[[np.ndarray], FeatureSpool] | None = None
    hidden: tuple[np.ndarray, np.ndarray] | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    columns: TextColumns | None = None


def write_documents(job: DocumentJob, out: Path) -> Dataset:
    """Number documents by their ids and labels by falling train count, and write the dataset directory.

    Raises:
        DataError: no train document has a label; two documents have the same id.
    """
    read, number = job.read, len(job.read.lengths)
    order, ids = _sorted_ids(job)
    codes = np.arange(number, dtype=np.int32)
    if order is not None:
        codes[order] = np.arange(number, dtype=np.int32)
    pairs = Pairs(np.repeat(codes, read.lengths), read.labels)
    group_by_query(pairs)
    merged, _ = merge_duplicates(pairs)
    parts = job.parts if order is None else job.parts[order]
    labels = parts[pairs.query]
    if not (labels == TRAIN).any():
        raise DataError("no train document has a label", where=job.source, do="check that this is the right file")
    lonely = np.flatnonzero((read.lengths if order is None else read.lengths[order]) == 0)
    table = Table(pairs, ids, read.item_ids, _pairs_by_part(read), lonely, [job.form], Columns("query", "item"))
    return write_table(
        table,
        labels,
        (np.ones(number, dtype=bool), np.ones(len(read.item_ids), dtype=bool)),
        out,
        job.split,
        job.options,
        _report(job, merged),
        item_columns=None if job.titles is None else pl.DataFrame({"title": job.titles}),
        query_columns=pl.DataFrame({"split": _part_names(parts)}),
        fields=job.fields,
        features=lambda folder, item_order: _write_features(job, folder, order, codes, item_order),
    )


def _sorted_ids(job: DocumentJob) -> tuple[np.ndarray | None, pl.Series]:
    """Documents in the order of their ids (None: they are in it), and the ids rising."""
    read = job.read
    if read.ids is None:
        return None, pl.Series("query_id", np.arange(1, len(read.lengths) + 1))
    order = read.ids.arg_sort().to_numpy()
    ids = read.ids.gather(order).alias("query_id")
    again = (ids == ids.shift(1)).fill_null(False)
    if again.any():
        raise DataError(
            "two documents have the same id",
            where=job.source,
            wanted="an id for each document",
            got=", ".join(map(str, ids.filter(again).unique(maintain_order=True).head(3))),
        )
    return order, ids


def _write_features(
    job: DocumentJob, folder: Path, order: np.ndarray | None, codes: np.ndarray, item_order: np.ndarray
) -> dict[str, Any]:
    """Both sides' features and the hidden pairs; what the manifest says of them."""
    name = FEATURES if job.vectoriser is None else TEXT
    size = job.read.layout.features if job.vectoriser is None else job.vectoriser.size
    place, train = folder / "query_features" / name, job.parts == TRAIN
    queries = write_features(place, job.spool, size, train, job.feature_names, order, job.vectoriser)
    found: dict[str, Any] = {"features": {"query": {name: queries}}}
    everything = np.ones(len(item_order), dtype=bool)
    if job.item_features is not None:
        place = folder / "item_features" / FEATURES
        items = write_features(place, job.item_features(item_order), size, everything, job.feature_names)
        found["features"]["item"] = {FEATURES: items}
    elif (texts := _label_texts(job)) is not None:
        vectoriser = job.vectoriser or _fitted_on_labels(texts, job.options)
        with FeatureSpool(job.spool.folder / "items") as spool:
            for block in vectoriser.blocks(texts.gather(item_order)):
                spool.append(block)
            spool.close()
            place = folder / "item_features" / TEXT
            items = write_features(place, spool, vectoriser.size, everything, None, None, vectoriser)
        found["features"]["item"] = {TEXT: items}
    return found if job.hidden is None else found | _write_hidden(job, folder, codes, item_order)


def _label_texts(job: DocumentJob) -> pl.Series | None:
    """The titles, else ids that are words; None where nothing says what a label means."""
    ids = job.read.item_ids
    texts = job.titles if job.titles is not None else ids if ids.dtype == pl.String else None
    has_words = texts is not None and bool(texts.str.contains(r"\w").any())
    return texts if has_words else None


def _fitted_on_labels(texts: pl.Series, options: IngestOptions) -> Vectoriser:
    return Vectoriser.fit([texts], options.text.model_copy(update={"min_documents": 1}))


def _write_hidden(job: DocumentJob, folder: Path, codes: np.ndarray, item_order: np.ndarray) -> dict[str, Any]:
    """Ragged by query number: the items that it must not be shown."""
    assert job.hidden is not None
    documents, labels = job.hidden
    numbers = np.empty(len(item_order), dtype=np.int32)
    numbers[item_order] = np.arange(len(item_order), dtype=np.int32)
    pairs = Pairs(codes[documents], numbers[labels])
    group_by_query(pairs)
    merge_duplicates(pairs)
    offsets = np.zeros(len(codes) + 1, dtype=np.int64)
    np.cumsum(np.bincount(pairs.query, minlength=len(codes)), out=offsets[1:])
    write_ragged(folder / HIDDEN, offsets, pairs.item)
    return {HIDDEN: {"pairs": len(pairs)}}


def _pairs_by_part(read: ReadDocuments) -> dict[str, int]:
    ends = np.cumsum([0, *read.counts.values()])
    each = zip(read.counts, ends[:-1], ends[1:], strict=True)
    return {part: int(read.lengths[low:high].sum()) for part, low, high in each}


def _part_names(parts: np.ndarray) -> pl.Series:
    names = pl.Series([PART_OF_CODE[code] for code in range(len(PART_OF_CODE))], dtype=pl.String)
    return names.gather(parts.astype(np.int64)).alias("split")


def _report(job: DocumentJob, merged: int) -> dict[str, Any]:
    nothing = {"pairs": 0, "queries": 0, "items": 0, "rounds": 0}
    counted = zip(*np.unique(job.parts, return_counts=True), strict=True)
    columns = {} if job.columns is None else {"columns": job.columns.used(), "unused": list(job.columns.unused)}
    hidden = {} if job.hidden is None else {"hidden_pairs": len(job.hidden[0])}
    return {
        "source": job.source,
        "formats": [job.form],
        **columns,
        "read": _pairs_by_part(job.read),
        "documents": {PART_OF_CODE[code]: int(count) for code, count in counted},
        "feature_values": job.spool.num_values,
        "dropped": {"duplicates": merged, "min_counts": nothing},
        **hidden,
    }
