"""External ids to numbers, exactly: strings stay strings, int64 stays int64, nothing passes through a float."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
import torch
from torch import Tensor

from xclass.data.given import as_id_series
from xclass.errors import DataError, InputError
from xclass.runtime.once import once

NAMED = 5
EXAMPLES = 3
CHECK = "give the ids as they were ingested"
IDS_PER_PART = 1 << 22
LEFT_OUT, TAKEN_FOR_UNKNOWN = "left out", "taken for the unknown word"


@dataclass(frozen=True, slots=True)
class Unknown:
    """External ids that nobody knows: how many (repeats counted), the first few by name, all of them in order.

    became: what was done with them, in words.
    """

    count: int
    names: list[str]
    ids: pl.Series | None = field(default=None, compare=False, repr=False)
    became: str = LEFT_OUT

    def message(self, what: str) -> str:
        """One line for the log.

        >>> Unknown(7, ["a", "b"]).message("query ids")
        '7 unknown query ids left out: a, b, …'
        """
        dots = ", …" if self.count > len(self.names) else ""
        return f"{self.count:,} unknown {what} {self.became}: {', '.join(self.names)}{dots}"


class IdMap:
    """External id → number, where number is the row in ``ids``.

    Lookup by sorted search: the ids are sorted once, when first needed (not at all if they rise already, as the
    queries of a dataset do), then each lookup costs O(log). Memory: the ids and 8 bytes each.

    A map of int64 ids takes text too when it is the number as it is written: "17", not "017", "+17" or "17.0". A map of
    strings takes integers by their digits.
    """

    def __init__(self, ids: pl.Series) -> None:
        if ids.dtype not in (pl.String, pl.Int64):
            raise InputError("ids are of the wrong type", wanted="strings or int64", got=ids.dtype)
        self._ids = ids

    def __len__(self) -> int:
        """How many ids there are."""
        return len(self._ids)

    def examples(self) -> list[str]:
        """The first few ids, for a message."""
        return [str(each) for each in self._ids.head(EXAMPLES)]

    def numbers(self, ids: pl.Series | Sequence[str] | Sequence[int]) -> Tensor:
        """int64, the number of each id, −1 where it is unknown; in a series, where it is null, too.

        Raises:
            InputError: a string where a list is wanted; ids that are neither strings nor integers.
        """
        if not isinstance(ids, pl.Series) or not (ids.dtype == pl.String or ids.dtype.is_integer()):
            ids = as_id_series(ids)
        wanted = self._as_own_type(ids)
        if not len(wanted) or not len(self._ids):
            return torch.full((len(wanted),), -1, dtype=torch.int64)
        rising, numbers_of = self._in_order
        places = rising.search_sorted(wanted).clip(upper_bound=len(self._ids) - 1)
        found = (rising.gather(places) == wanted).fill_null(False).to_numpy()
        rows = places.to_numpy().astype(np.int64)
        numbers = rows if numbers_of is None else numbers_of[rows]
        return torch.from_numpy(np.where(found, numbers, -1))

    @once
    def _in_order(self) -> tuple[pl.Series, np.ndarray | None]:
        """The ids, rising, and the number of each; None where the place is the number."""
        if self._ids.is_sorted():
            return self._ids, None
        order = self._ids.arg_sort()
        return self._ids.gather(order), order.to_numpy().astype(np.int64)

    def _as_own_type(self, ids: pl.Series) -> pl.Series:
        if ids.dtype == self._ids.dtype:
            return ids
        if self._ids.dtype == pl.String:
            return ids.cast(pl.String)
        if ids.dtype != pl.String:
            return ids.cast(pl.Int64, strict=False)
        numbers = ids.cast(pl.Int64, strict=False)
        as_written = (numbers.cast(pl.String) == ids).fill_null(False)
        return pl.select(pl.when(as_written).then(numbers)).to_series()


def match_ids(ids: pl.Series, known: pl.Series) -> Tensor:
    """int64: the row of each of ``ids`` in ``known``, −1 where it is not there; of one type, both without repeats.

    For all ids of a catalogue at once. A hash join in parts of some millions of ids: several times as fast as
    :class:`IdMap` there, in memory of one part and 16 bytes an id.

    >>> match_ids(pl.Series(["b", "x", "a"]), pl.Series(["a", "b"])).tolist()
    [1, -1, 0]
    """
    parts = -(-max(len(known), len(ids), 1) // IDS_PER_PART)
    found = np.full(len(ids), -1, dtype=np.int64)
    wanted_part, known_part = ((series.hash() % parts).to_numpy() for series in (ids, known))
    for part in range(parts):
        rows, numbers = np.flatnonzero(wanted_part == part), np.flatnonzero(known_part == part)
        table = pl.DataFrame({"id": known.gather(numbers), "number": numbers})
        asked = pl.DataFrame({"id": ids.gather(rows)})
        joined = asked.join(table, on="id", how="left", maintain_order="left")["number"]
        found[rows] = joined.fill_null(-1).to_numpy()
    return torch.from_numpy(found)


def unknown(ids: pl.Series, numbers: Tensor) -> Unknown:
    """The ids whose number is −1."""
    missing = ids.filter(pl.Series(numbers.numpy() < 0))
    names = missing.head(1000).unique(maintain_order=True).head(NAMED)
    return Unknown(len(missing), [str(name) for name in names], missing)


def check_any_known(numbers: Tensor, ids: pl.Series, what: str, known: IdMap, where: object = None) -> None:
    """DataError when there are ids and not one of them has a number."""
    if len(numbers) and not bool((numbers >= 0).any()):
        raise none_known(what, unknown(ids, numbers).names, known.examples(), where)


def none_known(
    what: str, given: Sequence[str], known: Sequence[str], where: object = None, among: str = "known", do: str = CHECK
) -> DataError:
    """The error about ids of which not one is known: both sides are shown.

    >>> print(none_known("item", ["1.0", "2.0"], ["1", "2"]))
    not one item id is known
      wanted: item ids such as 1, 2
      got: 1.0, 2.0
      do: write integers: these ids have gone through a column of floating-point numbers
    """
    if _are_floats(given) and not _are_floats(known):
        do = "write integers: these ids have gone through a column of floating-point numbers"
    wanted = f"{what} ids such as {', '.join(known)}"
    return DataError(f"not one {what} id is {among}", where=where, wanted=wanted, got=", ".join(given), do=do)


def _are_floats(ids: Sequence[str]) -> bool:
    return all(re.fullmatch(r"-?\d+\.0*", each) for each in ids)
