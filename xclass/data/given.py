"""What Python callers give, in the containers they have: ids, lists of ids, texts.

A container is a list, a tuple, a range, a NumPy array, a torch tensor, or a series of Polars, pandas or Arrow. Sets and
dicts have no order that could be relied on, iterators can be read once only: they are refused.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from xclass.errors import InputError

TO_LIST = ("tolist", "to_list", "to_pylist")
CONTAINERS = "a list, tuple, array, tensor or series"


def as_id_series(ids: Any, what: str = "ids") -> pl.Series:
    """A series of strings or of integers out of any container; of strings where it is empty.

    Raises:
        InputError: not a container; something in it is neither a string nor an integer, or is missing; both in one.
    """
    if isinstance(ids, pl.Series) and ids.dtype in (pl.Categorical, pl.Enum):
        ids = ids.cast(pl.String)
    if isinstance(ids, np.ndarray) and ids.ndim == 1 and ids.dtype.kind in "iu":
        ids = pl.Series("id", ids)
    if not isinstance(ids, pl.Series) or ids.dtype in (pl.Null, pl.Object) or ids.null_count():
        return _series_of(as_list(ids, what), what)
    if ids.dtype != pl.String and not ids.dtype.is_integer():
        raise InputError(f"{what} are of the wrong type", wanted="strings or integers", got=ids.dtype)
    return ids


def as_id_lists(lists: Any, what: str) -> list[list[str]]:
    """Lists of ids, as strings, out of a container of containers; strings and integers may be mixed.

    Raises:
        InputError: as :func:`as_id_series`; names the list.
    """
    found = [as_list(each, f"{what}[{place}]") for place, each in enumerate(as_list(lists, what))]
    if not _kinds(item for each in found for item in each) <= {"string", "integer"}:
        for place, each in enumerate(found):
            _check_ids(each, f"{what}[{place}]")
    return [[str(item) for item in each] for each in found]


def is_nested(given: Any) -> bool:
    """Whether a container holds containers, and not ids."""
    if isinstance(given, pl.Series):
        return isinstance(given.dtype, pl.List | pl.Array)
    return any(hasattr(each, "__len__") and not isinstance(each, str | bytes) for each in as_list(given, "ids"))


def as_texts(texts: Any) -> pl.Series:
    """A series of strings out of any container.

    Raises:
        InputError: not a container, or something in it is no string.
    """
    found = as_list(texts, "texts")
    if not _kinds(found) <= {"string"}:
        raise InputError("texts must be a list of strings", wanted='["a text", …]', got=repr(texts)[:80])
    return _strings("text", found, "texts")


def as_cut_offs(k: Any) -> list[int]:
    """Cut-offs out of any container, or the one; InputError for what is no integer of 1 or more.

    >>> as_cut_offs((10, np.int64(20))), as_cut_offs(5)
    ([10, 20], [5])
    """
    found = [k] if _kind(type(k)) == "integer" else as_list(k, "cut-offs")
    for each in found:
        if _kind(type(each)) != "integer" or each < 1:
            raise InputError("a cut-off is no integer of 1 or more", wanted="k=[10, 20]", got=repr(each))
    return [int(each) for each in found]


def as_count(number: Any, what: str) -> int:
    """A plain integer of 1 or more, from any integer type; InputError for anything else."""
    if _kind(type(number)) != "integer" or number < 1:
        raise InputError(f"{what} is no integer of 1 or more", got=repr(number))
    return int(number)


def checked_path(path: Any, what: str) -> Path:
    """The path, or an InputError for what is none: a table, a number."""
    if isinstance(path, str | os.PathLike):
        return Path(path)
    raise InputError(f"the path of {what} is wanted", wanted="a string or pathlib.Path", got=type(path).__name__)


def as_list(values: Any, what: str) -> list[Any]:
    """A Python list of what a container holds; InputError for what is none."""
    if isinstance(values, str | bytes):
        raise InputError(f"a list of {what} is wanted", wanted=f"[{values!r}]", got=repr(values))
    found: Any = next((getattr(values, name)() for name in TO_LIST if callable(getattr(values, name, None))), None)
    if found is None and isinstance(values, Sequence):
        found = list(values)
    if not isinstance(found, list):
        got = f"{type(values).__name__}: {values!r}"[:80]
        raise InputError(f"a list of {what} is wanted", wanted=CONTAINERS, got=got)
    return found


def _series_of(ids: list[Any], what: str) -> pl.Series:
    kinds = _kinds(ids)
    if not kinds <= {"string", "integer"}:
        _check_ids(ids, what)
    if len(kinds) > 1:
        raise InputError(f"{what} must be all strings or all integers", got=f"both: {ids!r}"[:80])
    if kinds == {"integer"}:
        try:
            return pl.Series("id", ids, dtype=pl.Int64)
        except (TypeError, OverflowError):  # beyond 64 bits
            ids = [str(each) for each in ids]
    return _strings("id", ids, what)


def _strings(name: str, values: list[str], what: str) -> pl.Series:
    try:
        return pl.Series(name, values, dtype=pl.String)
    except UnicodeEncodeError as error:
        raise InputError(f"one of the {what} is no Unicode text", got=str(error)) from None


def _check_ids(ids: list[Any], what: str) -> None:
    """InputError that shows the first that is no id."""
    for place, each in enumerate(ids):
        if not _kinds([each]) <= {"string", "integer"}:
            got = f"{each!r} at position {place}"
            raise InputError(f"{what} are of the wrong type", wanted="strings or integers", got=got)


def _kinds(values: Iterable[Any]) -> set[str]:
    return {_kind(kind) for kind in set(map(type, values))}


def _kind(kind: type) -> str:
    if issubclass(kind, str):
        return "string"
    return "integer" if issubclass(kind, int | np.integer) and kind is not bool else "other"
