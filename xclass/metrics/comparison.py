"""Several evaluations of the same queries beside one another: differences, their intervals, their p-values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
import torch

from xclass.errors import InputError
from xclass.metrics.evaluation import Evaluation
from xclass.metrics.significance import INTERVAL, LEVEL, P_VALUE, holm, intervals, randomisation_p


@dataclass(frozen=True, slots=True)
class Difference:
    """One run against the first one, by one metric.

    difference: this run's metric less the first one's. low, high: its bootstrap interval.
    p: of the paired randomisation test. p_holm: corrected for the number of runs compared with the first.
    """

    run: str
    against: str
    metric: str
    difference: float
    low: float
    high: float
    p: float
    p_holm: float

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        names = {"run": self.run, "against": self.against, "metric": self.metric, "difference": self.difference}
        return {**names, "interval": [self.low, self.high], "p": self.p, "p_holm": self.p_holm}


@dataclass(frozen=True, slots=True)
class Comparison:
    """What :func:`compare_evaluations` found.

    runs: name → evaluation, the first is what the others are compared with.
    differences: metric by metric, in the order of the runs.
    """

    runs: dict[str, Evaluation]
    differences: list[Difference]
    resamples: int

    def __repr__(self) -> str:
        first = next(iter(self.runs.values()))
        names = ", ".join(self.runs)
        return f"Comparison({first.num_queries:,} queries of {names}; see .table() and .difference_table())"

    def to_dict(self) -> dict[str, Any]:
        """What ``xclass compare --json`` prints."""
        first = next(iter(self.runs.values()))
        runs = [
            {"run": name, "metrics": found.metrics, "catalogue": found.catalogue, "num_missing": found.num_missing}
            for name, found in self.runs.items()
        ]
        texts = {
            "difference": "the run's metric less that of the first run, over the same queries",
            "interval": INTERVAL.format(level=LEVEL, resamples=self.resamples),
            "p": P_VALUE.format(resamples=self.resamples),
        }
        return {
            "runs": runs,
            "comparisons": [difference.to_dict() for difference in self.differences],
            "num_queries": first.num_queries,
            "num_skipped": first.num_skipped,
            "definitions": {**first.definitions, **texts},
        }

    def table(self) -> pl.DataFrame:
        """One row per metric, one column per run."""
        names = next(iter(self.runs.values())).metrics
        columns = {name: [found.metrics.get(metric) for metric in names] for name, found in self.runs.items()}
        return pl.DataFrame({"metric": list(names), **columns})

    def difference_table(self) -> pl.DataFrame:
        """One row per metric and run but the first: difference, low, high, p, p (Holm)."""
        rows = [(d.metric, d.run, d.difference, d.low, d.high, d.p, d.p_holm) for d in self.differences]
        return pl.DataFrame(rows, schema=["metric", "run", "difference", "low", "high", "p", "p (Holm)"], orient="row")


def compare_evaluations(runs: dict[str, Evaluation], resamples: int = 10_000, seed: int = 0) -> Comparison:
    """Compare each evaluation with the first, query by query.

    Args:
        runs: name → evaluation, of the same queries with the same metrics.
        resamples: bootstrap samples of the intervals and sign changes of the test.

    Raises:
        InputError: fewer than two; other metrics or queries; not one query with a positive.
    """
    if len(runs) < 2:
        raise InputError("there is nothing to compare", wanted="two runs or more", got=len(runs))
    (first, base), *others = runs.items()
    for name, found in others:
        _check_pairs(first, base, name, found)
    found_for = [_test(base, other, resamples, seed) for _, other in others]
    differences = []
    for metric in _by_query(base):
        corrected = holm([p[metric] for _, p in found_for])
        for (name, other), (ends, p), p_holm in zip(others, found_for, corrected, strict=True):
            gap = other.metrics[metric] - base.metrics[metric]
            differences.append(Difference(name, first, metric, gap, *ends[metric], p[metric], p_holm))
    return Comparison(runs, differences, resamples)


def _test(
    base: Evaluation, other: Evaluation, resamples: int, seed: int
) -> tuple[dict[str, tuple[float, float]], dict[str, float]]:
    gaps = {metric: other.per_query[metric] - base.per_query[metric] for metric in _by_query(base)}
    return intervals(gaps, base.per_query_best, resamples, seed), randomisation_p(gaps, resamples, seed)


def _by_query(found: Evaluation) -> list[str]:
    """The metrics with a value for each query: a perplexity has none, its logarithm has."""
    return [metric for metric in found.metrics if metric in found.per_query]


def _check_pairs(first: str, base: Evaluation, name: str, other: Evaluation) -> None:
    if list(base.metrics) != list(other.metrics) or not base.metrics:
        raise InputError(
            "these can't be compared: other metrics, or no query with a positive",
            wanted=f"{first}: {', '.join(base.metrics)}",
            got=f"{name}: {', '.join(other.metrics)}",
        )
    metric = _by_query(base)[0]
    skipped, too = (torch.isnan(found.per_query[metric]) for found in (base, other))
    if len(skipped) != len(too) or bool((skipped != too).any()):
        raise InputError("these were measured on other queries", where=f"{first} and {name}", wanted="the same queries")


def distinct_names(names: Sequence[str]) -> list[str]:
    """The names, with #2, #3 … behind those that came before.

    >>> distinct_names(["a", "b", "a"])
    ['a', 'b', 'a #2']
    """
    result: list[str] = []
    for place, name in enumerate(names):
        before = names[:place].count(name)
        result.append(name if not before else f"{name} #{before + 1}")
    return result
