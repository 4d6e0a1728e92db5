"""Extreme-classification text: a header ``N D L``, then a document a line: ``label,label feature:value …``."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

from xclass.data import text
from xclass.data.document_blocks import MOST_NUMBERS, Documents, Layout, Sparse
from xclass.data.options import IngestOptions
from xclass.errors import DataError
from xclass.progress import say

LINES_PER_BLOCK = 8192
LARGEST_FLOAT32 = 3.4028235e38
NUMBER = re.compile(r"[0-9]+", re.ASCII)
MEND = "mend the line; labels and features are numbered from 0"


class Xmc:
    """The text of the extreme classification repository.

    A line may begin with a blank: no labels. It may end after the labels: no features. A blank line is a document with
    neither and counts as one; blank lines after the last document are passed over. Values may be negative or 0. A
    feature that comes again in a document adds up, a label that comes again counts once.
    """

    def layout(self, path: Path, options: IngestOptions) -> Layout:
        """The three numbers of the first line."""
        first = text.head(path)[0]
        fields = first.split()
        if len(fields) != 3 or not all(NUMBER.fullmatch(field) for field in fields):
            raise DataError(
                "the first line is not a header",
                where=f"{path}, line 1",
                wanted="three numbers: documents, features, labels",
                got=first[:80],
                do='write the header, for example "4880 1836 159"',
            )
        documents, features, labels = map(int, fields)
        if max(features, labels) > MOST_NUMBERS or documents < 1:
            raise DataError(
                "the header's numbers can't be right",
                where=f"{path}, line 1",
                wanted=f"at least one document, and at most {MOST_NUMBERS:,} features and labels",
                got=first[:80],
            )
        return Layout(documents, features, labels)

    def read(self, path: Path, layout: Layout) -> Iterator[Documents]:
        """Polars takes the lines apart; the first thing that looks wrong starts the search for its line."""
        lines = pl.scan_lines(path, glob=False).slice(1)
        left = layout.documents
        assert left is not None
        for block in lines.collect_batches(chunk_size=LINES_PER_BLOCK, maintain_order=True):
            found = block["line"]
            if len(found) > left and (found[left:].str.strip_chars() == "").all():
                found = found[:left]
            documents = None if len(found) > left else parse_lines(found, layout)
            if documents is None:
                raise _diagnosed(path, layout)
            left -= len(documents)
            if len(documents):
                yield documents
        if left:
            raise _diagnosed(path, layout)


def parse_lines(lines: pl.Series, layout: Layout) -> Documents | None:
    """The documents of these lines, or None when something in them is not as it should be.

    Bounds of labels and features are those of ``layout``; where it has none only negative numbers are wrong.
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
    numbers = _integers(labels)
    if any(part.null_count() for part in (values, weights, numbers)):
        return None
    found = Sparse(lengths, values.to_numpy(), weights.to_numpy())
    if not (_within(numbers.to_numpy(), layout.labels) and _within(found.values, layout.features)):
        return None
    if not np.isfinite(found.weights).all():
        return None
    return Documents(label_lengths, numbers.to_numpy(), found.canonical())


def _integers(texts: pl.Series) -> pl.Series:
    return texts.cast(pl.Int64, strict=False)


def _within(numbers: np.ndarray, size: int | None) -> bool:
    return len(numbers) == 0 or bool(numbers.min() >= 0 and (size is None or numbers.max() < size))


def _diagnosed(path: Path, layout: Layout) -> DataError:
    """The error of the first line that is wrong."""
    say(f"{path}: something looks wrong, checking every line")
    wanted = layout.documents
    assert wanted is not None
    count = 0
    for number, line in text.numbered_lines(path):
        if number == 1:
            continue
        count = count + 1 if count < wanted or line.strip() else count
        if count > wanted:
            return _miscounted(path, f"line {number:,}", wanted, f"one more: {line[:60]!r}")
        where = f"{path}, line {number:,}"
        error = line_error(line, layout, where)
        if error is not None:
            return error
    if count < wanted:
        return _miscounted(path, "end of file", wanted, f"{count:,}")
    return DataError("this file can't be read", where=path, do="check that it is whole")


def line_error(line: str, layout: Layout, where: str) -> DataError | None:
    """What is wrong with one line, or None."""
    fields = line.replace("\t", " ").split(" ")
    labels = "" if ":" in fields[0] else fields.pop(0)
    for label in labels.split(",") if labels else []:
        problem = number_problem(label, layout.labels, "label")
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
    bound = "" if size is None else f" to {size - 1:,}, as the header says"
    if not NUMBER.fullmatch(field):
        return f"this is not the number of a {what}", f"a whole number from 0{bound}", field or "nothing"
    if size is not None and int(field) >= size:
        return f"this {what} is beyond the header's number", f"0{bound}", field
    return None


def value_problem(field: str) -> tuple[str, str, str] | None:
    """(what is wrong, wanted, got) of a feature's value, or None."""
    good = text.is_number(field) and math.isfinite(float(field)) and abs(float(field)) <= LARGEST_FLOAT32
    return None if good else ("this value of a feature is not a finite number", "a number", field or "nothing")


def _bad(what: str, wanted: str, got: str, where: str) -> DataError:
    return DataError(what, where=where, wanted=wanted, got=got[:80], do=MEND)


def _miscounted(path: Path, place: str, wanted: int, got: str) -> DataError:
    return DataError(
        "the header's number of documents is not the file's",
        where=f"{path}, {place}",
        wanted=f"{wanted:,} documents, as line 1 says",
        got=got,
        do="check that the file is whole, or mend its first line",
    )
