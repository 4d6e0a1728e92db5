"""Which columns of a file hold the query, the item, the weight and the time."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from xclass.errors import DataError, nearest
from xclass.ingest.options import IngestOptions

IdKind = Literal["text", "string", "int64"]
"""How a file holds ids: text has no type of its own; string and int64 were said by the file and are kept."""

MOST_WITHOUT_NAMES = 4
"""Columns of a table without a header whose meaning is clear: query, item, and of four weight and time."""
USUAL_NAMES = {
    "query": (
        "query_id", "query", "user_id", "user", "uid", "session_id", "session", "customer_id", "customer", "visitor_id",
        "member_id", "account_id", "client_id", "reviewer_id", "reader_id", "listener_id", "viewer_id", "buyer_id",
        "profile_id", "person_id", "device_id", "document_id",
    ),
    "item": (
        "item_id", "item", "items", "item_ids", "iid", "movie_id", "product_id", "article_id", "business_id", "asin",
        "parent_asin", "sku", "product", "movie", "video_id", "video", "song_id", "song", "track_id", "track",
        "artist_id", "artist", "album_id", "book_id", "book", "isbn", "news_id", "game_id", "app_id", "anime_id",
        "recipe_id", "poi_id", "venue_id", "place_id", "location_id", "ad_id", "content_id", "offer_id", "course_id",
        "job_id", "restaurant_id", "paper_id", "post_id", "photo_id", "listing_id", "hotel_id",
    ),
    "weight": ("weight", "rating", "stars", "count"),
    "time": (
        "timestamp", "time", "unix_time", "unix_review_time", "ts", "event_time", "event_timestamp", "datetime",
        "date_time", "created_at", "rated_at", "date",
    ),
}  # fmt: skip
SURE_TIMES = USUAL_NAMES["time"][:5]
"""A column of such a name holds times, or is wrong; of the other names one may hold the names of weekdays."""
PLURALS = ("items", "item_ids")
"""They hold lists of items, or say how many there are; which one is clear only where nothing else could be meant."""
OTHER_NAMES = ("label", "price", "title", "name", "category", "brand", "genres", "event_type", "event", "behavior")
"""Of columns with another meaning; a line that holds one is a header."""


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of one file and their meaning.

    names: every column, in the file's order. quoted: whether a csv file may quote its fields. lists: the meanings whose
    column holds lists. dates: whether times are dates in text. samples: the first values of columns without a meaning.
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
    samples: Mapping[str, Sequence[object]] = field(default_factory=dict, compare=False)

    def used(self) -> dict[str, str]:
        """Meaning to column name, of those that are there."""
        roles = {"query": self.query, "item": self.item, "weight": self.weight, "time": self.time}
        return {role: name for role, name in roles.items() if name is not None}

    def unused(self) -> list[str]:
        """The columns without a meaning."""
        return [name for name in self.names if name not in self.used().values()]


def resolve_columns(
    names: Sequence[str], options: IngestOptions, where: Path, header: bool = True, lists: Container[str] = ()
) -> dict[str, str | None]:
    """Meaning → name among ``names``: what the options name, else the usual names.

    Without a header the columns are called "1", "2", … and stand for query, item and, when there are exactly four
    (MovieLens), weight and time; of five or more the query and the item must be named. Usual names are compared without
    case, "_", "-" and blanks. A name like "items" is the item's in a column of ``lists``, or when every other column
    has a meaning: beside others it may be a number of items.

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
    if options.item_col is None and found["item"] not in lists and not _is_clear(found, names):
        found["item"] = None
    for role in ("query", "item"):
        if found[role] is None:
            raise _no_column(role, names, where, header)
    if found["query"] == found["item"]:
        raise DataError(
            "the query and the item column are the same", where=where, got=found["query"], do="name two columns"
        )
    return found


def is_usual_name(name: str) -> bool:
    """Whether a header may be known by this name."""
    return any(_is_one_of(name, usual) for usual in [*USUAL_NAMES.values(), OTHER_NAMES])


def is_time_name(name: str) -> bool:
    """Whether this is a usual name of the time."""
    return _is_one_of(name, USUAL_NAMES["time"])


def is_sure_time(name: str) -> bool:
    """Whether a column of this name can hold nothing but times."""
    return _is_one_of(name, SURE_TIMES)


def query_names(names: Sequence[str]) -> list[str]:
    """Those that are usual names of the query's column."""
    return [name for name in names if _is_one_of(name, USUAL_NAMES["query"])]


def names_a_pair(fields: Sequence[str]) -> bool:
    """Whether a line is the header of a table of pairs: one of its fields names the query, another the item.

    >>> names_a_pair(["userId", "movieId", "note"]), names_a_pair(["user", "7"])
    (True, False)
    """
    return all(any(_is_one_of(name, USUAL_NAMES[role]) for name in fields) for role in ("query", "item"))


def _no_column(role: str, names: Sequence[str], where: Path, header: bool) -> DataError:
    if not header and len(names) > MOST_WITHOUT_NAMES:
        return DataError(
            f"this table has {len(names)} columns and no header: which one holds the {role} ids?",
            where=where,
            wanted="the numbers of the columns, from 1",
            got=f"columns {', '.join(names)}",
            do="name them, for example: --query-col 1 --item-col 5",
        )
    return DataError(
        f"no column looks like the {role} ids",
        where=where,
        wanted=f"a usual name, such as {', '.join(USUAL_NAMES[role][:8])}",
        got=f"columns {', '.join(names)}",
        do=f"name it: --{role}-col NAME" + (" (or --no-header if the first line is data)" if header else ""),
    )


def _is_clear(found: dict[str, str | None], names: Sequence[str]) -> bool:
    """Whether the item's column has a name of its own, or is a plural and every other column has a meaning."""
    item = found["item"]
    return item is None or not _is_one_of(item, PLURALS) or {*names} <= {*found.values()}


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
        there = position < len(names) <= MOST_WITHOUT_NAMES and (position < 2 or len(names) == MOST_WITHOUT_NAMES)
        return name if there and name not in taken else None
    plain = {_plain(name): name for name in reversed(names) if name not in taken}
    return next((plain[_plain(usual)] for usual in USUAL_NAMES[role] if _plain(usual) in plain), None)


def _is_one_of(name: str, usual: Sequence[str]) -> bool:
    return _plain(name) in map(_plain, usual)


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", "").replace("-", "").replace(" ", "")
