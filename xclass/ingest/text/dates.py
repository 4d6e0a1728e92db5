"""Dates in text as times: ISO 8601 as people write it, in microseconds since 1970.

Accepted: ``2024-05-01``, ``2024-05-01 10:30``, ``2024-05-01T10:30:00.25``, each with or without a zone (``Z``, ``UTC``,
``+02:00``, ``+0200``, ``+02``). Where there is no zone it is UTC. Digits beyond microseconds are cut off.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime

import polars as pl

from xclass.ingest.columns import Columns

ACCEPTED = "2024-05-01, 2024-05-01 10:30:00 or 2024-05-01T10:30:00.5+02:00"
ISO = (
    r"^\s*([1-9][0-9]{3}-[0-9]{2}-[0-9]{2})"
    r"(?:[Tt ]([0-9]{2}:[0-9]{2})(?:(:[0-5][0-9])(?:[.,]([0-9]{1,12}))?)?"
    r" ?(?:[Zz]|UTC|([+-][0-9]{2}):?([0-9]{2})?)?)?\s*$"
)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def from_iso(value: str) -> int | None:
    """Microseconds since 1970 of a date, or of a date and a time of day; None for any other text.

    >>> from_iso("1970-01-02"), from_iso("1970-01-01T01:00:00.5+01:00"), from_iso("7")
    (86400000000, 500000, None)
    """
    found = re.match(ISO, value)
    if found is None:
        return None
    day, clock, second, fraction, hours, minutes = found.groups(default="")
    try:
        moment = datetime.fromisoformat(f"{day}T{clock or '00:00'}{second or ':00'}+00:00")
    except ValueError:
        return None
    since = moment - EPOCH
    zone = int(hours or 0) * 60 + int(hours[:1] + minutes if minutes else 0)
    return (since.days * 86_400 + since.seconds - zone * 60) * 1_000_000 + int(f"{fraction:0<6}"[:6])


def iso_times(column: pl.Expr) -> pl.Expr:
    """:func:`from_iso` of a column of strings, Int64."""
    parts = column.str.extract_groups(ISO).struct
    day, clock, second, fraction, hours, minutes = (parts.field(str(place)) for place in range(1, 7))
    written = pl.concat_str(day, pl.lit(" "), clock.fill_null("00:00"), second.fill_null(":00"))
    whole = written.str.to_datetime("%Y-%m-%d %H:%M:%S", strict=False, time_unit="us").dt.epoch("us")
    micros = fraction.fill_null("").str.pad_end(6, "0").str.slice(0, 6).cast(pl.Int64)
    sign = pl.when(hours.str.starts_with("-")).then(-1).otherwise(1)
    zone = hours.fill_null("0").cast(pl.Int64) * 60 + sign * minutes.fill_null("0").cast(pl.Int64)
    return whole + micros - zone * 60_000_000


def are_dates(values: Iterable[object]) -> bool:
    """Whether the first of the values that is not empty is a date in text."""
    first = next((value for value in values if value not in (None, "")), None)
    return isinstance(first, str) and from_iso(first) is not None


def text_numbers(columns: Columns) -> list[pl.Expr]:
    """:func:`text_number` of the columns weight and time, where they are there."""
    return [text_number(role, columns.dates) for role in columns.used() if role in ("weight", "time")]


def text_number(role: str, dates: bool) -> pl.Expr:
    """The column weight or time, strings, as what it stands for: numbers; times that are no dates stay text."""
    if role == "time" and dates:
        return iso_times(pl.col("time")).alias("time")
    stripped = pl.col(role).str.strip_chars()
    return stripped if role == "time" else stripped.cast(pl.Float64, strict=False)
