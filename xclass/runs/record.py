"""What run.json and started.json must hold: types and ranges of everything that is read from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pydantic

from xclass.data.dataset_record import SequenceRecord
from xclass.io.manifest import Manifest
from xclass.io.records import ABSENT, Count, Place, Record, check_record, read_json

STARTED = "started.json"


class VocabularyRecord(Record):
    """How many features there are, and the hash of their names."""

    size: Count
    sha256: str


class StartedRecord(Record):
    """What a run was started with: started.json, and "dataset" in run.json."""

    dataset: Place
    fingerprint: str
    vocabularies: dict[Literal["query", "item"], dict[str, VocabularyRecord]] = pydantic.Field(default_factory=dict)
    grown: list[dict[str, Any]] = pydantic.Field(default_factory=list)


class ResultRecord(Record):
    """Of what training found, what is read again."""

    train_s: float


class ScorersRecord(Record):
    """The name of the features that scorers read."""

    name: str


class RunRecord(Manifest):
    """The manifest of a run."""

    dataset: StartedRecord
    num_queries: Count
    num_items: Count
    num_train_queries: Count = 0
    features: dict[Literal["query", "item"], dict[str, Count]] = pydantic.Field(default_factory=dict)
    result: ResultRecord
    scorers: ScorersRecord = ABSENT
    grown: list[dict[str, Any]] = pydantic.Field(default_factory=list)
    sequence: SequenceRecord = ABSENT


def read_started(run: Path) -> dict[str, Any]:
    """What the run was started with; ArtefactError where the file is missing, cut or altered."""
    started: dict[str, Any] = read_json(run / STARTED)
    check_record(StartedRecord, started, run / STARTED)
    return started
