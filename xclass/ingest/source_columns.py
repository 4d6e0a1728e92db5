"""What an ingest says of a source: the columns and files it used and which not, and what a person may have meant."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xclass.ingest.columns import is_time_name
from xclass.ingest.options import IngestOptions
from xclass.ingest.reading.id_sorted import Ids
from xclass.ingest.reading.reader import Table
from xclass.ingest.sources import files_not_read
from xclass.ingest.text.times import are_times

TABLES = {"csv", "inter", "jsonl", "parquet"}  # formats whose columns have names
EVENT_NAMES = ("event_type", "event", "event_name", "behavior", "behaviour", "behavior_type", "action", "action_type")
EVENTS = {
    "view", "click", "cart", "addtocart", "add_to_cart", "purchase", "buy", "transaction", "impression", "like",
    "dislike", "play", "skip", "pv", "fav", "wishlist", "remove_from_cart",
}  # fmt: skip
MOST_EVENT_TYPES = 20
TIME_IN_NAME = re.compile(r"(^|_)(time|date|datetime|timestamp|ts)($|_)|(time|date|Time|Date|timestamp)$|_at$")
OUTCOMES = re.compile(
    r"(is_?)?(label|target|click(ed)?|like[ds]?|purchased?|bought|conversion|converted)", re.IGNORECASE
)
YES_OR_NO = ({"0", "1"}, {"0.0", "1.0"}, {"true", "false"})
SAMPLED_IDS = 1000


def about_source(table: Table, split: str, options: IngestOptions, source: str) -> dict[str, Any]:
    """The part of the report that is about columns and files, and why the split is what it is."""
    reasons = {
        "given": "the source has parts of its own",
        "time": f'the column "{table.columns.time}" holds times',
        "random": "there are no times",
    }
    told: dict[str, Any] = {"split": split, "split_reason": reasons[split] if options.split == "auto" else None}
    told |= {"not_read": files_not_read(Path(source)), "remarks": _id_remarks(table)}
    if not TABLES & set(table.formats):
        return told
    samples = table.columns.samples
    told["remarks"] += [remark for name, values in samples.items() if (remark := outcome_remark(name, values))]
    return told | {
        "columns": table.columns.used(),
        "unused": table.columns.unused(),
        "look_like_times": [
            name for name, values in samples.items() if table.columns.time is None and looks_like_time(name, values)
        ],
        "look_like_events": {name: found for name, values in samples.items() if (found := event_types(name, values))},
    }


def looks_like_time(name: str, values: Sequence[object]) -> bool:
    """Whether a column without a meaning looks like the time of the events, by its name or its values.

    >>> looks_like_time("visited", ["2024-05-01", "2024-05-02"]), looks_like_time("visit_date", ["5/1/24"])
    (True, True)
    >>> looks_like_time("price", [12, 7])
    False
    """
    return is_time_name(name) or TIME_IN_NAME.search(name) is not None or are_times(values)


def event_types(name: str, values: Sequence[object]) -> list[str]:
    """The few kinds of events that a column holds, by its name or by words like "purchase"; else nothing.

    >>> event_types("event_type", ["a", "b"]), event_types("kind", ["view", "cart"]), event_types("title", ["a", "b"])
    (['a', 'b'], ['cart', 'view'], [])
    """
    found = sorted({str(value) for value in values if value not in (None, "")})
    known = name.strip().lower().replace("-", "_") in EVENT_NAMES or any(value.lower() in EVENTS for value in found)
    return found if known and 1 < len(found) <= MOST_EVENT_TYPES else []


def outcome_remark(name: str, values: Sequence[object]) -> str | None:
    """What to say of a column like "label" that holds 0 and 1 and is not used."""
    found = {str(value).lower() for value in values if value not in (None, "")}
    if not OUTCOMES.fullmatch(name.strip()) or found not in YES_OR_NO:
        return None
    rows = f'"{name}" is not used: rows with {min(found)} and {max(found)} count alike, as positives'
    return rows if "true" in found else f'{rows}; to keep those with 1: --weight-col "{name}" --min-weight 1'


def _id_remarks(table: Table) -> list[str]:
    remarks = [_fraction_remark(role, ids) for role, ids in (("query", table.query_ids), ("item", table.item_ids))]
    remarks.append(_list_remark(_some_texts(table.item_ids)))
    return [remark for remark in remarks if remark]


def _fraction_remark(role: str, ids: Ids) -> str | None:
    """Integers that went through a floating-point column are other ids than the integers."""
    texts = _some_texts(ids)
    written = [text for text in texts if re.fullmatch(r"-?\d+\.0+", text)]
    whole = {text.partition(".")[0] for text in written}
    if written and (len(written) == len(texts) or whole & set(texts)):
        whole_id = written[0].partition(".")[0]
        return f"the {role} ids are written with a fraction: {written[0]} is another id than {whole_id}"
    return None


def _list_remark(texts: list[str]) -> str | None:
    listed = [text for text in texts if re.fullmatch(r"\s*\d+([ ,;|]+\d+)+\s*", text)]
    if 2 * len(listed) <= len(texts):
        return None
    return f'"{listed[0][:40]}" is one item: for a list of items use --format adjacency, JSON lines or Parquet'


def _some_texts(ids: Ids) -> list[str]:
    return [name for name in ids.gather(np.arange(min(SAMPLED_IDS, len(ids)))).to_list() if isinstance(name, str)]
