"""What the times that people write look like: dates, and Unix times in one of four units."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from xclass.data.npy_stream import VALUES_PER_BLOCK
from xclass.errors import DataError
from xclass.ingest.text.dates import from_iso
from xclass.ingest.text.lines import is_number

UNITS = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
"""Name of a unit of Unix times → how many there are in a second."""
EARLIEST, LATEST = 631_152_000, 4_102_444_800
"""1990 and 2100 in seconds: a number between them, times a unit, is taken for a time in that unit."""
NEARLY_ALL = 0.95


def unit_of(time: float) -> str | None:
    """The unit in which this number is a time from 1990 to 2100; None for any other number.

    >>> unit_of(1_600_000_000), unit_of(1_600_000_000_000), unit_of(42)
    ('seconds', 'milliseconds', None)
    """
    return next((name for name, per_second in UNITS.items() if EARLIEST <= time / per_second < LATEST), None)


def are_times(values: Sequence[object]) -> bool:
    """Whether all values look like times: dates, or Unix times in the same unit."""
    texts = [str(value) for value in values if value is not None and value != ""]
    if not texts or not all(map(is_number, texts)):
        return bool(texts) and all(from_iso(text) is not None for text in texts)
    units = {unit_of(float(text)) for text in texts}
    return len(units) == 1 and None not in units


def may_be_times(values: Sequence[object]) -> bool:
    """Whether there is no value, or one of the first is a number or a date: else a column holds something else."""
    texts = [str(value) for value in values if value is not None and value != ""]
    return not texts or any(is_number(text) or from_iso(text) is not None for text in texts)


def as_date(time: float, unit: str | None) -> str:
    """A Unix time in this unit as a UTC date; with None the number as it is.

    >>> as_date(1_600_000_000, "seconds"), as_date(0, "milliseconds"), as_date(42, None)
    ('2020-09-13 12:26:40', '1970-01-01 00:00:00', '42')
    """
    if unit is None:
        return str(time)
    try:
        moment = datetime.datetime.fromtimestamp(time / UNITS[unit], tz=datetime.UTC)
    except (OverflowError, ValueError, OSError):
        return str(time)
    return moment.strftime("%Y-%m-%d %H:%M:%S")


def check_units(times: np.ndarray, where: object) -> None:
    """Refuse times of which some are in seconds and others in milliseconds, say: their order would be wrong.

    Times count as mixed where two units explain some of them each, and nearly all others are below 1990 in either.

    Raises:
        DataError: names both units, with a time of each.
    """
    found: dict[str, float] = {}
    explained = 0
    for block in _blocks(times):
        for name, per_second in UNITS.items():
            chosen = block[(block >= EARLIEST * per_second) & (block < LATEST * per_second)]
            explained += len(chosen)
            if len(chosen):
                found.setdefault(name, chosen[0].item())
    small = sum(int(np.count_nonzero(block < EARLIEST)) for block in _blocks(times))
    if len(found) > 1 and explained + small >= NEARLY_ALL * len(times):
        raise DataError(
            "the times are in different units",
            where=where,
            wanted="one unit in the whole column",
            got=" and ".join(f"{time} ({name}: {as_date(time, name)} UTC)" for name, time in found.items()),
            do='write all times in one unit, or leave them out: --time-col ""',
        )


def count_missing(times: np.ndarray) -> int:
    """How many times are 0 or below, where others are of 1990 or later: missing ones, as a rule."""
    later = any((block >= EARLIEST).any() for block in _blocks(times))
    return sum(int(np.count_nonzero(block <= 0)) for block in _blocks(times)) if later else 0


def common_unit(times: Iterable[float]) -> str | None:
    """The unit of times that belong together: that of the latest one."""
    return unit_of(max(times, default=0))


def _blocks(times: np.ndarray) -> Iterator[np.ndarray]:
    for low in range(0, len(times), VALUES_PER_BLOCK):
        yield times[low : low + VALUES_PER_BLOCK]
