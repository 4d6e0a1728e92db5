"""Lines ``label,label feature:value …`` taken apart, fast; and the search for what is wrong with one, slow."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

from xclass.data.features import Sparse
from xclass.errors import DataError
from xclass.ingest.formats.document_blocks import MOST_NUMBERS, Documents, Layout
from xclass.ingest.text import lines as text

LINES_PER_BLOCK = 8192
LARGEST_FLOAT32 = 3.4028235e38
NUMBER = re.compile(r"[0-9]+", re.ASCII)


def line_blocks(path: Path) -> Iterator[pl.Series]:
    """The lines of a file, some thousand at a time."""
    for lines in text.line_blocks(path):
        for low in range(0, len(lines), LINES_PER_BLOCK):
            yield lines[low : low + LINES_PER_BLOCK]


def parse_lines(lines: pl.Series, layout: Layout, numbered: bool = True) -> Documents | None:
    """The documents of these lines, or None when something in them is not as it should be.

    Args:
        layout: bounds of labels and features.
        numbered: labels are numbers from 0; else they are ids, any text without a comma or a blank.
    """
    lines = lines.str.strip_chars_end("\r\n \t").str.replace_all("\t", " ", literal=True)
    first = lines.str.extract("^([^ :]*)(?: |$)", 1).fill_null("")
    labelled = first != ""
    label_lengths = np.where(labelled.to_numpy(), first.str.count_matches(",").to_numpy() + 1, 0)
    labels = first.filter(labelled).str.split(",").explode(empty_as_null=False)
    tokens = lines.str.slice(first.str.len_chars()).str.split(" ").list.eval(pl.element().filter(pl.element() != ""))
    lengths, tokens = tokens.list.len().to_numpy().astype(np.int64), tokens.explode(empty_as_null=False)
    parts = tokens.str.splitn(":", 2).struct.unnest()
    values, weights = _integers(parts["field_0"]), parts["field_1"].cast(pl.Float32, strict=False)
    if values.null_count() or weights.null_count():
        return None
    found = Sparse(lengths, values.to_numpy(), weights.to_numpy())
    numbers = _label_numbers(labels, layout) if numbered else None
    good = numbers is not None if numbered else bool((labels != "").all())
    if not (good and _within(found.values, layout.bound("features")) and np.isfinite(found.weights).all()):
        return None
    return Documents(label_lengths, labels if numbers is None else numbers, found.canonical())


def _label_numbers(labels: pl.Series, layout: Layout) -> np.ndarray | None:
    """int64, or None when one of them is not a number of a label."""
    numbers = _integers(labels)
    good = numbers.null_count() == 0 and _within(numbers.to_numpy(), layout.bound("labels"))
    return numbers.to_numpy() if good else None


def _integers(texts: pl.Series) -> pl.Series:
    """Null for what is no whole number; a sign makes it none, in front of 0 too."""
    signed = texts.str.starts_with("-") | texts.str.starts_with("+")
    numbers = texts.cast(pl.Int64, strict=False)
    return numbers.set(signed, None) if signed.any() else numbers


def _within(numbers: np.ndarray, size: int) -> bool:
    return len(numbers) == 0 or bool(numbers.min() >= 0 and numbers.max() < size)


def line_error(line: str, layout: Layout, where: str, numbered: bool = True) -> DataError | None:
    """What is wrong with one line, or None."""
    fields = line.replace("\t", " ").split(" ")
    labels = "" if ":" in fields[0] else fields.pop(0)
    for label in labels.split(",") if labels else []:
        problem = number_problem(label, layout.labels, "label") if numbered else label_problem(label)
        if problem:
            return _bad(*problem, where)
    for field in filter(None, fields):
        name, colon, value = field.partition(":")
        if not colon:
            return _bad("this is not a feature with its value", "feature:value", field, where)
        problem = number_problem(name, layout.features, "feature") or value_problem(value)
        if problem:
            return _bad(*problem, where)
    return None


def number_problem(field: str, size: int | None, what: str) -> tuple[str, str, str] | None:
    """(what is wrong, wanted, got) of a label's or a feature's number, or None."""
    bound = f" to {MOST_NUMBERS - 1:,}" if size is None else f" to {size - 1:,}, as the header says"
    if not NUMBER.fullmatch(field):
        return f"this is not the number of a {what}", f"a whole number from 0{bound}", field or "nothing"
    if int(field) >= (MOST_NUMBERS if size is None else size):
        limit = "largest" if size is None else "header's"
        return f"this {what} is beyond the {limit} number", f"0{bound}", field
    return None


def label_problem(field: str) -> tuple[str, str, str] | None:
    """(what is wrong, wanted, got) of a label's id, or None."""
    return None if field else ("there is a label without an id", "labels with a comma between two", "nothing")


def value_problem(field: str) -> tuple[str, str, str] | None:
    """(what is wrong, wanted, got) of a feature's value, or None."""
    good = text.is_number(field) and math.isfinite(float(field)) and abs(float(field)) <= LARGEST_FLOAT32
    return None if good else ("this value of a feature is not a finite number", "a number", field or "nothing")


def _bad(what: str, wanted: str, got: str, where: str) -> DataError:
    return DataError(what, where=where, wanted=wanted, got=got[:80], do="mend the line: label,label feature:value …")
