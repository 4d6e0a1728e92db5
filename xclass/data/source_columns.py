"""What an ingest says of a source's columns: which it used for what, which not, and which of those look useful."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xclass.data.columns import is_time_name
from xclass.data.options import IngestOptions
from xclass.data.reading import Table
from xclass.data.times import are_times

TABLES = {"csv", "inter", "jsonl", "parquet"}  # formats whose columns have names
EVENT_NAMES = ("event_type", "event", "event_name", "behavior", "behaviour", "behavior_type", "action", "action_type")
MOST_EVENT_TYPES = 20


def about_columns(table: Table, split: str, options: IngestOptions) -> dict[str, Any]:
    """The part of the report that is about columns, and why the split is what it is."""
    reasons = {
        "given": "the source has parts of its own",
        "time": f'the column "{table.columns.time}" holds times',
        "random": "there are no times",
    }
    told: dict[str, Any] = {"split": split, "split_reason": reasons[split] if options.split == "auto" else None}
    if not TABLES & set(table.formats):
        return told
    samples = table.columns.samples
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

    >>> looks_like_time("visited", ["2024-05-01", "2024-05-02"]), looks_like_time("price", [12, 7])
    (True, False)
    """
    return is_time_name(name) or are_times(values)


def event_types(name: str, values: Sequence[object]) -> list[str]:
    """The few kinds of events that a column with such a name holds; nothing for another column.

    >>> event_types("event_type", ["view", "cart", "view"]), event_types("title", ["a", "b"])
    (['cart', 'view'], [])
    """
    if name.strip().lower().replace("-", "_") not in EVENT_NAMES:
        return []
    found = sorted({str(value) for value in values if value not in (None, "")})
    return found if 1 < len(found) <= MOST_EVENT_TYPES else []
