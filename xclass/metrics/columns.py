"""Running means of several metrics over queries, of all positives or of a slice of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from xclass.metrics.matching import Matches
from xclass.metrics.names import Mean, MetricName, Values, values_of
from xclass.metrics.popularity import Band

HISTORY = {
    "warm": "queries with a history: what they are known to like before this split",
    "cold": "queries without a history",
}


class Column:
    """One kind of lists: a running mean of every metric."""

    def __init__(self, metrics: Sequence[MetricName]) -> None:
        self.means = {metric: Mean() for metric in metrics}

    def add(self, values: Mapping[MetricName, Values], queries: Tensor | None = None) -> None:
        """Count one batch in, or only ``queries`` (bool (B,)) of it."""
        for metric, mean in self.means.items():
            gained, best = values[metric]
            if queries is not None:
                gained, best = gained[queries], None if best is None else best[queries]
            mean.add(Values(gained, best))

    @property
    def counted(self) -> Mean:
        """The mean of the first metric: all count the same queries."""
        return next(iter(self.means.values()))

    def result(self) -> dict[str, float]:
        """By name; a metric of no query is absent."""
        return numbers({str(metric): mean.value() for metric, mean in self.means.items()})


class BandColumns:
    """Recall of the positives of each band of popularity."""

    def __init__(self, bands: Sequence[Band], metrics: Sequence[MetricName]) -> None:
        recalls = [metric for metric in metrics if metric.name == "recall"]
        recalls = recalls or [MetricName("recall", k) for k in sorted({metric.k for metric in metrics})]
        self._columns = [(band, Column(recalls)) for band in bands]

    def add(self, matches: Matches) -> None:
        """Count one batch in."""
        for band, column in self._columns:
            in_band = matches.restrict(band.first, band.end)
            column.add({metric: values_of(in_band, metric) for metric in column.means})

    def result(self) -> dict[str, dict[str, Any]]:
        """Band → recalls, ``num_queries`` with a positive in it, and what it is."""
        return {
            band.name: {**column.result(), "num_queries": column.counted.num_queries, "items": band.definition}
            for band, column in self._columns
        }


class HistoryColumns:
    """Every metric for queries with and without a history apart."""

    def __init__(self, metrics: Sequence[MetricName]) -> None:
        self._columns = {name: Column(metrics) for name in HISTORY}

    def add(self, values: Mapping[MetricName, Values], has_history: Tensor) -> None:
        """Count one batch in; ``has_history`` is bool (B,)."""
        self._columns["warm"].add(values, has_history)
        self._columns["cold"].add(values, ~has_history)

    def result(self) -> dict[str, dict[str, Any]]:
        """Warm and cold → metrics, ``num_queries`` and what it is."""
        return {
            name: {**column.result(), "num_queries": column.counted.num_queries, "queries": HISTORY[name]}
            for name, column in self._columns.items()
        }


class PerQuery:
    """float32 values of every query: what it gained; for ratios of totals also what its best list gains.

    NaN where a query is skipped. Memory: 4 bytes a query and metric.
    """

    def __init__(self, num_queries: int, metrics: Sequence[MetricName]) -> None:
        self._size = num_queries
        self.gained = {str(metric): torch.full((num_queries,), torch.nan) for metric in metrics}
        self.best: dict[str, Tensor] = {}

    def add(self, numbers_B: Tensor, values: Mapping[MetricName, Values]) -> None:
        """Note the values of one batch."""
        for metric, (gained, best) in values.items():
            self.gained[str(metric)][numbers_B] = gained.float()
            if best is not None:
                held = self.best.setdefault(str(metric), torch.full((self._size,), torch.nan))
                held[numbers_B] = best.float()


def numbers(values: Mapping[str, float]) -> dict[str, float]:
    """Without what was not computed (NaN)."""
    return {name: value for name, value in values.items() if not math.isnan(value)}
