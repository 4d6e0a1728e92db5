"""Finding the line that is wrong.

Reading goes through Polars, fast, and only notices *that* something is wrong. Then a format's ``diagnose`` goes through
the file once more, slowly, with the checks below, and raises one error that says where. If it finds nothing (blank
lines, say), reading goes on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path

from xclass.errors import DataError
from xclass.ingest.text.dates import ACCEPTED, from_iso
from xclass.ingest.text.lines import is_number

MAX_NAMED = 5
FAR = 10**300
LARGEST_FLOAT32 = 3.4028234663852886e38


class RowChecks:
    """Checks the values of one row after another; rows without an id are collected and raised together.

    Args:
        path: the file, named in every message.
        unit: what the numbers count: "line" of a text file, "row" of a Parquet file.
        dates: whether the times are dates, not numbers.
    """

    def __init__(self, path: Path, unit: str = "line", dates: bool = False) -> None:
        self.path, self.unit, self.dates = path, unit, dates
        self._without_id: dict[str, list[int]] = {}

    def __enter__(self) -> RowChecks:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is None:
            self._raise_missing()

    def at(self, number: int) -> str:
        """The place as a message names it."""
        return f"{self.path}, {self.unit} {number:,}"

    def id(self, column: str, value: object, number: int) -> None:
        """An id must not be null or empty."""
        if value is None or value == "":
            numbers = self._without_id.setdefault(column, [])
            numbers.append(number)
            if len(numbers) > MAX_NAMED:
                self._raise_missing()

    def weight(self, column: str, value: object, number: int) -> None:
        """A weight must be a finite number from 0."""
        weight = _number(value)
        if weight is None or not 0 <= weight <= LARGEST_FLOAT32:
            raise DataError(
                f'the weight in column "{column}" is not a finite number from 0',
                where=self.at(number),
                wanted=f"a number from 0 to {LARGEST_FLOAT32:.7g}, the largest of 32 bits",
                got=_shown(value),
                do='mend the row, or leave the weights out: --weight-col ""',
            )

    def time(self, column: str, value: object, number: int) -> None:
        """A time must be a number of 64 bits, or a date where the first times are dates."""
        if self.dates:
            good = isinstance(value, int) or (isinstance(value, str) and from_iso(value) is not None)
        else:
            time = _number(value)
            good = time is not None and abs(time) < 2**63
        if not good:
            raise DataError(
                f'the time in column "{column}" is not a {"date" if self.dates else "number"}',
                where=self.at(number),
                wanted=ACCEPTED if self.dates else "a number below 2^63, for example seconds since 1970",
                got=_shown(value),
                do="mend the row, write all times as numbers or all as ISO dates "
                f'({ACCEPTED}), or leave the times out: --time-col ""',
            )

    def row(self, used: Mapping[str, str], values: Mapping[str, object], number: int) -> None:
        """All checks of one row; ``used`` is :meth:`Columns.used`, ``values`` are by meaning."""
        for role, column in used.items():
            if role in ("query", "item"):
                self.id(column, values.get(role), number)
            elif role == "weight":
                self.weight(column, values.get(role), number)
            else:
                self.time(column, values.get(role), number)

    def _raise_missing(self) -> None:
        for column, numbers in self._without_id.items():
            more = " and more" if len(numbers) > MAX_NAMED else ""
            listed = ", ".join(f"{number:,}" for number in numbers[:MAX_NAMED])
            raise DataError(
                f'there are rows without an id in column "{column}"',
                where=self.path,
                wanted="an id in every row",
                got=f"nothing in {self.unit} {listed}{more}",
                do="give these rows an id or remove them",
            )


def ragged(path: Path, number: int, wanted: int, got: int) -> DataError:
    """The error of a line with too many or too few fields."""
    return DataError(
        "this line has another number of fields than the first",
        where=f"{path}, line {number:,}",
        wanted=f"{wanted} fields",
        got=f"{got} field{'' if got == 1 else 's'}",
        do="mend the line; a separator inside a value needs quotes around the value",
    )


def mixed_types(where: object, column: str, wanted: str, got: object) -> DataError:
    """The error of ids that are numbers in one row and strings in another."""
    return DataError(
        f'the ids in column "{column}" are of mixed types',
        where=where,
        wanted=f"{wanted}, as in the first rows",
        got=_shown(got),
        do="write all ids of the column as strings, or all as integers",
    )


def float_ids(where: object, column: str, got: object) -> DataError:
    """The error of ids that went through a floating-point number."""
    return DataError(
        f'the ids in column "{column}" are floating-point numbers',
        where=where,
        wanted="integers or strings",
        got=got,
        do="write them as integers or strings: a float can't hold every id exactly",
    )


def _number(value: object) -> float | None:
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | float | Decimal):
        return float(value) if -FAR < value < FAR else math.inf
    text = str(value).strip()
    if is_number(text):
        return float(text)
    return math.nan if text.lower().lstrip("+-") in ("nan", "inf", "infinity") else None


def _shown(value: object) -> str:
    text = "nothing" if value is None or value == "" else repr(value)
    return text if len(text) <= 80 else text[:77] + "…"
