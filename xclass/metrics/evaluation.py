"""The result of an evaluation: numbers with their definitions, as a table, as JSON, per query."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from torch import Tensor

from xclass.manifest import atomic_file


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What :func:`xclass.evaluate.evaluate` found. A number that was not computed is absent, never 0.

    metrics: of the lists given, by name, e.g. ``recall@20``.
    metrics_index: the same metrics of the lists that came through the index; empty without one.
    index_recall: ``index_recall@k`` for every cut-off; empty without an index.
    popularity: the same metrics of the most popular items that each query has not seen; empty without counts.
    catalogue: ``coverage@k``, ``gini@k``, ``identical_lists@k`` of the lists given.
    by_popularity: band → recall of the positives in that band, with ``num_queries`` and the band's definition.
    num_queries, num_skipped: queries with, and without, a positive. Only the first count.
    num_missing: queries with a positive for which no list came; they count 0.
    num_short: lists shorter than the largest cut-off.
    num_cold_positives: positives without a train pair; they count as any other.
    definitions: every name above → formula, denominator, ties, empty queries.
    per_query: metric → float32 (queries of the truth,), NaN where skipped; :attr:`metrics` is their mean, for
        psp and psndcg their sum over that of the best lists.
    """

    metrics: dict[str, float]
    metrics_index: dict[str, float]
    index_recall: dict[str, float]
    popularity: dict[str, float]
    catalogue: dict[str, float]
    by_popularity: dict[str, dict[str, Any]]
    num_queries: int
    num_skipped: int
    num_missing: int
    num_short: int
    num_cold_positives: int | None
    definitions: dict[str, str]
    per_query: dict[str, Tensor]

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
        for name in ("num_cold_positives", "metrics_index", "popularity", "catalogue", "by_popularity"):
            value = getattr(self, name)
            if value not in (None, {}):
                result[name] = value
        return result

    def table(self) -> pl.DataFrame:
        """One row per number; columns metric, model (exact), and where there are any: index, popularity."""
        names = [*self.metrics, *self.index_recall, *self.catalogue]
        columns = {
            "model": {**self.metrics, **self.catalogue},
            "index": {**self.metrics_index, **self.index_recall},
            "popularity": self.popularity,
        }
        held = {name: [values.get(key) for key in names] for name, values in columns.items() if values}
        return pl.DataFrame({"metric": names, **held}, schema_overrides=dict.fromkeys(held, pl.Float64))

    def write_per_query(self, path: Path | str, query_ids: pl.Series) -> None:
        """Parquet with query_id and one float32 column per metric, null where a query was skipped."""
        columns = {name: pl.Series(values.numpy()).fill_nan(None) for name, values in self.per_query.items()}
        with atomic_file(Path(path)) as temporary:
            pl.DataFrame({"query_id": query_ids, **columns}).write_parquet(temporary)
