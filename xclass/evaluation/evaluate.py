"""Evaluation: every metric per query, with what it means, the popularity baseline beside it, and both recalls apart.

    exact = retrieve(model, exact_index, batches, k=20)
    result = evaluate(exact, dataset.split("test"), metrics_at([20]), item_counts=dataset.item_counts,
                      seen=dataset.seen("test"))
    print(result.table())

Two recalls, never mixed: *model recall* (``recall@k``) is the share of a query's positives in its list; *index recall*
(``index_recall@k``) is the share of the exact list that the index finds. The first says how good the model is, the
second what the index loses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import zip_longest

import torch
from torch import Tensor

from xclass.data.given import as_cut_offs
from xclass.data.lists import Lists
from xclass.errors import InputError
from xclass.index.tuning.measure import INDEX_RECALL, index_recall
from xclass.metrics import (
    METRICS,
    BandColumns,
    CatalogueUse,
    Column,
    Evaluation,
    HistoryColumns,
    Matches,
    Mean,
    MetricName,
    PerQuery,
    Propensities,
    Values,
    check_falling,
    match,
    popular_topk,
    popularity_bands,
    values_of,
)
from xclass.metrics import numbers as finite
from xclass.types import Ragged, TopK

Results = Iterable[tuple[Tensor, TopK]]
DEFAULT_METRICS = ("recall", "capped_recall", "precision", "hit_rate", "ndcg", "map", "mrr")
DOCUMENT_METRICS = ("precision", "ndcg", "psp", "psndcg", "recall")
TEXT_METRICS = ("recall", "mrr")  # one positive each: the others are these, or multiples of them
MISSING_AT_ONCE = 1 << 14
POPULARITY = (
    "the same metrics of the items with the most train pairs that each query has not seen, equal counts in the order of"
    " the item table"
)


def metrics_at(cut_offs: Sequence[int] | int, names: Sequence[str] = DEFAULT_METRICS) -> list[MetricName]:
    """Each metric at each cut-off, or at the one; InputError for a cut-off below 1.

    >>> [str(metric) for metric in metrics_at([10, 20], ["recall", "ndcg"])]
    ['recall@10', 'recall@20', 'ndcg@10', 'ndcg@20']
    """
    ks = as_cut_offs(cut_offs)
    return [MetricName(name, k) for name in names for k in ks]


def evaluate(
    results: Results,
    truth: Lists,
    metrics: Sequence[MetricName],
    *,
    through_index: Results | None = None,
    item_counts: Tensor | None = None,
    seen: Lists | None = None,
    propensities: Propensities | None = None,
    num_items: int | Callable[[], int] | None = None,
    by_popularity: bool = False,
) -> Evaluation:
    """Measure lists against the truth, one batch after the other.

    Memory: 4 bytes × queries of the truth × metrics, ``item_counts``, and one batch.

    Args:
        results: (query numbers, lists): the model's own lists, from an exact search. As long as the largest cut-off.
        truth: Ragged, list q holds the positives of query number q.
        metrics: from ``metrics_at`` or ``parse_metrics``.
        through_index: the same queries in the same batches, searched through the index.
        item_counts: (N,) integers, train pairs of each item, never rising: gives the popularity baseline and the bands.
        seen: Ragged, list q holds what query q has seen: left out of the baseline, as it is of the lists.
        propensities: of every item, for psp and psndcg.
        num_items: N, for coverage; known from ``item_counts`` if those are given. A function is asked at the end.
        by_popularity: recall in head, torso and tail too.

    Raises:
        InputError: no metric; a query number unknown or given twice; batches of the two results that differ; what
            ``by_popularity``, psp or psndcg need is not there.
    """
    if not metrics:
        raise InputError("there is nothing to measure", wanted="one metric or more")
    if by_popularity and item_counts is None:
        raise InputError("popularity bands need the items' train counts", do="pass item_counts")
    evaluator = _Evaluator(truth, metrics, item_counts, seen, propensities, num_items, by_popularity)
    for numbers, found, indexed in _paired(results, through_index):
        evaluator.add(numbers, found, indexed)
    return evaluator.result()


class _Evaluator:
    def __init__(
        self,
        truth: Lists,
        metrics: Sequence[MetricName],
        item_counts: Tensor | None,
        seen: Lists | None,
        propensities: Propensities | None,
        num_items: int | Callable[[], int] | None,
        by_popularity: bool,
    ) -> None:
        self.truth, self.metrics, self.item_counts = truth, list(metrics), item_counts
        self.seen, self.propensities = seen, propensities
        self.cut_offs = sorted({metric.k for metric in metrics})
        if item_counts is not None:
            check_falling(item_counts)
        self.model, self.index, self.popularity = (Column(metrics) for _ in range(3))
        self.index_recall = {k: Mean() for k in self.cut_offs}
        self.num_items = len(item_counts) if num_items is None and item_counts is not None else num_items
        self.use = CatalogueUse(self.cut_offs)
        bands = popularity_bands(item_counts) if by_popularity and item_counts is not None else []
        self.bands, self.history = BandColumns(bands, metrics), HistoryColumns(metrics)
        self.per_query = PerQuery(len(truth), metrics)
        self.delivered = torch.zeros(len(truth), dtype=torch.bool)
        self.has_index = False
        self.num_short = self.num_missing = self.num_cold = 0

    def add(self, numbers: Tensor, found: TopK, indexed: TopK | None) -> None:
        """Count one batch in."""
        self._deliver(numbers)
        truth = self.truth.take(numbers)
        matches = match(found, truth)
        values = self._values(matches)
        self.model.add(values)
        self.per_query.add(numbers, values)
        self.bands.add(matches)
        self.use.add(found)
        self.num_short += int((found.lengths() < self.cut_offs[-1]).sum())
        seen = self._seen(numbers)
        if self.seen is not None:
            self.history.add(values, seen.lengths() > 0)
        if self.item_counts is not None:
            self._add_baseline(seen, truth, matches)
        if indexed is not None:
            self._add_index(found, indexed, truth)

    def result(self) -> Evaluation:
        """Close: queries for which no list came count with an empty one."""
        missing = (~self.delivered).nonzero().squeeze(1)
        for numbers in missing.split(MISSING_AT_ONCE):
            empty = TopK(torch.zeros(len(numbers) + 1, dtype=torch.int64), numbers[:0], torch.empty(0))
            self.num_missing += int((self.truth.take(numbers).lengths() > 0).sum())
            self.num_short -= len(numbers)
            self.add(numbers, empty, empty if self.has_index else None)
        counted = self.model.counted
        num_items = self.num_items() if callable(self.num_items) else self.num_items
        catalogue = {} if num_items is None else self.use.result(num_items, self.item_counts)
        return Evaluation(
            metrics=self.model.result(),
            metrics_index=self.index.result() if self.has_index else {},
            index_recall=finite({f"index_recall@{k}": mean.value() for k, mean in self.index_recall.items()}),
            popularity=self.popularity.result() if self.item_counts is not None else {},
            catalogue=finite(catalogue),
            by_popularity=self.bands.result(),
            by_history=self.history.result() if self.seen is not None else {},
            num_queries=counted.num_queries,
            num_skipped=counted.num_skipped,
            num_missing=self.num_missing,
            num_short=self.num_short,
            num_cold_positives=self.num_cold if self.item_counts is not None else None,
            definitions=self._definitions(),
            per_query=self.per_query.gained,
            per_query_best=self.per_query.best,
        )

    def _deliver(self, numbers: Tensor) -> None:
        if len(numbers) and (int(numbers.min()) < 0 or int(numbers.max()) >= len(self.truth)):
            raise InputError("a list is for a query that the truth does not have", wanted=f"0 to {len(self.truth) - 1}")
        if bool(self.delivered[numbers].any()) or len(torch.unique(numbers)) < len(numbers):
            raise InputError("a query has two lists", wanted="one list per query")
        self.delivered[numbers] = True

    def _values(self, matches: Matches) -> dict[MetricName, Values]:
        weights_N = None if self.propensities is None else self.propensities.weights_N
        return {metric: values_of(matches, metric, weights_N) for metric in self.metrics}

    def _seen(self, numbers: Tensor) -> Ragged:
        if self.seen is None:
            return Ragged(torch.zeros(len(numbers) + 1, dtype=torch.int64), numbers[:0])
        return self.seen.take(numbers).long()

    def _add_baseline(self, seen: Ragged, truth: Ragged, matches: Matches) -> None:
        assert self.item_counts is not None
        popular = popular_topk(seen, self.cut_offs[-1], self.item_counts, checked=True)
        # Equal counts are no tie here: the baseline has an order.
        ranked = TopK(popular.offsets, popular.ids, -popular.ranks().float())
        self.popularity.add(self._values(match(ranked, truth)))
        self.num_cold += int((self.item_counts[matches.truth.values] == 0).sum())

    def _add_index(self, found: TopK, indexed: TopK, truth: Ragged) -> None:
        self.has_index = True
        self.index.add(self._values(match(indexed, truth)))
        for k, mean in self.index_recall.items():
            mean.add(Values(index_recall(indexed.head(k), found.head(k)), None))

    def _definitions(self) -> dict[str, str]:
        texts = {str(metric): METRICS[metric.name].definition(metric.k) for metric in self.metrics}
        if self.num_items is not None:
            texts.update(self.use.definitions(self.item_counts is not None))
        if self.has_index:
            texts.update({f"index_recall@{k}": INDEX_RECALL.format(k=k) for k in self.cut_offs})
        if self.item_counts is not None:
            texts["popularity"] = POPULARITY
        if self.propensities is not None:
            texts["propensity"] = self.propensities.definition()
        return texts


def _paired(results: Results, through_index: Results | None) -> Iterator[tuple[Tensor, TopK, TopK | None]]:
    if through_index is None:
        for numbers, found in results:
            yield numbers, found, None
        return
    for exact, indexed in zip_longest(results, through_index):
        if exact is None or indexed is None or not torch.equal(exact[0], indexed[0]):
            raise InputError("the exact and the index's results differ in their queries", wanted="the same batches")
        yield exact[0], exact[1], indexed[1]
