"""What a contest found: as JSON, as tables, as files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xclass.comparison.curves import Point, Target
from xclass.comparison.plot import draw
from xclass.comparison.timing import BATCH, DEFINITIONS, TIMES, Layer
from xclass.io.files import atomic_file
from xclass.io.manifest import write_json
from xclass.io.markdown import Brief, are_numbers, cell, markdown
from xclass.metrics.comparison import Comparison
from xclass.runtime.progress import say

JSON, MARKDOWN, PICTURE = "comparison.json", "comparison.md", "comparison.png"
OF_TRAINING = {
    "examples_per_s": "train pairs a second, the median over the training time",
    "train_s": "seconds of training steps, without validations and checkpoints",
    "reached_s": "seconds of training before the first validation that reached the target",
    "parameters": "numbers of the output layer that training chose",
    "memory_bytes": "of the output layer of a finished run: parameters as they are stored, trees and the like",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One configuration, trained and measured.

    config: as it was given. name: what it is called in tables. run: its run directory.
    metrics, metrics_index, index_recall, calibration: as of an evaluation; empty where a search misses nothing, or
        where there are no scores that a log Z belongs to.
    examples_per_s, reached_s: None where nothing tells. layer: None for a run without towers.
    times: µs a query; None for what the run can't do.
    curve: its validations.
    """

    config: str
    name: str
    run: Path
    metrics: dict[str, float]
    metrics_index: dict[str, float]
    index_recall: dict[str, float]
    calibration: dict[str, float]
    examples_per_s: float | None
    train_s: float
    reached_s: float | None
    times: dict[str, float | None]
    layer: Layer | None
    curve: list[Point] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        optional = {"metrics_index": self.metrics_index, "index_recall": self.index_recall}
        optional["calibration"] = self.calibration
        return {
            "config": self.config,
            "name": self.name,
            "run": str(self.run),
            "metrics": self.metrics,
            **{name: part for name, part in optional.items() if part},
            "examples_per_s": self.examples_per_s,
            "train_s": self.train_s,
            "reached_s": self.reached_s,
            **self.times,
            "parameters": self.layer and self.layer.parameters,
            "memory_bytes": self.layer and self.layer.memory_bytes,
            "curve": [{"step": each.step, "train_s": each.train_s, **each.metrics} for each in self.curve],
        }


@dataclass(frozen=True, slots=True)
class Contest:
    """Configurations of one dataset beside one another, the first is the baseline.

    comparison: the same evaluations query by query; None for a single configuration.
    conditions: of the times: batch, k, threads, turns.
    """

    entries: list[Entry]
    comparison: Comparison | None
    target: Target | None
    definitions: dict[str, str]
    conditions: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """What ``xclass compare DATASET --config … --json`` prints."""
        found: dict[str, Any] = {"runs": [entry.to_dict() for entry in self.entries]}
        if self.comparison is not None:
            first = next(iter(self.comparison.runs.values()))
            found |= {"num_queries": first.num_queries, "num_skipped": first.num_skipped}
            found["comparisons"] = [difference.to_dict() for difference in self.comparison.differences]
        found["target"] = self.target and self.target._asdict()
        return {
            **found,
            "conditions": self.conditions,
            "definitions": {**self.definitions, **OF_TRAINING, **DEFINITIONS},
        }

    def quality(self) -> tuple[list[str], list[list[object]]]:
        """Columns and rows of the metrics."""
        found = [entry.metrics | entry.calibration | entry.index_recall for entry in self.entries]
        names = list(dict.fromkeys(name for each in found for name in each))
        rows: list[list[object]] = [
            [entry.name, *map(each.get, names)] for entry, each in zip(self.entries, found, strict=True)
        ]
        return ["configuration", *names], rows

    def cost(self) -> tuple[list[str], list[list[object]]]:
        """Columns and rows of times and sizes."""
        reached = f"s to {self.target.metric} {cell(self.target.value)}" if self.target else "s to the target"
        names = ("probability", "score", f"top-{self.conditions['k']}")
        times = [f"{name}, µs, {size}" for name in names for size in ("one query", f"{BATCH} at once")]
        columns = ["configuration", "examples/s", "training, s", reached, *times, "parameters", "memory, MiB"]
        return columns, [_cost_row(entry) for entry in self.entries]

    def tables(self) -> str:
        """Both as Markdown, with what the numbers mean."""
        quality, cost = self.quality(), self.cost()
        parts = [as_markdown(*quality), as_markdown(*cost)]
        shown_metrics = {name: text for name, text in self.definitions.items() if name in quality[0]}
        meanings = {**OF_TRAINING, **DEFINITIONS, **shown_metrics}
        shown = ", ".join(f"{name} {cell(value)}" for name, value in self.conditions.items())
        known = "\n".join(f"- {name}: {text}" for name, text in meanings.items())
        return "\n\n".join([*parts, f"Measured with {shown}.", known])

    def write(self, folder: Path) -> None:
        """comparison.json, comparison.md and, where a plotting library is, comparison.png."""
        write_json(folder / JSON, self.to_dict())
        picture = draw(
            {entry.name: (entry.curve, entry.train_s, entry.metrics) for entry in self.entries},
            self.metric,
            folder / PICTURE,
        )
        with atomic_file(folder / MARKDOWN) as temporary:
            text = f"![Quality against training time]({PICTURE})\n\n" if picture else ""
            temporary.write_text(text + self.tables() + "\n", encoding="utf-8")
        say(f"written: {', '.join(str(folder / name) for name in [JSON, MARKDOWN, *([PICTURE] if picture else [])])}")

    @property
    def metric(self) -> str:
        """What the picture shows: that of the target, else the first one measured."""
        return self.target.metric if self.target else next(iter(self.entries[0].metrics))


def as_markdown(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table of values."""
    return markdown(columns, [[cell(value) for value in row] for row in rows], are_numbers(rows, len(columns)))


def _cost_row(entry: Entry) -> list[object]:
    layer, rate = entry.layer, entry.examples_per_s
    times = [entry.times.get(name) for each in TIMES for name in (each, each.replace("_us", "_batch_us"))]
    sizes = (None, None) if layer is None else (layer.parameters, Brief(layer.memory_bytes / 2**20))
    numbers = [None if value is None else Brief(value) for value in (rate, entry.train_s, entry.reached_s, *times)]
    return [entry.name, *numbers, *sizes]
