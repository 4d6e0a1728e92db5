"""How quality rose while a run was trained, from its metrics.jsonl."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from xclass.errors import ArtefactError, InputError
from xclass.training.metrics_log import read_log
from xclass.training.validation import lower_is_better

NEAR = 0.01
"""Without a target of the user's: within this share of the first configuration's best validation."""


class Target(NamedTuple):
    """The quality whose time is looked for, on the valid split."""

    metric: str
    value: float

    def is_reached_by(self, value: float) -> bool:
        """Whether a value is at least as good."""
        return value <= self.value if lower_is_better(self.metric) else value >= self.value


class Point(NamedTuple):
    """A validation: seconds of training before it, and what it found."""

    step: int
    train_s: float
    metrics: dict[str, float]


def read_records(run: Path) -> list[dict[str, Any]]:
    """The records of a run's metrics.jsonl; none of a run without towers.

    Raises:
        ArtefactError: a line is no record.
    """
    path = run / "metrics.jsonl"
    records, damaged = read_log(path) if path.exists() else ([], 0)
    if damaged:
        raise ArtefactError("lines of this file are no records: cut or altered", where=path, got=f"{damaged:,}")
    return records


def curve(records: Sequence[dict[str, Any]]) -> list[Point]:
    """The validations in order."""
    return [Point(each["step"], each.get("train_s", 0.0), each["valid"]) for each in records if each.get("valid")]


def examples_per_s(records: Sequence[dict[str, Any]]) -> float | None:
    """Train pairs a second: the median over training time of what reports say, so that what the first step compiles and
    what disturbed the machine for a while count little. None where nothing was trained."""
    spans, before = list[tuple[float, float]](), 0.0
    for each in records:
        if "event" in each or "train_s" not in each:
            continue
        spent, before = each["train_s"] - before, each["train_s"]
        if each.get("positives_per_s") is not None and spent > 0:
            spans.append((each["positives_per_s"], spent))
    half, passed = sum(spent for _, spent in spans) / 2, 0.0
    for rate, spent in sorted(spans):
        passed += spent
        if passed >= half:
            return rate
    return None


def parse_target(text: str) -> Target:
    """``recall@20=0.18``.

    >>> parse_target("perplexity=190")
    Target(metric='perplexity', value=190.0)

    Raises:
        InputError: not a metric, =, and a finite number.
    """
    metric, _, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not metric or not math.isfinite(number):
        raise InputError("this is no quality to reach", where="--target", wanted="METRIC=VALUE", got=text)
    return Target(metric, number)


def target_of(points: Sequence[Point], metric: str) -> Target | None:
    """Within 1% of the best of these validations; None where there are none."""
    found = [point.metrics[metric] for point in points if metric in point.metrics]
    if not found:
        return None
    value = min(found) * (1 + NEAR) if lower_is_better(metric) else max(found) * (1 - NEAR)
    return Target(metric, value)


def reached_s(points: Sequence[Point], target: Target | None) -> float | None:
    """Training time to the first validation that reached the target; None where none did."""
    for point in points:
        if target is not None and target.metric in point.metrics and target.is_reached_by(point.metrics[target.metric]):
            return point.train_s
    return None
