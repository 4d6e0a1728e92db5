"""What the report in dataset.json must hold: types and ranges of everything that is shown of it."""

from __future__ import annotations

from typing import Any, Literal

import pydantic

from xclass.io.records import ABSENT, Count, Place, Record

Part = Literal["train", "valid", "test"]
OF_PAIRS = {
    "formats", "kept", "queries", "dropped", "cold_items", "queries_without_history", "queries_without_pairs"
}  # fmt: skip


class PartReport(Record):
    """One part of the split; the times of its pairs where there are any."""

    pairs: Count
    queries: Count
    items: Count
    first_time: float = ABSENT
    last_time: float = ABSENT

    @pydantic.model_validator(mode="after")
    def _times_go_together(self) -> PartReport:
        if (self.first_time is ABSENT) != (self.last_time is ABSENT):
            raise ValueError("first_time and last_time go together")
        return self


class MinCountsReport(Record):
    """What minimum counts dropped."""

    pairs: Count
    queries: Count
    items: Count
    rounds: Count


class DroppedReport(Record):
    """Pairs that are not there any more."""

    duplicates: Count
    min_counts: MinCountsReport
    low_weights: Count = 0


class AppendedReport(Record):
    """What was added to the dataset that was there before."""

    pairs: dict[str, Count]
    queries: Count
    items: Count
    merged: Count
    moved: dict[str, Count]


class NewQueriesReport(Record):
    """Queries without a train pair, and some of them."""

    queries: Count
    samples: list[Any]


class ColdItemsReport(Record):
    """Items without a train pair, their pairs, and some of them."""

    items: Count
    pairs: Count
    samples: list[Any]


class TextReport(Record):
    """What was found in a plain text."""

    lines: dict[str, Count]
    distinct: Count
    unknown: dict[Part, Count]
    context: Count
    borders: Literal["stop", "cross", "ignore"]
    perplexity: dict[Part, float] = pydantic.Field(default_factory=dict)


class ReportRecord(Record):
    """The report of an ingest, of pairs or of a plain text."""

    source: Place
    read: dict[str, Count]
    items: Count
    splits: dict[Part, PartReport]
    text: TextReport = ABSENT
    formats: list[str] = pydantic.Field(default_factory=list)
    columns: dict[str, str] = pydantic.Field(default_factory=dict)
    unused: list[str] = pydantic.Field(default_factory=list)
    not_read: list[str] = pydantic.Field(default_factory=list)
    remarks: list[str] = pydantic.Field(default_factory=list)
    look_like_times: list[str] = pydantic.Field(default_factory=list)
    look_like_events: dict[str, list[str]] = pydantic.Field(default_factory=dict)
    split: str = ""
    split_reason: str | None = None
    missing_times: Count = 0
    cut_offs: dict[str, float] = pydantic.Field(default_factory=dict)
    kept: Count = 0
    queries: Count = 0
    dropped: DroppedReport = ABSENT
    appended: AppendedReport = ABSENT
    documents: dict[str, Count] = pydantic.Field(default_factory=dict)
    feature_values: Count = 0
    cold_items: dict[Part, ColdItemsReport] = pydantic.Field(default_factory=dict)
    queries_without_history: dict[Part, NewQueriesReport] = pydantic.Field(default_factory=dict)
    queries_without_pairs: Count = 0

    @pydantic.model_validator(mode="after")
    def _is_whole(self) -> ReportRecord:
        given, together = self.model_fields_set, (("columns", "unused"), ("documents", "feature_values"))
        missing = set() if "text" in given else OF_PAIRS - given
        missing |= {second for first, second in together if first in given} - given
        missing |= {"split"} - given if self.split_reason else set()
        if missing:
            raise ValueError(f"the report must have {min(missing)}")
        return self

    @pydantic.model_validator(mode="after")
    def _text_has_every_part(self) -> ReportRecord:
        for name in {"unknown", "perplexity"} & (set() if self.text is ABSENT else self.text.model_fields_set):
            if not {*self.splits, "train"} <= getattr(self.text, name).keys():
                raise ValueError(f"text.{name} must have every part")
        return self
