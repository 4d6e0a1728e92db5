"""Files given to commands, opened alike: their endings, .gz and .zst, tables of CSV, TSV and Parquet, JSON objects.

A file of one column need not have a header: its first line is one only if it is a usual column name (:data:`HEADERS`,
in any case, with any blanks, "_" or "-") and no id that is known. Every other table starts with the names of its
columns.
"""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from xclass.data.ids import IdMap
from xclass.errors import DataError
from xclass.ingest.columns import USUAL_NAMES
from xclass.ingest.text.delimited import blocks
from xclass.ingest.text.lines import BLOCK_BYTES, open_binary, parse_json, readable
from xclass.io import frames
from xclass.io.files import scratch_directory
from xclass.runtime.progress import say

COMPRESSED = (".gz", ".zst")
SEPARATORS = {".csv": ",", ".tsv": "\t"}
HEADERS = {name.replace("_", "") for role in ("query", "item") for name in USUAL_NAMES[role]} | {"id", "ids", "text"}
BROKEN = (pl.exceptions.PolarsError, pl.exceptions.PanicException, UnicodeError, OSError)


def ending_of(path: Path, known: Collection[str]) -> str:
    """The ending that says the format, in lower case, without .gz or .zst.

    Raises:
        DataError: no such file; an ending that is not ``known``; a compressed Parquet file.
    """
    if not path.is_file():
        raise DataError("this is a directory, not a file" if path.is_dir() else "there is no such file", where=path)
    packed = path.suffix.lower() in COMPRESSED
    ending = (path.with_suffix("") if packed else path).suffix.lower()
    if packed and ending == ".parquet":
        raise DataError("Parquet is compressed in itself", where=path, do=f"decompress it: no {path.suffix} is needed")
    if ending not in known:
        wanted = f"{' '.join(known)}; also with {' or '.join(COMPRESSED)}"
        raise DataError("this file's ending is not known", where=path, wanted=wanted, got=path.suffix)
    return ending


@contextlib.contextmanager
def unreadable(path: Path) -> Iterator[None]:
    """What Polars and the decoder say about a broken file becomes one message."""
    try:
        yield
    except BROKEN as error:
        got = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError("this file can't be read", where=path, got=got) from None


def scan_parquet(files: Path | Sequence[Path], where: Path) -> pl.LazyFrame:
    """Parquet files as they are named: no path is a pattern, no folder a column; categories are strings.

    Raises:
        DataError: this is no Parquet.
    """
    with unreadable(where):
        frame = frames.scan_parquet(files)
        named = [name for name, kind in frame.collect_schema().items() if kind in (pl.Categorical, pl.Enum)]
        return frame.with_columns(pl.col(named).cast(pl.String)) if named else frame


def delimited(path: Path, ending: str, known: IdMap | None = None) -> Iterator[pl.DataFrame]:
    """The rows of a CSV or TSV file in blocks, the first of them empty; all columns strings; what is empty is null.

    A file of one column without a header has a column called "".
    """
    separator = SEPARATORS[ending]
    first = next(iter(blocks(path, separator, False))).row(0)
    header = len(first) > 1 or _is_header(str(first[0]), known)
    yield pl.DataFrame(schema=dict.fromkeys(first if header else ("",), pl.String))
    for block in blocks(path, separator, header):
        if not header:
            block.columns = [""]
        yield block.with_columns(pl.when(pl.col(name) != "").then(pl.col(name)) for name in block.columns)


def _is_header(only: str, known: IdMap | None) -> bool:
    plain = re.sub(r"[\s_-]", "", only).lower()
    return plain in HEADERS and (known is None or int(known.numbers([only])[0]) < 0)


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder on the disk for temporary files; what a killed process left of one is removed."""
    with scratch_directory(Path(tempfile.gettempdir()) / "xclass-tables") as folder:
        yield folder


def write_blocks(found: Iterable[pl.DataFrame], folder: Path) -> list[Path]:
    """Blocks as Parquet files of a folder, in their order."""
    files: list[Path] = []
    for block in found:
        files.append(folder / f"{len(files):08d}.parquet")
        block.write_parquet(files[-1])
    return files


def read_table(path: Path, ending: str, known: IdMap | None = None) -> pl.DataFrame:
    """A whole .csv, .tsv or .parquet file."""
    with unreadable(path):
        if ending == ".parquet":
            return scan_parquet(path, path).collect()
        return pl.concat(delimited(path, ending, known))


def say_unused(path: Path, names: Sequence[str], used: Sequence[str]) -> None:
    """Name the columns of a table that are not read."""
    unused = [name for name in names if name not in used]
    if unused and len(names) > 1:
        say(f"{path}: columns that are not read: {', '.join(unused)}")


def count_lines(path: Path) -> int:
    """How many lines end in the file."""
    with open_binary(path) as file, readable(path):
        return sum(block.count(b"\n") for block in iter(lambda: file.read(BLOCK_BYTES), b""))


def json_object(path: Path, number: int, line: str, wanted: str) -> dict[str, Any]:
    """The object of a line; DataError for what is none, or holds what is no Unicode text."""
    where = f"{path}:{number}"
    try:
        entry = parse_json(line)
        if "\\u" in line:
            json.dumps(entry, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        got = "half of a surrogate pair"
        raise DataError("this line holds what is no Unicode text", where=where, got=got) from None
    except (ValueError, RecursionError) as error:
        raise DataError("this line is not JSON", where=where, wanted=wanted, got=str(error)) from None
    if not isinstance(entry, dict):
        raise DataError("this line is no JSON object", where=where, wanted=wanted, got=line.strip()[:80])
    return entry
