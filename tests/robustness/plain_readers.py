"""What files of pairs hold, read once more: plain Python, a row at a time, from the documented rules alone.

Each reader takes the bytes of a file and gives a :class:`Reading`, or raises :class:`Refusal` where the file can only be
refused. Nothing here is shared with the package.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import re
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

NUMBER = re.compile(r"[ \t\n\r\x0b\x0c]*[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?[ \t\n\r\x0b\x0c]*")
DATE = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]+)?)?([Zz]|[+-][0-9]{2}:?[0-9]{2})?)?"
)
LARGEST = 3.4028234663852886e38  # of float32
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NAMES = {
    "query": ("queryid", "query", "userid", "user", "uid"),
    "item": ("itemid", "item", "iid"),
    "weight": ("weight", "rating"),
    "time": ("timestamp", "time"),
}


class Refusal(Exception):
    """The file can only be refused."""


Pair = tuple[str, str]


@dataclass
class Reading:
    """pairs: (query, item) → sum of weights (None without) and first time (None without). queries: all, those without an
    item too. ambiguous: something that may be refused or read is in it."""

    pairs: dict[Pair, tuple[float | None, float | int | None]] = field(default_factory=dict)
    queries: set[str] = field(default_factory=set)

    def add(self, query: Any, item: Any, weight: float | None = None, time: float | int | None = None) -> None:
        """A row; ids as they are written."""
        if query in (None, "") or item in (None, ""):
            raise Refusal("an id is missing")
        pair = str(query), str(item)
        self.queries.add(pair[0])
        before = self.pairs.get(pair)
        if before is not None:
            weight = None if weight is None else weight + (before[0] or 0)
            time = None if time is None or before[1] is None else min(time, before[1])
        if weight is not None and weight > LARGEST:
            raise Refusal("weights sum to more than float32 holds")
        self.pairs[pair] = weight, time

    def checked(self) -> Reading:
        """Itself; a file without a pair is refused."""
        if not self.pairs:
            raise Refusal("no pairs")
        return self


def unpacked(data: bytes, name: str) -> bytes:
    """Through gzip or Zstandard where the name says so."""
    try:
        if name.endswith(".gz"):
            return gzip.decompress(data)
        if name.endswith(".zst"):
            return bytes(zstd.decompress(data))
    except (OSError, EOFError, zlib.error, zstd.ZstdError) as error:
        raise Refusal(f"not whole: {error}") from None
    return data


def text_of(data: bytes) -> str:
    """UTF-8, without a byte order mark."""
    try:
        text = re.sub(b"^\xef\xbb\xbf", b"", data.removeprefix(b"\xef\xbb\xbf"), flags=re.MULTILINE).decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refusal(f"not UTF-8: {error}") from None
    if not text.strip():
        raise Refusal("empty")
    return text


def lines_of(text: str) -> list[str]:
    """Lines end in LF or CR LF."""
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    if any("\r" in line for line in lines):
        raise Refusal("CR inside a line")
    return lines[:-1] if lines[-1] == "" else lines


def records(text: str, separator: str, quoted: bool) -> list[list[str]]:
    """The rows that Python's csv module reads, strictly; blank lines are passed over."""
    if len(separator) > 1 or separator == " ":
        lines = [line for line in lines_of(text) if line.strip()]
        return [line.split(separator) if separator != " " else blank_fields(line) for line in lines]
    quoting, before = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE, csv.field_size_limit(len(text) + 1)
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator, quoting=quoting, strict=True))
    except csv.Error as error:
        raise Refusal(f"csv: {error}") from None
    finally:
        csv.field_size_limit(before)  # it is the whole process's
    return [row for row in rows if row]


def blank_fields(line: str) -> list[str]:
    """What blanks and tabs separate."""
    return [part for part in re.split("[ \t]+", line) if part]


def plain_name(name: str) -> str:
    """A column's name without case, blanks, "_" and "-"."""
    return re.sub("[-_ ]", "", name.strip().lower())


def roles_of(names: list[str], header: bool) -> dict[str, int]:
    """Meaning → column."""
    if not header:
        if len(names) not in (2, 3, 4):
            raise Refusal("no header, and too few or too many columns")
        return dict(zip(("query", "item", "weight", "time"), range(4 if len(names) == 4 else 2), strict=False))
    plain = [plain_name(name) for name in names]
    if len(set(names)) < len(names):
        raise Refusal("two columns of one name")
    found = {role: [plain.index(name) for name in usual if name in plain] for role, usual in NAMES.items()}
    if not found["query"] or not found["item"]:
        raise Refusal("no column of queries or items")
    return {role: places[0] for role, places in found.items() if places}


def delimited(
    data: bytes, separator: str, header: bool | None = None, quoted: bool = True, typed: bool = False
) -> Reading:
    """A table of text. header None: known by its names. typed: the header has types, as RecBole's."""
    rows = records(text_of(data), separator, quoted)
    if not rows:
        raise Refusal("empty")
    first = [name.partition(":")[0] for name in rows[0]] if typed else rows[0]
    plain = {plain_name(name) for name in first}
    usual = bool(plain & {name for names in NAMES.values() for name in names})
    if header is None:
        header = usual or not all(NUMBER.fullmatch(name) for name in first)
    roles = roles_of(first if header else rows[0], header)
    body = rows[1:] if header else rows
    if any(len(row) != len(rows[0]) for row in rows):
        raise Refusal("rows of different lengths")
    cells = [{role: row[place] for role, place in roles.items()} for row in body if not (header and row == rows[0])]
    return reading_of(cells)


def reading_of(cells: Iterable[Mapping[str, Any]]) -> Reading:
    """Rows of query, item and, in all or none, weight and time, as text or as values."""
    cells = list(cells)
    found, dates = Reading(), bool(cells) and is_date(cells[0].get("time"))
    for row in cells:
        weight = weight_of(row["weight"]) if "weight" in row else None
        time = time_of(row["time"], dates) if "time" in row else None
        found.add(row["query"], row["item"], weight, time)
    return found.checked()


def number_of(value: Any) -> float | int:
    """A finite number, of text too."""
    if isinstance(value, str) and NUMBER.fullmatch(value):
        try:
            value = int(value)
        except ValueError:
            value = float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Refusal(f"not a number: {value!r}")
    try:
        finite = math.isfinite(value)
    except OverflowError:
        finite = False
    if not finite:
        raise Refusal(f"not finite: {value!r}")
    return value


def weight_of(value: Any) -> float:
    """From 0 to the largest of float32."""
    number = number_of(value)
    if not 0 <= number <= LARGEST:
        raise Refusal(f"no weight: {value!r}")
    return float(number)


def is_date(value: Any) -> bool:
    """Whether this is a date as people write it."""
    return isinstance(value, str) and DATE.fullmatch(value.strip()) is not None


def time_of(value: Any, dates: bool) -> float | int:
    """A number below 2^63; microseconds since 1970 of a date."""
    if dates:
        if not is_date(value):
            raise Refusal(f"not a date: {value!r}")
        try:
            moment = datetime.fromisoformat(value.strip().replace("z", "Z"))
        except ValueError:
            raise Refusal(f"not a date: {value!r}") from None
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
        since = moment - EPOCH
        return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    number = number_of(value)
    if not -(2**63) <= number < 2**63:
        raise Refusal(f"no time: {value!r}")
    return number


def json_lines(data: bytes) -> Reading:
    """An object a line; the item, the weight and the time may be lists of one length."""
    entries = [json_object(line) for line in text_of(data).split("\n") if line.strip()]
    names = list(dict.fromkeys(name for entry in entries for name in entry))
    roles = {role: names[place] for role, place in roles_of(names, header=True).items()}
    cells: list[dict[str, Any]] = []
    lonely: list[Any] = []
    for entry in entries:
        row = {role: entry.get(name) for role, name in roles.items()}
        if isinstance(row["query"], list):
            raise Refusal("a list of queries")
        if row["item"] == []:
            lonely.append(row["query"])
            continue
        cells += exploded(row)
    for role in ("query", "item"):
        check_ids([row[role] for row in cells] + (lonely if role == "query" else []))
    found = reading_of(cells)
    found.queries |= {str(query) for query in lonely}
    return found


def json_object(line: str) -> dict[str, Any]:
    """Strict JSON."""

    def constant(name: str) -> Any:
        raise Refusal(name)

    try:
        entry = json.loads(line, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        raise Refusal(f"not JSON: {error}") from None
    if not isinstance(entry, dict):
        raise Refusal("not an object")
    return entry


def exploded(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A row for each item of a list."""
    lists = {role: value for role, value in row.items() if isinstance(value, list)}
    if not lists:
        return iter([row])
    lengths = {len(value) for value in lists.values()}
    if "item" not in lists or len(lengths) > 1:
        raise Refusal("lists of different lengths")
    return iter([{**row, **dict(zip(lists, values, strict=True))} for values in zip(*lists.values(), strict=True)])


def check_ids(values: list[Any]) -> None:
    """Strings, or integers of 64 bits; none missing."""
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
            raise Refusal(f"not an id: {value!r}")
        if isinstance(value, str) and not _encodes(value):
            raise Refusal("half a surrogate pair")
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise Refusal("beyond 64 bits")
    if len({type(value) for value in values}) > 1:
        raise Refusal("strings and integers")


def _encodes(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def adjacency(data: bytes) -> Reading:
    """``query item item …``."""
    found = Reading()
    for line in lines_of(text_of(data)):
        fields = blank_fields(line)
        if fields:
            found.queries.add(fields[0])
        for item in fields[1:]:
            found.add(fields[0], item)
    return found.checked()


def guessed(data: bytes) -> list[Reading]:
    """What lines of ids may be when nothing says which: lists of queries where no two begin alike, else sequences; a
    table of two to four columns where all are as long."""
    rows = [blank_fields(line) for line in lines_of(text_of(data)) if line.strip()]
    readings = [adjacency(data) if len({row[0] for row in rows}) == len(rows) else sequences(data)]
    if len({len(row) for row in rows}) == 1 and 2 <= len(rows[0]) <= 4:
        readings.append(delimited(data, " ", header=False))
    return readings


def sequences(data: bytes) -> Reading:
    """``item item …``; a query is the number of its line."""
    found = Reading()
    for number, line in enumerate(lines_of(text_of(data)), 1):
        for item in blank_fields(line):
            found.add(number, item)
    return found.checked()


def table(columns: dict[str, list[Any]]) -> Reading:
    """Columns of a Parquet file, as Python values."""
    roles = roles_of(list(columns), header=True)
    names = list(columns)
    rows: list[dict[str, Any]] = []
    lonely = []
    for values in zip(*columns.values(), strict=True):
        row = {role: values[names.index(names[place])] for role, place in roles.items()}
        if row["item"] == []:
            lonely.append(row["query"])
        else:
            rows += exploded(row)
    for role in ("query", "item"):
        check_ids([row[role] for row in rows] + (lonely if role == "query" else []))
    for row in rows:
        if isinstance(row.get("weight"), bool):
            row["weight"] = int(row["weight"])
        if isinstance(row.get("time"), datetime):
            moment = row["time"]
            since = (moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment) - EPOCH
            row["time"] = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    found = reading_of(rows)
    found.queries |= {str(query) for query in lonely}
    return found
