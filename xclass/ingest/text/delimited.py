"""Delimited text → blocks of rows: the rows that Python's csv module reads, at the speed of Polars.

:func:`records` says what a file holds. :func:`blocks` gives the same rows in data frames: a block of whole lines whose
shape leaves nothing open is read by Polars, and the number of rows compared; any other block goes through ``records``,
which reads it or names the line that is wrong.
"""

from __future__ import annotations

import contextlib
import csv
import itertools
import operator
import re
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Literal

import polars as pl

from xclass.errors import DataError
from xclass.ingest.text.first_bad_line import ragged
from xclass.ingest.text.lines import UTF8_MARK, Lines, lone_return, open_binary, readable, split_line

BLOCK_BYTES = 1 << 24
ROWS_PER_FRAME = 1 << 16
SAMPLED_RECORDS = 100
QUOTED_VALUE = re.compile(rb'(?:"[^"]*")+')
CONTROL_BYTES = [bytes([code]) for code in range(0x1F, 0, -1) if code not in b"\t\n\r"]
DOUBLE = 'double the quotes inside a value ("") or quote the whole value'
QUOTING: dict[bool, Literal[0, 3]] = {True: csv.QUOTE_MINIMAL, False: csv.QUOTE_NONE}
# What csv says (part of it) → what it means, what to do.
CSV_ERRORS = {
    "unexpected end": ("a quoted value is not closed", DOUBLE),
    "expected after": ("a quoted value goes on after its closing quote", DOUBLE),
    "field limit": (
        f"a value is longer than {csv.field_size_limit():,} characters",
        "check that its closing quote is there",
    ),
}


def blocks(
    path: Path,
    separator: str,
    header: bool,
    *,
    columns: Sequence[str] | None = None,
    quoted: bool = True,
    block_bytes: int = BLOCK_BYTES,
) -> Iterator[pl.DataFrame]:
    """The rows of a delimited file, block after block, every value as text. An empty value is "", never null.

    Args:
        path: plain, .gz or .zst.
        separator: what stands between two values; " " is any run of blanks and tabs.
        header: whether the first line holds the names; else they are "1", "2", …
        columns: the names of the columns to give, in this order; None: all.
        quoted: whether a value may be quoted, as RFC 4180 says; only with a separator of one byte that is no blank.
            A quote inside a value that does not begin with one is a character like any other.
        block_bytes: the size of a block; a longer line is one of its own.

    Raises:
        DataError: the file can't be read or is empty, two columns have the same name, a column is not there; a line is
            not UTF-8, has another number of values than the first, or holds a quoted value that does not end.

    Cost: one pass; memory a few times ``block_bytes``.
    """
    with open_binary(path) as file, readable(path):
        lines = Lines(file, path)
        first = next(records(lines, separator, quoted, path), None)
        if first is None:
            raise DataError("this file is empty", where=path, wanted="at least one row")
        names = first[1] if header else [str(place + 1) for place in range(len(first[1]))]
        table = _Table(path, separator, quoted and one_byte(separator), check_names(names, path), columns)
        if not header:
            yield table.frame([first[1]])
        while block := lines.block(block_bytes, table.quoted):
            rows = table.read_plain(block)
            for frame in table.read_records(block, lines) if rows is None else [rows]:
                if header and frame.select(table.again).item():
                    raise table.header_again()
                yield frame


def sample(path: Path, separator: str, quoted: bool, most: int) -> list[list[str]]:
    """The first records of a file, ``most`` at most; DataError as for :func:`blocks`."""
    found = numbered_records(path, separator, quoted)
    with contextlib.closing(found):
        return [fields for _, fields in itertools.islice(found, most)]


def cut_lines(lines: list[str], separator: str, path: Path) -> list[list[str]]:
    """The records of the first lines of a file, up to one that is cut or wrong; at least one, however it reads."""
    rows = []
    with contextlib.suppress(DataError):
        for _, fields in records(enumerate((line + "\n" for line in lines), 1), separator, True, path):
            rows.append(fields)
    return rows or [split_line(lines[0], separator)]


def numbered_records(path: Path, separator: str, quoted: bool) -> Generator[tuple[int, list[str]]]:
    """:func:`records` of a whole file."""
    with open_binary(path) as file, readable(path):
        yield from records(Lines(file, path), separator, quoted, path)


def records(
    lines: Iterator[tuple[int, str]], separator: str, quoted: bool, path: Path
) -> Iterator[tuple[int, list[str]]]:
    """(number of its first line, values) of every record; blank lines are passed over.

    Takes no line more than the record needs that was asked for.

    Args:
        lines: numbered, each with its end.

    Raises:
        DataError: a quoted value is not closed or goes on after its closing quote; a carriage return inside a line.
    """
    if not one_byte(separator):
        yield from _split_records(lines, separator, path)
        return
    number, start = 0, 0

    def plain() -> Iterator[str]:
        nonlocal number, start
        for number, line in lines:
            start = start or number
            yield line

    reader = csv.reader(plain(), csv.excel, delimiter=separator, quoting=QUOTING[quoted], strict=True)
    try:
        for record in reader:
            if record:
                yield start, record
            start = 0
    except csv.Error as error:
        raise _bad_record(error, path, start) from None


def one_byte(separator: str) -> bool:
    """Whether this separator is one byte and no blank, as quotes need it."""
    return len(separator.encode()) == 1 and separator != " "


def check_names(names: list[str], path: Path) -> list[str]:
    """The names of a header; DataError when two are the same."""
    if len(set(names)) < len(names):
        raise DataError("two columns have the same name", where=path, got=", ".join(names), do="rename one")
    return names


def _split_records(lines: Iterator[tuple[int, str]], separator: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    for number, line in lines:
        line = line.rstrip("\r\n")
        if "\r" in line:
            raise lone_return(path, number)
        if line.strip(" \t"):
            yield number, split_line(line, separator)


def _bad_record(error: csv.Error, path: Path, number: int) -> DataError:
    if "new-line" in str(error):
        return lone_return(path, number)
    what, do = next((said for sign, said in CSV_ERRORS.items() if sign in str(error)), ("this line can't be read", ""))
    return DataError(what, where=f"{path}, line {number:,}", got=str(error), do=do or None)


class _Table:
    """How the blocks of one file become frames."""

    def __init__(
        self, path: Path, separator: str, quoted: bool, names: list[str], columns: Sequence[str] | None
    ) -> None:
        self.quoted = quoted
        self._path, self._separator, self._width = path, separator, len(names)
        self._names = list(names if columns is None else columns)
        missing = [name for name in self._names if name not in names]
        if missing:
            raise DataError(
                "a column is missing", where=path, wanted=" and ".join(missing), got=f"columns {', '.join(names)}"
            )
        self._places = [names.index(name) for name in self._names]
        self._schema = {str(place): pl.String for place in range(len(names))}
        self.again = pl.all_horizontal(pl.col(name) == name for name in self._names).any()
        self._renamed = [pl.col(str(place)).alias(name) for name, place in zip(self._names, self._places, strict=True)]

    def header_again(self) -> DataError:
        """The error of a line that repeats the header."""
        with contextlib.closing(numbered_records(self._path, self._separator, self.quoted)) as rows:
            found = [number for number, row in rows if [row[place] for place in self._places] == self._names]
        return DataError(
            "the header comes again inside the file",
            where=f"{self._path}, line {found[1]:,}",
            got=self._separator.join(self._names)[:80],
            do="remove the line; files that were joined keep one header",
        )

    def read_plain(self, block: bytes) -> pl.DataFrame | None:
        """The rows of a block by Polars; None where its shape leaves anything open, or Polars finds other rows."""
        separator, quoted = self._separator.encode(), self.quoted and b'"' in block
        if not quoted:
            block = block.replace(b"\r\n", b"\n") if b"\r" in block else block
            if not one_byte(self._separator):
                block, separator = _with_one_byte(block, self._separator)
        rows = _count_rows(_without_quoted(block, separator) if quoted else block, separator, self._width)
        one_column = self._width == 1 and not one_byte(self._separator)  # a line of blanks is none there
        if not rows or one_column or block.startswith(UTF8_MARK):  # Polars would leave the mark out
            return None
        try:
            frame = pl.read_csv(
                block,
                has_header=False,
                separator=separator.decode(),
                quote_char='"' if quoted else None,
                schema=self._schema,
                columns=self._places,
                glob=False,
                empty_string_is_null=False,
            )
        except pl.exceptions.PolarsError:
            return None
        return frame.select(self._renamed) if len(frame) == rows else None

    def read_records(self, block: bytes, lines: Lines) -> Iterator[pl.DataFrame]:
        """The rows of a block by :func:`records`; the last one may need further lines of the file."""
        inside = iter([line + "\n" for line in block.decode().split("\n")[:-1]])
        numbered = enumerate(inside, lines.number - operator.length_hint(inside) + 1)
        found = records(itertools.chain(numbered, lines), self._separator, self.quoted, self._path)
        while operator.length_hint(inside):
            rows: list[list[str]] = []
            while operator.length_hint(inside) and len(rows) < ROWS_PER_FRAME and (record := next(found, None)):
                if len(record[1]) != self._width:
                    raise ragged(self._path, record[0], self._width, len(record[1]))
                rows.append(record[1])
            if rows:
                yield self.frame(rows)

    def frame(self, rows: list[list[str]]) -> pl.DataFrame:
        """The wanted columns of rows."""
        return pl.DataFrame(
            {name: [row[place] for row in rows] for name, place in zip(self._names, self._places, strict=True)},
            schema=dict.fromkeys(self._names, pl.String),
        )


def _without_quoted(block: bytes, separator: bytes) -> bytes:
    """The block with one quote in place of every quoted value, so that what is left is shape alone.

    Some quote in the result touches neither a separator nor a line end on one side where the block is not as RFC 4180
    says; the empty block then.
    """
    shape = QUOTED_VALUE.sub(b'"', block).replace(b"\r\n", b"\n")
    edge = re.escape(separator) + rb"\n"
    astray = re.search(rb'[^%b]"|"[^%b]' % (edge, edge), shape)
    return b"" if astray or block.count(b'"') % 2 else shape


def _with_one_byte(block: bytes, separator: str) -> tuple[bytes, bytes]:
    """The block with a separator of one byte in place of a longer one, or of runs of blanks."""
    if separator != " ":
        single = next((each for each in CONTROL_BYTES if each not in block), b"")
        return (block.replace(separator.encode(), single), single) if single else (b"", b" ")
    block = block.replace(b"\t", b" ")
    while b"  " in block:
        block = block.replace(b"  ", b" ")
    return block.replace(b" \n", b"\n").replace(b"\n ", b"\n").removeprefix(b" "), b" "


def _count_rows(shape: bytes, separator: bytes, width: int) -> int:
    """The rows of a block without quoted values; 0 when a line has another width, is blank or holds a return."""
    marks = shape.translate(None, bytes(set(range(256)) - set(separator + b"\n")))
    rows = len(marks) // width
    blank = width == 1 and (b"\n\n" in shape or shape.startswith(b"\n"))
    whole = marks == (separator * (width - 1) + b"\n") * rows
    return rows if whole and not blank and b"\r" not in shape else 0
