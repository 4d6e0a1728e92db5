"""The one table of ranking metrics: name → formula, denominator, ties, empty queries; and how a name is computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from xclass.config import MOST
from xclass.errors import InputError, nearest
from xclass.metrics import propensity, ranking
from xclass.metrics.matching import Matches, match
from xclass.types import Ragged, TopK

PLAIN = "macro mean over queries with at least one positive; queries without are skipped and counted"
RATIO = (
    "Σ over queries with at least one positive, over the same Σ for the best possible lists;"
    " queries without are skipped and counted"
)
TIES = "ranks are the list's order, among equal scores the positives come last; missing places and lists are misses"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: what it is in words, and its values per query.

    formula: with k for the cut-off.
    per_query: ``(matches, k) -> float64 (B,)``, NaN for a query without positives; None when weights are needed.
    weighted, best: ``(matches, k, weights_N) -> float64 (B,)``, what was gained and what the best list gains.
    """

    formula: str
    per_query: Callable[[Matches, int], Tensor] | None = None
    weighted: Callable[[Matches, int, Tensor], Tensor] | None = None
    best: Callable[[Matches, int, Tensor], Tensor] | None = None

    def definition(self, k: int) -> str:
        """Formula, averaging, empty-query and tie policy as one sentence, for the cut-off k."""
        return f"{self.formula.format(k=k)}; {PLAIN if self.best is None else RATIO}; {TIES}"


METRICS: dict[str, Metric] = {
    "recall": Metric("hits in the first {k} / positives", ranking.recall),
    "capped_recall": Metric("hits in the first {k} / min({k}, positives)", ranking.capped_recall),
    "precision": Metric("hits in the first {k} / {k}", ranking.precision),
    "hit_rate": Metric("1 if the first {k} hold a positive, else 0", ranking.hit_rate),
    "ndcg": Metric(
        "Σ of 1/log2(rank+1) over hits in the first {k} / Σ of 1/log2(r+1) for r = 1 … min({k}, positives)",
        ranking.ndcg,
    ),
    "map": Metric(
        "Σ of (hits up to the rank / rank) over hits in the first {k} / min({k}, positives)", ranking.average_precision
    ),
    "mrr": Metric("1 / rank of the first hit, 0 if the first {k} hold none", ranking.reciprocal_rank),
    "psp": Metric(
        "Σ of 1/propensity over hits in the first {k} / {k} (Jain et al. 2016)",
        weighted=propensity.ps_precision,
        best=propensity.best_ps_precision,
    ),
    "psndcg": Metric(
        "Σ of 1/(propensity·log2(rank+1)) over hits in the first {k} / Σ of 1/log2(r+1) for r = 1 … min({k}, positives)"
        " (Jain et al. 2016)",
        weighted=propensity.ps_ndcg,
        best=propensity.best_ps_ndcg,
    ),
}


class MetricName(NamedTuple):
    """A metric and its cut-off, written ``recall@20``."""

    name: str
    k: int

    def __str__(self) -> str:
        return f"{self.name}@{self.k}"


def parse_metric(text: str) -> MetricName:
    """Read ``name@k``.

    Raises:
        InputError: another form, an unknown name (with the nearest known one), k < 1 or above 2^31 − 1.

    >>> parse_metric("recall@20")
    MetricName(name='recall', k=20)
    """
    name, sign, digits = text.strip().partition("@")
    if name not in METRICS:
        raise InputError(
            f'there is no metric "{name}"', wanted="name@k, e.g. recall@20", got=text, do=nearest(name, METRICS)
        )
    if not sign or not digits.isascii() or not digits.isdigit() or not 1 <= int(digits[:12]) <= MOST:
        wanted = f"{name}@k, e.g. {name}@20, k up to {MOST:,}"
        raise InputError("a metric needs a cut-off of 1 or more", wanted=wanted, got=text[:100])
    return MetricName(name, int(digits))


def parse_metrics(texts: Sequence[str]) -> list[MetricName]:
    """Read several, in order, repeats left out. A single string where a list is wanted is an InputError."""
    if isinstance(texts, str):
        raise InputError("metrics must be a list", wanted=f'["{texts}"]', got=repr(texts))
    return list(dict.fromkeys(parse_metric(text) for text in texts))


class Values(NamedTuple):
    """One metric on a batch: ``gained`` float64 (B,), and for ratio metrics what the best lists gain, else None."""

    gained: Tensor
    best: Tensor | None


def compute(
    found: TopK, truth: Ragged, metrics: Sequence[MetricName], weights_N: Tensor | None = None
) -> dict[MetricName, Values]:
    """Every metric for every query of a batch.

    Args:
        found: B lists, best first. They should be as long as the largest cut-off wherever the catalogue allows.
        truth: Ragged (B), the positives.
        metrics: from :func:`parse_metrics`.
        weights_N: float64 (N,), 1/propensity of each item; psp and psndcg need it.
    """
    matches = match(found, truth)
    return {metric: values_of(matches, metric, weights_N) for metric in metrics}


def values_of(matches: Matches, metric: MetricName, weights_N: Tensor | None = None) -> Values:
    """One metric from matches that are already found."""
    entry = METRICS[metric.name]
    if entry.per_query is not None:
        return Values(entry.per_query(matches, metric.k), None)
    assert entry.weighted is not None and entry.best is not None
    if weights_N is None:
        raise InputError(
            f"{metric} needs propensities", do="pass the train counts of the items and the number of train queries"
        )
    return Values(entry.weighted(matches, metric.k, weights_N), entry.best(matches, metric.k, weights_N))


class Mean:
    """A running mean over queries: of the values, or total gained over total of the best."""

    def __init__(self) -> None:
        self.num_queries = 0
        self.num_skipped = 0
        self._gained = 0.0
        self._best: float | None = None

    def add(self, values: Values) -> None:
        """Count one batch in; NaN is a skipped query."""
        counted = ~values.gained.isnan()
        self.num_queries += int(counted.sum())
        self.num_skipped += int((~counted).sum())
        self._gained += float(values.gained[counted].sum())
        if values.best is not None:
            self._best = (self._best or 0.0) + float(values.best[counted].sum())

    def value(self) -> float:
        """The mean; NaN when no query was counted."""
        denominator = self.num_queries if self._best is None else self._best
        return self._gained / denominator if self.num_queries else float("nan")


def average(batches: Mapping[MetricName, Values]) -> dict[str, float]:
    """The mean of each metric of one :func:`compute`, by name."""
    result = {}
    for metric, values in batches.items():
        mean = Mean()
        mean.add(values)
        result[str(metric)] = mean.value()
    return result
