"""What dataset.json must hold: types and ranges of everything that is read from it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pydantic

from xclass.data.report_record import Part, ReportRecord
from xclass.io.manifest import Manifest
from xclass.io.records import ABSENT, Count, Record

TABLES = ("items.parquet", "queries.parquet")
Positive = Annotated[int, pydantic.Field(ge=1, lt=1 << 31)]


class SplitRecord(Record):
    """What is in a part of the split."""

    pairs: Count
    queries: Count


class FeaturesRecord(Record):
    """Numbers of features there can be, and values of all rows."""

    size: Count
    values: Count


class HiddenRecord(Record):
    """Pairs of a query and an item that it must not be shown."""

    pairs: Count


class SequenceRecord(Record):
    """How sequences are read: the fields of :class:`xclass.data.windows.SequenceFacts`."""

    context: Positive
    borders: Literal["stop", "cross", "ignore"]
    border_item: Count | None
    unknown_item: Count | None


class OptionsRecord(Record):
    """Of the options of an ingest what is read again without the options' own check."""

    propensity_a: float = 0.55
    propensity_b: float = 1.5


class IdTypes(Record):
    """Types of the external ids."""

    query: Literal["int64", "string"]
    item: Literal["int64", "string"]


class GrowableRecord(Record):
    """What a dataset must hold beside that for more to be appended to it."""

    split: Literal["given", "random", "leave-last", "time"]
    options: dict[str, Any]
    report: ReportRecord
    columns: dict[str, str] = pydantic.Field(default_factory=dict)


class DatasetRecord(Manifest):
    """The manifest of a dataset."""

    num_queries: Count
    num_items: Count
    splits: dict[Part, SplitRecord]
    id_types: IdTypes = IdTypes(query="string", item="string")
    report: ReportRecord = ABSENT
    options: OptionsRecord = OptionsRecord()
    columns: dict[str, Any] = pydantic.Field(default_factory=dict)
    history: list[dict[str, Any]] = pydantic.Field(default_factory=list)
    features: dict[Literal["query", "item"], dict[str, FeaturesRecord]] = pydantic.Field(default_factory=dict)
    hidden: HiddenRecord = ABSENT
    sequence: SequenceRecord = ABSENT

    @pydantic.model_validator(mode="after")
    def _fits_together(self) -> DatasetRecord:
        if "train" not in self.splits:
            raise ValueError("splits must have train")
        if any(part.queries > self.num_queries for part in self.splits.values()):
            raise ValueError("no part has more queries than num_queries")
        if self.sequence is not ABSENT:
            self._check_sequence(self.sequence)
        self._check_files()
        return self

    def _check_files(self) -> None:
        """Tables, and lists in exactly the folders that are described."""
        described = {*self.splits, *(["hidden"] if self.hidden is not ABSENT else [])}
        described |= {f"{side}_features/{name}" for side, found in self.features.items() for name in found}
        ends = ("/offsets.npy", "/values.npy")
        wanted = {*TABLES, *(folder + end for folder in described for end in ends)}
        there = {name for name in self.files if name.endswith(ends)} | ({*TABLES} & self.files.keys())
        if wanted != there:
            raise ValueError(f"files and what is said of them contradict each other: {min(wanted ^ there)}")

    def _check_sequence(self, sequence: SequenceRecord) -> None:
        if sum(part.pairs for part in self.splits.values()) != self.num_queries:
            raise ValueError("in sequences every query has one pair")
        if any(item is not None and item >= self.num_items for item in (sequence.border_item, sequence.unknown_item)):
            raise ValueError("border_item and unknown_item must be below num_items")
