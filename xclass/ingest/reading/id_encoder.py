"""External ids: strings or int64, exactly as they came, and the dense integer codes that stand for them.

Ids are encoded while the file streams by: a dictionary of distinct ids is all that is kept of the strings.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from xclass.errors import DataError
from xclass.ingest.columns import IdKind
from xclass.runtime.progress import say

CODES_PER_BLOCK = 1 << 22
FLOAT = r"^-?[0-9]+\.0$|^-?[0-9]\.[0-9]+[eE]\+?[0-9]+$"
MISSING = ["NULL", "null", "None", "nan", "NaN", "NA", "N/A", "#N/A", "\\N", "undefined"]  # as programs write them


class IdEncoder:
    """Distinct ids of one column, of any number of files, coded in the order in which they turn up.

    The dictionary is Polars' own (a named set of categories), filled inside the streaming query by many threads: codes
    differ from run to run until :meth:`finish` replaces them by the id's place among the sorted ids.
    """

    def __init__(self) -> None:
        self._categories = pl.Categories.random()
        self._dtype = pl.Categorical(self._categories)
        self._alive = pl.Series([], dtype=self._dtype)

    def expression(self, column: str) -> pl.Expr:
        """uint32 codes of a string column; null stays null."""
        return pl.col(column).cast(self._dtype).to_physical()

    def __contains__(self, identifier: str) -> bool:
        return identifier in self._categories

    def decode(self, size: int) -> pl.Series:
        """The ids of the codes 0 … size-1, strings."""
        codes = pl.DataFrame({"id": np.arange(size, dtype=np.uint32)})
        return codes.select(pl.col("id").cat.to(self._dtype).cast(pl.String)).to_series()

    def finish(self, size: int, kinds: set[IdKind], where: object, column: str) -> tuple[pl.Series, np.ndarray]:
        """The distinct ids in rising order, and the place of every code (0 … size-1) among them.

        Ids from text are int64 if every one of them is written as an int64 is ("7", not "007" or "7.0"); ids of typed
        files keep their type. Strings rise by their UTF-8 bytes.

        Returns:
            ids: Int64 or String series (U,), rising.
            places: int32 (U,) (int64 from 2^31 ids on), code → position in ids.

        Raises:
            DataError: one file has strings, another integers; or an integer beyond 64 bits.
        """
        ids = self.decode(size)
        check_kinds(kinds, where, column)
        ids = ids if "string" in kinds else _as_integers(ids, must="int64" in kinds, where=where, column=column)
        order = ids.arg_sort()
        places = np.empty(len(ids), dtype=index_dtype(len(ids)))
        places[order.to_numpy()] = np.arange(len(ids), dtype=places.dtype)
        return ids.gather(order), places


def index_dtype(size: int) -> type[np.integer]:
    """The type of numbers 0 … size-1: int32 below 2^31, else int64."""
    return np.int32 if size < 2**31 else np.int64


def is_canonical_int64(ids: pl.Series) -> pl.Series:
    """Which strings are an int64 as it is written: no leading zero, no plus, no blank, no fraction.

    >>> is_canonical_int64(pl.Series(["7", "-12", "007", "1.0", "+1", "9223372036854775808"])).to_list()
    [True, True, False, False, False, False]
    """
    return (ids.cast(pl.Int64, strict=False).cast(pl.String) == ids).fill_null(False)


def note_odd_ids(ids: pl.Series, role: str) -> bool:
    """Whether some of these strings may not be what was meant: padded with blanks, numbers that went through a float,
    words for a missing value. Says so, with examples."""
    missing, floats = ids.filter(ids.is_in(MISSING)), ids.filter(ids.str.contains(FLOAT))
    edges = [ids.str.starts_with(blank) | ids.str.ends_with(blank) for blank in (" ", "\t")]
    padded = ids.filter(edges[0] | edges[1])
    if len(padded):
        say(f"note: blanks belong to an id: the {role} {padded[0]!r} is another than {padded[0].strip()!r}")
    if len(missing):
        names = ", ".join(map(repr, missing))
        say(f"note: among the {role} ids: {names}; if this stands for a missing value, remove the rows")
    if len(floats):
        what = f"note: the {role} id {floats[0]!r} is text, another than that of an integer"
        say(f"{what}; if the ids went through a column of floating-point numbers, write them as integers")
    return len(padded) + len(missing) + len(floats) > 0


def recode(codes: np.ndarray, places: np.ndarray) -> np.ndarray:
    """``places[codes]`` in blocks, written over ``codes`` where the type allows."""
    result = (
        codes.view(places.dtype)
        if codes.dtype.itemsize == places.dtype.itemsize
        else np.empty(len(codes), places.dtype)
    )
    for start in range(0, len(codes), CODES_PER_BLOCK):
        stop = start + CODES_PER_BLOCK
        result[start:stop] = places[codes[start:stop]]
    return result


def samples(ids: pl.Series, codes: Sequence[int] | np.ndarray, limit: int = 5) -> list[str | int]:
    """The first few external ids of ``codes``, for a message."""
    return ids.gather(np.asarray(codes[:limit], dtype=np.int64)).to_list()


def _as_integers(ids: pl.Series, must: bool, where: object, column: str) -> pl.Series:
    canonical = is_canonical_int64(ids)
    if canonical.all():
        return ids.cast(pl.Int64)
    if must:
        check_integers(ids.filter(~canonical).head(3).to_list(), where, column)
    return ids


def check_kinds(kinds: set[IdKind], where: object, column: str) -> None:
    """DataError when one file has strings and another integers."""
    if {"string", "int64"} <= kinds:
        raise DataError(
            f"the {column} ids are strings in one file and integers in another",
            where=where,
            wanted="one type",
            do=f"write the {column} ids of every file in the same type",
        )


def check_integers(odd: list[str], where: object, column: str) -> None:
    """DataError when there are ids, of columns of integers, that are no int64."""
    if odd:
        raise DataError(
            f"the {column} ids are integers, but not all fit 64 bits",
            where=where,
            wanted="integers below 2^63, or strings",
            got=", ".join(odd),
            do=f"write the {column} ids as strings",
        )
