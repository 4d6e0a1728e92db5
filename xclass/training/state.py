"""Where training stands. With the tensors it is all that a resume needs: draws depend on (seed, step) only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pydantic

from xclass.io.records import Count, Metric, Record, check_record
from xclass.training.metrics_log import PHASES


class PositionRecord(Record):
    """A position as a checkpoint holds it; older ones lack some of it."""

    step: Count
    epoch: Count = 0
    batch: Count = 0
    positives: Count = 0
    train_s: float = pydantic.Field(0.0, ge=0)
    phase_s: dict[str, float] = pydantic.Field(default_factory=dict)
    best: Metric | None = None
    best_step: Count = 0
    bad_validations: Count = 0
    stopped: bool = False
    validations: list[dict[str, Metric]] = pydantic.Field(default_factory=list)
    warned: list[str] = pydantic.Field(default_factory=list)


@dataclass
class Position:
    """Counts, and what validations have found. ``best`` is the metric of the weights that are kept as the best ones."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    positives: int = 0
    train_s: float = 0.0
    phase_s: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    best: float | None = None
    best_step: int = 0
    bad_validations: int = 0
    stopped: bool = False
    validations: list[dict[str, float]] = field(default_factory=list)
    warned: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, state: dict[str, Any], where: object) -> Position:
        """Of a checkpoint's plain values; ArtefactError where they are altered."""
        found = check_record(PositionRecord, state.get("position", state), where).model_dump()
        found["phase_s"] = dict.fromkeys(PHASES, 0.0) | found["phase_s"]
        return cls(**found)

    def judge(self, value: float, patience: int, lower: bool = False) -> bool:
        """Whether a validation is the best so far (the highest value, or the lowest); after ``patience`` (0: never)
        that are not, training stops."""
        if self.best is None or (value < self.best if lower else value > self.best):
            self.best, self.best_step, self.bad_validations = value, self.step, 0
            return True
        self.bad_validations += 1
        self.stopped = 0 < patience <= self.bad_validations
        return False

    def take_best(self, kept: Position | None) -> None:
        """The best weights are those of the checkpoint that holds them, by its position; None: there are none."""
        self.best, self.best_step = (None, 0) if kept is None else (kept.best, kept.best_step)
