"""Whatever a file of documents holds: it is read as the plain reader reads it, or refused with one clear error."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import Any

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from xclass.errors import XclassError
from xclass.ingest.formats.document_blocks import Layout
from xclass.ingest.formats.document_lines import line_error, parse_lines
from xclass.ingest.formats.text import read_rows, text_columns
from xclass.ingest.ingest import ingest
from xclass.ingest.options import IngestOptions

LAYOUT = Layout(1, 12, 9)
LINES = st.text(alphabet="0123456789,,::: .-+eE\tna#_", max_size=24)
GOOD = st.lists(st.integers(0, 9).map(str), max_size=3).map(",".join)
PAIRS = st.lists(st.tuples(st.integers(-1, 12), st.floats(width=32)).map(lambda p: f"{p[0]}:{p[1]}"), max_size=4)
LARGEST = 3.4028234663852886e38
MIXED = st.one_of(LINES, st.tuples(GOOD, PAIRS).map(lambda p: " ".join([p[0], *p[1]])))


def plainly(line: str) -> tuple[list[int], dict[int, float]] | None:
    """The slow reference: labels and features, or None for a line that is wrong."""
    fields = line.rstrip(" \t\r\n").replace("\t", " ").split(" ")
    labels = [] if ":" in fields[0] else fields.pop(0).split(",")
    try:
        found = [int(label) for label in labels if labels != [""]]
        pairs = [(int(name), float(value)) for name, value in (field.split(":") for field in fields if field)]
    except ValueError:
        return None
    texts = [*([] if labels == [""] else labels), *(field.split(":")[0] for field in fields if field)]
    if not all(text.isascii() and text.isdigit() for text in texts) or "_" in line:
        return None
    good = all(label < 9 for label in found) and all(
        n < 12 and math.isfinite(v) and abs(v) <= 3.4028235e38 for n, v in pairs
    )
    sums: dict[int, float] = {}
    for name, value in pairs:
        sums[name] = max(-LARGEST, min(LARGEST, sums.get(name, 0.0) + value))
    return (found, sums) if good else None


@settings(max_examples=120, deadline=None)
@given(st.lists(MIXED, min_size=1, max_size=4))
def test_lines_are_read_as_the_plain_reader_reads_them(lines: list[str]) -> None:
    wanted = [plainly(line) for line in lines]
    got = parse_lines(pl.Series(lines, dtype=pl.String), LAYOUT)
    errors = [line_error(line.rstrip(" \t"), LAYOUT, "here") for line in lines]
    assert [error is None for error in errors] == [row is not None for row in wanted]
    if got is None:
        assert None in wanted, "nothing good is refused"
        return
    assert None not in wanted, "nothing bad is read"
    names, weights = got.features.values.tolist(), got.features.weights.tolist()
    label, place = 0, 0
    for row, (labels, features) in enumerate(w for w in wanted if w is not None):
        count, length = int(got.label_lengths[row]), int(got.features.lengths[row])
        assert got.labels[label : label + count].tolist() == labels
        assert names[place : place + length] == sorted(features)
        for name, weight in zip(names[place : place + length], weights[place : place + length], strict=True):
            assert math.isclose(weight, features[name], rel_tol=1e-6, abs_tol=1e-37 + 1e-6 * abs(features[name]))
        label, place = label + count, place + length


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=60), st.sampled_from(["a.txt", "a.svm", "a.jsonl", "X.a.npz", "a.txt.gz", "a.parquet"]))
def test_any_bytes_are_refused_or_read(raw: bytes, name: str) -> None:
    form = {"a.txt": "xmc", "a.svm": "svmlight", "a.txt.gz": "xmc", "X.a.npz": "npz"}.get(name, "text")
    with tempfile.TemporaryDirectory() as folder:
        for each in (name, name.replace("X", "Y")):
            (Path(folder) / each).write_bytes(raw)
        try:
            ingest(Path(folder) / name, Path(folder) / "out", IngestOptions(format=form))
        except XclassError:
            assert not (Path(folder) / "out").exists()


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.floats(), st.text(max_size=3), st.lists(st.integers(0, 2))
)
ROWS = st.fixed_dictionaries({}, optional={"text": VALUES, "labels": st.one_of(VALUES, st.lists(VALUES)), "id": VALUES})


@settings(max_examples=40, deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=4))
def test_any_rows_are_refused_or_read(rows: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        try:
            columns = text_columns(path, IngestOptions())
            wanted = ["text", "labels", *(["id"] if columns.id else [])]
            blocks = list(read_rows(path, columns, wanted))
        except XclassError:
            return
        assert sum(map(len, blocks)) == len(rows)
        assert all(isinstance(row.get("text"), str | int | float | None | bool | list) for row in rows)
