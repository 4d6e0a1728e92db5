"""The contract of a format of documents, on documents written by plain code: run it over your own format.

from xclass.testing import check_document_format
check_document_format(MyFormat(), write, folder)
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from xclass.errors import XclassError
from xclass.ingest.formats.document_blocks import DocumentFormat, Documents, Layout
from xclass.ingest.options import IngestOptions
from xclass.runtime.rng import numpy_generator

LABELS, FEATURES = 50, 400
Plain = list[tuple[list[int], dict[int, float]]]
Write = Callable[[Path, Plain, int, int], Path]
"""(folder, documents, features there can be, labels there can be) -> the path to read."""


def check_document_format(form: DocumentFormat, write: Write, folder: Path, empty: bool = True) -> None:
    """Every promise of :class:`xclass.ingest.formats.document_blocks.DocumentFormat`; an AssertionError names the
    broken one.

    Args:
        write: writes a file of these documents as a person would.
        folder: an empty directory.
        empty: a document without labels and features can be written.
    """
    for number in (1, 9, 9_000):
        check_documents(form, write, folder / str(number), plain_documents(number, empty))
    check_order_of_features(form, write, folder / "order")
    check_refusals(form, write, folder)


def plain_documents(number: int, empty: bool) -> Plain:
    """Documents with none to four labels and none to six features, the largest numbers among them."""
    generator = numpy_generator(number, "plain documents")
    found: Plain = []
    for row in range(number):
        labels = sorted({int(label) for label in generator.integers(0, LABELS, generator.integers(0, 5))})
        features = sorted({int(value) for value in generator.integers(0, FEATURES, generator.integers(0, 7))})
        if row == 0 or not (empty or labels or features):
            labels, features = [LABELS - 1], [0, FEATURES - 1]
        found.append((labels, {value: float(np.float32(generator.normal())) for value in features}))
    return found


def check_documents(form: DocumentFormat, write: Write, folder: Path, wanted: Plain) -> None:
    """Everything comes back, in order, in blocks; twice the same; the layout is true."""
    folder.mkdir()
    path = write(folder, wanted, FEATURES, LABELS)
    layout = form.layout(path, IngestOptions())
    _check_layout(layout, len(wanted))
    blocks = list(form.read(path, layout))
    assert sum(map(len, blocks)) == len(wanted), "every document is read, once"
    assert len(wanted) < 9_000 or len(blocks) > 1, "documents come in blocks"
    assert _plain(blocks) == wanted, "labels, features and their weights are those of the file"
    assert _plain(list(form.read(path, layout))) == wanted, "a file can be read again"
    for block in blocks:
        _check_types(block)


def check_order_of_features(form: DocumentFormat, write: Write, folder: Path) -> None:
    """Features rise within a document, whatever their order in the file."""
    folder.mkdir()
    path = write(folder, [([3], {9: 1.0, 2: 2.0, 7: 3.0}), ([1], {4: 1.0, 0: -1.0})], FEATURES, LABELS)
    (block,) = form.read(path, form.layout(path, IngestOptions()))
    assert block.features.values.tolist() == [2, 7, 9, 0, 4], "features rise within a document"
    assert block.features.weights.tolist() == [2.0, 3.0, 1.0, -1.0, 1.0], "a weight stays with its feature"


def check_refusals(form: DocumentFormat, write: Write, folder: Path) -> None:
    """A negative number and a value that is none are an error that names the place; so is an empty file."""
    good: Plain = [([1], {3: 1.0}), ([2], {4: 1.0})]
    for name, features in (("negative", {-1: 1.0}), ("nan", {3: float("nan")}), ("infinite", {3: float("inf")})):
        place = folder / name
        place.mkdir()
        path = write(place, [*good, ([0], features), *good], FEATURES, LABELS)
        error = _refused(form, path)
        assert error is not None, f"a {name} number is refused"
        assert str(path) in str(error), "the error names the file"
        assert any(word in str(error) for word in ("line 4", "line 3", "row 2")), "the error names the line or row"
    path.write_bytes(b"")
    assert _refused(form, path) is not None, "an empty file is refused"


def _refused(form: DocumentFormat, path: Path) -> XclassError | None:
    try:
        for _ in form.read(path, form.layout(path, IngestOptions())):
            pass
    except XclassError as error:
        return error
    return None


def _check_layout(layout: Layout, documents: int) -> None:
    assert layout.documents in (None, documents), "the layout's number of documents is the file's"
    assert layout.features in (None, FEATURES) and layout.labels in (None, LABELS), "the layout's sizes are the file's"


def _check_types(block: Documents) -> None:
    features = block.features
    assert features.values.dtype == np.int64 and features.weights.dtype == np.float32, "features are int64 with float32"
    assert int(features.lengths.sum()) == len(features.values) == len(features.weights), (
        "lengths are those of the lists"
    )
    assert int(block.label_lengths.sum()) == len(block.labels), "as many labels as their lengths say"


def _plain(blocks: list[Documents]) -> Plain:
    found: Plain = []
    for block in blocks:
        labels = block.labels.cast(pl.Int64).to_list() if isinstance(block.labels, pl.Series) else block.labels.tolist()
        values, weights = block.features.values.tolist(), block.features.weights.tolist()
        ends, stops = np.cumsum(block.label_lengths).tolist(), np.cumsum(block.features.lengths).tolist()
        for row, (end, stop) in enumerate(zip(ends, stops, strict=True)):
            start, low = end - int(block.label_lengths[row]), stop - int(block.features.lengths[row])
            pairs = dict(zip(values[low:stop], weights[low:stop], strict=True))
            found.append((sorted(labels[start:end]), pairs))
    return found
