"""Text files line by line: decoding, splitting, and the first lines that tell how the rest is to be read."""

from __future__ import annotations

import contextlib
import gzip
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from xclass.errors import DataError

HEAD_BYTES = 1 << 18
BLOCK_BYTES = 1 << 23
READ_ERRORS = (OSError, EOFError, zlib.error)
BLANKS = re.compile(r"[ \t]+")
SEPARATORS = ("::", "\t", ",", ";", "|", " ")


def open_binary(path: Path) -> IO[bytes]:
    """Open for reading, through gzip when the name ends in .gz; DataError when it can't be opened."""
    try:
        return cast(IO[bytes], gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")
    except OSError as error:
        raise DataError(
            "this file can't be read", where=path, got=error.strerror, do="check the path and its rights"
        ) from None


def head(path: Path) -> list[str]:
    """The whole lines within the first 256 KiB, blank ones left out.

    Raises:
        DataError: the file is empty, or is not UTF-8 there.
    """
    with open_binary(path) as file, _readable(path):
        raw = file.read(HEAD_BYTES)
    if not raw.strip():
        raise DataError("this file is empty", where=path, wanted="at least one row")
    if len(raw) == HEAD_BYTES:
        raw = raw[: raw.rfind(b"\n") + 1] or raw
    lines = [_decode(line, path, number + 1) for number, line in enumerate(raw.split(b"\n"))]
    return [line for line in lines if line.strip()]


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Every line with its number from 1, without its end; DataError names the first line that is not UTF-8."""
    with open_binary(path) as file, _readable(path):
        for number, line in enumerate(file, start=1):
            yield number, _decode(line, path, number)


def whole_lines(path: Path, block_bytes: int = BLOCK_BYTES) -> Iterator[bytes]:
    """The file in blocks of whole lines, about ``block_bytes`` each (a longer line is a block of its own).

    Raises:
        DataError: names the first line that is not UTF-8.
    """
    number = 1
    with open_binary(path) as file, _readable(path):
        while block := file.read(block_bytes):
            block += file.readline() if not block.endswith(b"\n") else b""
            try:
                block.decode("utf-8")
            except UnicodeDecodeError:
                for place, line in enumerate(block.split(b"\n"), number):
                    _decode(line, path, place)
            lines = block.count(b"\n")
            yield block.removeprefix(b"\xef\xbb\xbf") if number == 1 else block
            number += lines


def split_line(line: str, separator: str) -> list[str]:
    """The fields of a line without quotes; " " is any run of blanks.

    >>> split_line("1::2::5", "::"), split_line(" 1  2 ", " ")
    (['1', '2', '5'], ['1', '2'])
    """
    return [field for field in BLANKS.split(line) if field] if separator == " " else line.split(separator)


def find_separator(lines: list[str]) -> str:
    """The separator that cuts the lines into the same number of fields, two or more; the first of SEPARATORS wins.

    Where none does, the first that cuts the first line at all: the file is ragged and will be told so.
    """
    sample = lines[:100]
    cutting = [separator for separator in SEPARATORS if len(split_line(lines[0], separator)) > 1]
    for separator in cutting:
        if len({len(split_line(line, separator)) for line in sample}) == 1:
            return separator
    return cutting[0] if cutting else ","


def is_number(text: str) -> bool:
    """Whether the text is a number as people write one.

    >>> is_number("-1.5e3"), is_number("nan"), is_number("1_000")
    (True, False, False)
    """
    return re.fullmatch(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*", text, re.ASCII) is not None


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except READ_ERRORS as error:
        raise DataError("this file can't be read", where=path, got=str(error), do="check that it is whole") from None


def _decode(line: bytes, path: Path, number: int) -> str:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            "this file is not UTF-8",
            where=f"{path}, line {number}, byte {error.start + 1} of the line",
            wanted="UTF-8 text",
            got=f"byte 0x{line[error.start]:02x}",
            do="convert the file, for example: iconv -f latin1 -t utf-8 FILE",
        ) from None
    return (text.removeprefix("\ufeff") if number == 1 else text).rstrip("\r\n")
