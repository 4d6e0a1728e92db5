"""Which columns of a file hold the query, the item, the weight and the time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from xclass.data.options import IngestOptions
from xclass.errors import DataError, nearest

IdKind = Literal["text", "string", "int64"]
"""How a file holds ids: text has no type of its own; string and int64 were said by the file and are kept."""

USUAL_NAMES = {
    "query": (
        "query_id",
        "query",
        "user_id",
        "user",
        "uid",
        "session_id",
        "session",
        "customer_id",
        "visitor_id",
        "document_id",
    ),
    "item": (
        "item_id",
        "item",
        "items",
        "item_ids",
        "iid",
        "movie_id",
        "product_id",
        "article_id",
        "business_id",
        "asin",
        "label",
    ),
    "weight": ("weight", "rating", "stars", "count"),
    "time": ("timestamp", "time", "unix_time", "unix_review_time", "ts"),
}


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of one file and their meaning.

    names: every column, in the file's order. quoted: whether a csv file may quote its fields. lists: the meanings whose
    column holds lists. dates: whether times are dates in text.
    """

    query: str
    item: str
    weight: str | None = None
    time: str | None = None
    names: tuple[str, ...] = ()
    query_kind: IdKind = "text"
    item_kind: IdKind = "text"
    header: bool = True
    separator: str = ","
    quoted: bool = True
    lists: tuple[str, ...] = ()
    dates: bool = False

    def used(self) -> dict[str, str]:
        """Meaning to column name, of those that are there."""
        roles = {"query": self.query, "item": self.item, "weight": self.weight, "time": self.time}
        return {role: name for role, name in roles.items() if name is not None}


def resolve_columns(
    names: Sequence[str], options: IngestOptions, where: Path, header: bool = True
) -> dict[str, str | None]:
    """Meaning → name among ``names``: what the options name, else the usual names.

    Without a header the columns are called "1", "2", … and stand for query, item and, when there are exactly four
    (MovieLens), weight and time. Usual names are compared without case, "_", "-" and blanks.

    >>> resolve_columns(["userId", "movieId", "rating"], IngestOptions(), Path("ratings.csv"))
    {'query': 'userId', 'item': 'movieId', 'weight': 'rating', 'time': None}

    Raises:
        DataError: a column that was asked for, or the query or item column, is not there; names the nearest.
    """
    asked = {role: getattr(options, f"{role}_col") for role in USUAL_NAMES}
    found: dict[str, str | None] = {}
    for role, name in asked.items():
        taken = {value for value in [*found.values(), *asked.values()] if value}
        found[role] = _asked(role, name, names, where) if name is not None else _usual(role, names, taken, header)
    for role in ("query", "item"):
        if found[role] is None:
            raise DataError(
                f"no column looks like the {role} ids",
                where=where,
                wanted=f"one of {', '.join(USUAL_NAMES[role])}",
                got=f"columns {', '.join(names)}",
                do=f"name it: --{role}-col NAME" + (" (or --no-header if the first line is data)" if header else ""),
            )
    if found["query"] == found["item"]:
        raise DataError(
            "the query and the item column are the same", where=where, got=found["query"], do="name two columns"
        )
    return found


def is_usual_name(name: str) -> bool:
    """Whether a header may be known by this name."""
    return any(_plain(name) in map(_plain, usual) for usual in USUAL_NAMES.values())


def _asked(role: str, name: str, names: Sequence[str], where: Path) -> str | None:
    if name == "" and role in ("weight", "time"):
        return None
    if name not in names:
        raise DataError(
            f"there is no column for --{role}-col",
            where=where,
            wanted=name,
            got=f"columns {', '.join(names)}",
            do=nearest(name, names),
        )
    return name


def _usual(role: str, names: Sequence[str], taken: set[str], header: bool) -> str | None:
    if not header:
        position = list(USUAL_NAMES).index(role)
        name = str(position + 1)
        there = position < len(names) and (position < 2 or len(names) == 4) and name not in taken
        return name if there else None
    plain = {_plain(name): name for name in reversed(names) if name not in taken}
    return next((plain[_plain(usual)] for usual in USUAL_NAMES[role] if _plain(usual) in plain), None)


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", "").replace("-", "").replace(" ", "")
