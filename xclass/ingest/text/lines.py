"""Text files line by line: decoding, splitting, and the first lines that tell how the rest is to be read."""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import stat
import sys
import zlib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import polars as pl

from xclass.errors import DataError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

HEAD_BYTES = 1 << 18
BLOCK_BYTES = 1 << 23
CLOSING_BYTES = 1 << 17
# A panic of Polars on a damaged file is no Exception.
POLARS_ERRORS = (pl.exceptions.PolarsError, pl.exceptions.PanicException)
READ_ERRORS = (OSError, EOFError, zlib.error, zstd.ZstdError)
UTF8_MARK = b"\xef\xbb\xbf"
# How the first bytes of what is no UTF-8 text begin, what it is, and what to do.
MARKS = (
    (rb"\xff\xfe\x00\x00|\x00\x00\xfe\xff", "UTF-32 text", "convert it: iconv -f utf-32 -t utf-8 FILE > NEW"),
    (rb"\xff\xfe|\xfe\xff", "UTF-16 text", "convert it: iconv -f utf-16 -t utf-8 FILE > NEW"),
    (rb"[^\x00]\x00[^\x00]\x00", "UTF-16 text, without a mark", "convert it: iconv -f utf-16le -t utf-8 FILE > NEW"),
    (rb"\x00[^\x00]\x00[^\x00]", "UTF-16 text, without a mark", "convert it: iconv -f utf-16be -t utf-8 FILE > NEW"),
    (rb"[^\x00]\x00\x00\x00", "UTF-32 text, without a mark", "convert it: iconv -f utf-32le -t utf-8 FILE > NEW"),
    (rb"\x00\x00\x00[^\x00]", "UTF-32 text, without a mark", "convert it: iconv -f utf-32be -t utf-8 FILE > NEW"),
    (rb"\x1f\x8b", "compressed by gzip", "decompress it, or give it a name that ends in .gz"),
    (rb"\x28\xb5\x2f\xfd", "compressed by zstd", "decompress it, or give it a name that ends in .zst"),
    (rb"BZh[1-9]1AY&SY", "compressed by bzip2", "decompress it: bunzip2 FILE"),
    (rb"\xfd7zXZ\x00", "compressed by xz", "decompress it: unxz FILE"),
    (rb"PAR1", "a Parquet file", "give it a name that ends in .parquet"),
    (rb"PK\x03\x04", "a zip archive", "unpack it: unzip FILE"),
)
LONGEST_MARK = 16
KINDS = (
    (stat.S_ISFIFO, "pipe"),
    (stat.S_ISSOCK, "socket"),
    (stat.S_ISCHR, "device"),
    (stat.S_ISBLK, "device"),
)
BLANKS = re.compile(r"[ \t]+")
SEPARATORS = ("::", "\t", ",", ";", "|", " ")


def open_binary(path: Path) -> IO[bytes]:
    """The bytes of a regular file, through gzip where its name ends in .gz and Zstandard where it ends in .zst.

    A UTF-8 byte order mark is passed over.

    Raises:
        DataError: it can't be opened, is a pipe or a device, or holds UTF-16 or what another program compressed.
    """
    check_regular(path)
    with contextlib.ExitStack() as stack, readable(path):
        file = stack.enter_context(OPENERS.get(path.suffix.lower(), _open_plain)(path))
        first = file.read(LONGEST_MARK)
        _check_text(first, path)
        file.seek(len(UTF8_MARK) if first.startswith(UTF8_MARK) else 0)
        stack.pop_all()
    return file


def check_regular(path: Path) -> None:
    """DataError for a pipe, a socket or a device: reading one may never end, and none can be read twice."""
    with readable(path):
        mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        kind = next((name for holds, name in KINDS if holds(mode)), "special file")
        raise DataError(
            f"this is a {kind}, not a file", where=path, wanted="a regular file", do="write its content to a file first"
        )


def plain_name(path: Path) -> str:
    """The file's name without .gz or .zst.

    >>> plain_name(Path("a/train.csv.gz")), plain_name(Path("b.zst.csv"))
    ('train.csv', 'b.zst.csv')
    """
    return path.stem if path.suffix.lower() in OPENERS else path.name


def head(path: Path) -> list[str]:
    """The whole lines within the first 256 KiB, blank ones left out.

    Raises:
        DataError: the file is empty, is not UTF-8 there, or its lines end in a carriage return alone.
    """
    with open_binary(path) as file, readable(path):
        raw = file.read(HEAD_BYTES)
    if b"\r" in raw and b"\n" not in raw:
        raise lone_return(path, 1)
    if len(raw) == HEAD_BYTES:
        raw = raw[: raw.rfind(b"\n") + 1] or raw
    lines = [_decode(line, path, number).rstrip("\r\n") for number, line in enumerate(raw.split(b"\n"), 1)]
    lines = [line for line in lines if line.strip()]
    if not lines:
        raise DataError("this file is empty", where=path, wanted="at least one row")
    return lines


class Lines:
    """The lines of an open file, one after another or in blocks, and how many there were.

    A byte order mark at the start of any line is left out: files that were joined keep the marks of each.
    Iterating gives (number from 1, line with its end); a DataError names the first line that is not UTF-8.
    """

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self.number = 0
        self._file, self._path = file, path

    def __iter__(self) -> Lines:
        return self

    def __next__(self) -> tuple[int, str]:
        line = self._file.readline()
        if not line:
            raise StopIteration
        self.number += 1
        return self.number, _decode(line, self._path, self.number)

    def block(self, size: int, quoted: bool = False) -> bytes:
        """About ``size`` bytes of whole lines, each with its end; nothing when there are no more.

        quoted: go on to where the number of quotes is even, if that is not far: there a quoted value may not be cut.
        """
        block = self._file.read(size)
        block += self._file.readline() if not block.endswith(b"\n") else b""
        if quoted and block.count(b'"') % 2:
            block += self._closing_lines()
        if not block.isascii():
            self._check_decodes(block)
            block = block.removeprefix(UTF8_MARK).replace(b"\n" + UTF8_MARK, b"\n")
        block += b"\n" if block and not block.endswith(b"\n") else b""
        self.number += int(np.count_nonzero(np.frombuffer(block, dtype=np.uint8) == ord("\n")))
        return block

    def _closing_lines(self) -> bytes:
        """The lines up to one with an odd number of quotes."""
        lines, size = [], 0
        while size < CLOSING_BYTES and (line := self._file.readline()):
            lines.append(line)
            size += len(line)
            if line.count(b'"') % 2:
                break
        return b"".join(lines)

    def _check_decodes(self, block: bytes) -> None:
        try:
            block.decode("utf-8")
        except UnicodeDecodeError as error:
            number = block.count(b"\n", 0, error.start)
            _decode(block.split(b"\n")[number], self._path, self.number + number + 1)


def numbered_lines(path: Path) -> Generator[tuple[int, str]]:
    """Every line with its number from 1, without its end; DataError names the first line that is not UTF-8."""
    with open_binary(path) as file, readable(path):
        for number, line in Lines(file, path):
            yield number, line.rstrip("\r\n")


def whole_lines(path: Path, block_bytes: int = BLOCK_BYTES) -> Iterator[bytes]:
    """The file in blocks of whole lines, about ``block_bytes`` each (a longer line is a block of its own).

    Raises:
        DataError: names the first line that is not UTF-8.
    """
    with open_binary(path) as file, readable(path):
        lines = Lines(file, path)
        while block := lines.block(block_bytes):
            yield block


def line_blocks(path: Path, block_bytes: int = BLOCK_BYTES) -> Iterator[pl.Series]:
    """The lines without their ends, as strings, in blocks of about so many bytes.

    Raises:
        DataError: names the first line that is not UTF-8, or that holds a carriage return before its end.
    """
    number = 1
    for block in whole_lines(path, block_bytes):
        plain = block.replace(b"\r\n", b"\n") if b"\r" in block else block
        if b"\r" in plain:
            raise lone_return(path, number + plain.count(b"\n", 0, plain.index(b"\r")))
        lines = pl.Series("line", [plain[:-1].decode()]).str.split("\n").explode()
        number += len(lines)
        yield lines


def split_line(line: str, separator: str) -> list[str]:
    """The fields of a line without quotes; " " is any run of blanks.

    >>> split_line("1::2::5", "::"), split_line(" 1  2 ", " ")
    (['1', '2', '5'], ['1', '2'])
    """
    return [field for field in BLANKS.split(line) if field] if separator == " " else line.split(separator)


def is_number(text: str) -> bool:
    """Whether the text is a number as people write one.

    >>> is_number("-1.5e3"), is_number("nan"), is_number("1_000")
    (True, False, False)
    """
    return re.fullmatch(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*", text, re.ASCII) is not None


def parse_json(line: str) -> Any:
    """What the JSON says; ValueError where an object has a key twice, and for NaN and Infinity, which are no JSON."""
    return json.loads(line, object_pairs_hook=_without_doubles, parse_constant=_no_json)


def _no_json(name: str) -> Any:
    raise ValueError(f"{name} is no JSON: leave the value out, or write null")


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        raise ValueError("a key comes twice in one object")
    return record


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """What the system or a decompressor says about a damaged file becomes a DataError."""
    try:
        yield
    except READ_ERRORS as error:
        got = getattr(error, "strerror", None) or str(error)
        raise DataError(
            "this file can't be read", where=path, got=got, do="check the path and its rights, and that it is whole"
        ) from None


def lone_return(path: Path, number: int) -> DataError:
    """The error of a line that holds a carriage return before its end."""
    return DataError(
        "there is a carriage return (CR) inside this line",
        where=f"{path}, line {number:,}",
        wanted="lines that end in LF or CR LF",
        do=r"if CR alone ends the lines, convert the file: tr '\r' '\n' < FILE > NEW",
    )


def _open_plain(path: Path) -> IO[bytes]:
    return path.open("rb")


def _open_gzip(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path, "rb"))


def _open_zstd(path: Path) -> IO[bytes]:
    return cast(IO[bytes], zstd.open(path, "rb"))


OPENERS = {".gz": _open_gzip, ".zst": _open_zstd}


def _check_text(first: bytes, path: Path) -> None:
    for mark, what, advice in MARKS:
        if re.match(mark, first):
            raise DataError(f"this file is {what}", where=path, wanted="UTF-8 text, plain or as .gz or .zst", do=advice)


def _decode(line: bytes, path: Path, number: int) -> str:
    try:
        return line.removeprefix(UTF8_MARK).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            "this file is not UTF-8",
            where=f"{path}, line {number:,}, byte {error.start + 1} of the line",
            wanted="UTF-8 text",
            got=f"byte 0x{line[error.start]:02x}",
            do="convert the file, for example: iconv -f latin1 -t utf-8 FILE",
        ) from None
