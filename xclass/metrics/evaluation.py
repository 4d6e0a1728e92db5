"""The result of an evaluation: numbers with their definitions, as a table, as JSON, per query."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import Tensor

from xclass.io.files import atomic_file
from xclass.metrics.columns import numbers as finite
from xclass.metrics.likelihood import (
    CALIBRATION_DEFINITIONS,
    LIKELIHOOD_DEFINITIONS,
    LOG_LOSS,
    PERPLEXITY,
    UNIGRAM,
    Likelihood,
)
from xclass.metrics.significance import INTERVAL, LEVEL, intervals

# Parts of the JSON that are there only where they were computed.
PARTS = (
    "num_cold_positives", "intervals", "metrics_index", "popularity", "calibration", "catalogue", "by_popularity",
    "by_history", "files",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What :func:`xclass.evaluation.evaluate.evaluate` found. A number that was not computed is absent, never 0.

    metrics: of the lists given, by name, e.g. ``recall@20``.
    metrics_index: the same metrics of the lists that came through the index; empty without one.
    index_recall: ``index_recall@k`` for every cut-off; empty without an index.
    popularity: the same metrics of the most popular items that each query has not seen; empty without counts.
    catalogue: ``coverage@k``, ``gini@k``, ``identical_lists@k`` of the lists given, with counts ``mean_popularity@k``.
    by_popularity: band → recall of the positives in that band, with ``num_queries`` and the band's definition.
    by_history: warm and cold → the metrics of queries with and without a history, with ``num_queries``.
    num_queries, num_skipped: queries with, and without, a positive. Only the first count.
    num_missing: queries with a positive for which no list came; they count 0.
    num_short: lists shorter than the largest cut-off.
    num_cold_positives: positives without a train pair; they count as any other.
    definitions: every name above → formula, denominator, ties, empty queries.
    per_query: metric → float32 (queries of the truth,), NaN where skipped; :attr:`metrics` is their mean, for
        psp and psndcg their sum over that of ``per_query_best``.
    per_query_best: for metrics that are ratios of totals, what the best possible list of each query gains.
    intervals: metric → ends of its bootstrap interval; empty without :meth:`with_intervals`.
    files: what was counted and decided while files were read; empty for a run.
    calibration: ``log_z_mean`` and ``log_z_std`` of scores; empty without :meth:`with_likelihood`, and where a head has
        no such scores.
    query_ids: the external ids of ``per_query``, where they are known.
    """

    metrics: dict[str, float]
    metrics_index: dict[str, float]
    index_recall: dict[str, float]
    popularity: dict[str, float]
    catalogue: dict[str, float]
    by_popularity: dict[str, dict[str, Any]]
    by_history: dict[str, dict[str, Any]]
    num_queries: int
    num_skipped: int
    num_missing: int
    num_short: int
    num_cold_positives: int | None
    definitions: dict[str, str]
    per_query: dict[str, Tensor]
    per_query_best: dict[str, Tensor] = field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    files: dict[str, Any] = field(default_factory=dict)
    query_ids: pl.Series | None = None
    calibration: dict[str, float] = field(default_factory=dict)

    def __repr__(self) -> str:
        found = ", ".join(f"{name} {value:.4f}" for name, value in self.metrics.items())
        return f"Evaluation({self.num_queries:,} queries: {found}; more in .table())"

    def with_intervals(self, resamples: int, seed: int = 0) -> Evaluation:
        """The same with bootstrap intervals of ``metrics``; see :func:`xclass.metrics.significance.intervals`."""
        found = intervals(self.per_query, self.per_query_best, resamples, seed)
        if LOG_LOSS in found:
            found[PERPLEXITY] = math.exp(found[LOG_LOSS][0]), math.exp(found[LOG_LOSS][1])
        text = INTERVAL.format(level=LEVEL, resamples=resamples)
        return replace(self, intervals=found, definitions={**self.definitions, "intervals": text})

    @classmethod
    def nothing_yet(cls) -> Evaluation:
        """Without a list and a number: for :meth:`with_likelihood`."""
        return cls({}, {}, {}, {}, {}, {}, {}, 0, 0, 0, 0, None, {}, {})

    def with_likelihood(self, found: Likelihood, popular: Likelihood | None = None) -> Evaluation:
        """The same with perplexity and calibration of the same queries; ``popular``: of train counts alone."""
        calibration = finite(found.calibration())
        definitions = LIKELIHOOD_DEFINITIONS | {name: CALIBRATION_DEFINITIONS[name] for name in calibration}
        if popular is not None:
            told = self.definitions.get("popularity")
            definitions["popularity"] = UNIGRAM if told is None else f"{told}; {UNIGRAM}"
        counted = found.weight > 0
        skipped = found.loss.masked_fill(~counted, torch.nan).float()
        return replace(
            self,
            metrics={**finite(found.metrics()), **self.metrics},
            popularity={**({} if popular is None else finite(popular.metrics())), **self.popularity},
            calibration=calibration,
            num_queries=int(counted.sum()),
            num_skipped=int((~counted).sum()),
            definitions={**self.definitions, **definitions},
            per_query={LOG_LOSS: skipped, **self.per_query},
            per_query_best={LOG_LOSS: found.weight.float(), **self.per_query_best},
        )

    def to_dict(self) -> dict[str, Any]:
        """What ``xclass evaluate --json`` prints."""
        result: dict[str, Any] = {
            "metrics": self.metrics,
            "num_queries": self.num_queries,
            "num_skipped": self.num_skipped,
            "num_missing": self.num_missing,
            "num_short": self.num_short,
            "definitions": self.definitions,
            **self.index_recall,
        }
        for name in PARTS:
            value = getattr(self, name)
            if value not in (None, {}):
                result[name] = value
        return result

    def table(self) -> pl.DataFrame:
        """One row per number; columns metric, model (exact), and where there are any: low, high, index, popularity."""
        names = [*self.metrics, *self.calibration, *self.index_recall, *self.catalogue]
        columns = {
            "model": {**self.metrics, **self.calibration, **self.catalogue},
            "low": {name: ends[0] for name, ends in self.intervals.items()},
            "high": {name: ends[1] for name, ends in self.intervals.items()},
            "index": {**self.metrics_index, **self.index_recall},
            "popularity": self.popularity,
        }
        held = {name: [values.get(key) for key in names] for name, values in columns.items() if values}
        return pl.DataFrame({"metric": names, **held}, schema_overrides=dict.fromkeys(held, pl.Float64))

    def write_per_query(self, path: Path | str, query_ids: pl.Series | None = None) -> None:
        """Parquet with query_id and one float32 column per metric, null where a query was skipped."""
        query_ids = self.query_ids if query_ids is None else query_ids
        columns = {name: pl.Series(values.numpy()).fill_nan(None) for name, values in self.per_query.items()}
        with atomic_file(Path(path)) as temporary:
            pl.DataFrame({"query_id": query_ids, **columns}).write_parquet(temporary)
