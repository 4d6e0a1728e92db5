"""Evaluation: numbers by hand, both recalls apart, the baseline, missing lists, invariance to order and batches."""

from __future__ import annotations

import json
import math
from pathlib import Path

import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.reference import slow_metrics
from xclass.errors import InputError
from xclass.evaluation.evaluate import DEFAULT_METRICS, evaluate, metrics_at
from xclass.metrics import METRICS, Evaluation, MetricName, Propensities, parse_metrics
from xclass.types import Ragged, TopK, offsets_of

NUM_ITEMS = 8
COUNTS = torch.tensor([50, 20, 10, 10, 5, 5, 0, 0])


def lists(rows: list[list[int]]) -> TopK:
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
    ids = torch.tensor([item for row in rows for item in row], dtype=torch.int64)
    return TopK(offsets_of(lengths), ids, torch.arange(len(ids), 0, -1).float())


def batch(numbers: list[int], rows: list[list[int]]) -> tuple[torch.Tensor, TopK]:
    return torch.tensor(numbers, dtype=torch.int64), lists(rows)


TRUTH = Ragged.from_lists([[0, 7], [], [3]])
FOUND = [batch([0, 1], [[0, 1], [4, 5]]), batch([2], [[1, 3]])]


def test_numbers_by_hand() -> None:
    result = evaluate(FOUND, TRUTH, parse_metrics(["recall@1", "recall@2", "mrr@2"]), item_counts=COUNTS)
    assert result.metrics == {"recall@1": 0.25, "recall@2": 0.75, "mrr@2": 0.75}
    assert (result.num_queries, result.num_skipped, result.num_missing, result.num_short) == (2, 1, 0, 0)
    assert result.num_cold_positives == 1
    # everybody gets 0, 1: query 0 has one of its two positives, query 2 none
    assert result.popularity == {"recall@1": 0.25, "recall@2": 0.25, "mrr@2": 0.5}
    assert result.catalogue["coverage@2"] == 5 / 8
    assert result.catalogue["identical_lists@2"] == 1 / 3
    assert result.per_query["recall@2"].tolist() == pytest.approx([0.5, math.nan, 1.0], nan_ok=True)
    assert result.per_query["recall@2"].dtype == torch.float32
    assert (result.metrics_index, result.index_recall, result.by_popularity) == ({}, {}, {})


def test_the_baseline_leaves_out_what_was_seen() -> None:
    seen = Ragged.from_lists([[0, 1], [], [0, 1, 2]])
    result = evaluate(FOUND, TRUTH, parse_metrics(["recall@1"]), item_counts=COUNTS, seen=seen)
    assert result.popularity == {"recall@1": 0.5}


def test_model_recall_and_index_recall_are_two_things() -> None:
    through = [batch([0, 1], [[0, 7], [4, 6]]), batch([2], [[5, 6]])]
    result = evaluate(FOUND, TRUTH, parse_metrics(["recall@2"]), through_index=through, item_counts=COUNTS)
    assert result.metrics == {"recall@2": 0.75}
    assert result.metrics_index == {"recall@2": 0.5}  # more than the exact lists for query 0, none for query 2
    # FOUND's lists have scores 4 3 2 1 and 2 1: 7 scores 3 like 1, 6 scores 1 like 5, and 5 scores 2 like 1
    assert result.index_recall == {"index_recall@2": 1.0}
    lower = [(numbers, TopK(found.offsets, found.ids, found.scores - 100)) for numbers, found in through]
    result = evaluate(FOUND, TRUTH, parse_metrics(["recall@2"]), through_index=lower)
    assert result.index_recall == {"index_recall@2": pytest.approx((0.5 + 0.5 + 0) / 3)}
    assert "index_recall@2" in result.definitions
    table = result.table()
    assert table.filter(metric="recall@2").row(0, named=True) == {"metric": "recall@2", "model": 0.75, "index": 0.5}
    row = table.filter(metric="index_recall@2").row(0, named=True)
    assert (row["model"], row["index"]) == (None, pytest.approx(1 / 3))


def test_missing_lists_count_zero_and_are_reported() -> None:
    result = evaluate(FOUND[:1], TRUTH, parse_metrics(["recall@2"]), item_counts=COUNTS)
    assert result.metrics == {"recall@2": 0.25}
    assert (result.num_queries, result.num_skipped, result.num_missing, result.num_short) == (2, 1, 1, 0)
    assert result.per_query["recall@2"][2] == 0.0
    nothing = evaluate([], TRUTH, parse_metrics(["recall@2"]))
    assert (nothing.metrics, nothing.num_missing) == ({"recall@2": 0.0}, 2)


def test_short_and_empty_lists() -> None:
    result = evaluate([batch([0, 1, 2], [[], [4], [3]])], TRUTH, parse_metrics(["recall@2", "precision@2"]))
    assert result.metrics == {"recall@2": 0.5, "precision@2": 0.25}
    assert result.num_short == 3


def test_recall_by_popularity() -> None:
    truth = Ragged.from_lists([[0, 1, 7], [0], [3]])
    found = [batch([0, 1, 2], [[0, 5], [1, 2], [3, 7]])]
    result = evaluate(found, truth, parse_metrics(["recall@2"]), item_counts=COUNTS, by_popularity=True)
    # head: item 0. torso: 1 and 2. tail: 3 to 5. cold: 6 and 7. 0 is found for query 0 only; 1 is not found; 3 is, 7 is not.
    got = {name: (band["recall@2"], band["num_queries"]) for name, band in result.by_popularity.items()}
    assert got == {"head": (0.5, 2), "torso": (0.0, 1), "tail": (1.0, 1), "cold": (0.0, 1)}
    assert "50% of the train pairs" in result.by_popularity["head"]["items"]


def test_propensities() -> None:
    weights = torch.arange(1, NUM_ITEMS + 1, dtype=torch.float64)
    result = evaluate(FOUND, TRUTH, parse_metrics(["psp@2"]), propensities=Propensities(weights, 10))
    assert result.metrics == {"psp@2": pytest.approx((1 + 4) / (1 + 8 + 4))}


def test_json(tmp_path: Path) -> None:
    through = [batch([0, 1], [[0, 1], [4, 5]]), batch([2], [[1, 3]])]
    result = evaluate(
        FOUND, TRUTH, parse_metrics(["recall@2"]), through_index=through, item_counts=COUNTS, by_popularity=True
    )
    told = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert {"metrics", "num_queries", "num_skipped", "definitions", "index_recall@2"} <= set(told)
    assert set(told["metrics"]) | {"index_recall@2"} <= set(told["definitions"])
    result.write_per_query(tmp_path / "per_query.parquet", pl.Series(["a", "b", "c"]))
    table = pl.read_parquet(tmp_path / "per_query.parquet")
    assert table.rows() == [("a", 0.5), ("b", None), ("c", 1.0)]


def test_what_was_not_computed_is_absent() -> None:
    result = evaluate([batch([0], [[1]])], Ragged.from_lists([[]]), parse_metrics(["recall@2"]), num_items=5)
    assert result.metrics == {}
    assert (result.num_queries, result.num_skipped) == (0, 1)
    assert result.catalogue["coverage@2"] == 0.2
    json.dumps(result.to_dict(), allow_nan=False)


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ([batch([0, 0], [[1], [1]])], "two lists"),
        ([batch([0], [[1]]), batch([0], [[1]])], "two lists"),
        ([batch([3], [[1]])], "does not have"),
        ([batch([-1], [[1]])], "does not have"),
    ],
)
def test_bad_query_numbers(results: list, message: str) -> None:
    with pytest.raises(InputError, match=message):
        evaluate(results, TRUTH, parse_metrics(["recall@2"]))


def test_bad_arguments() -> None:
    metrics = parse_metrics(["recall@2"])
    for through in (FOUND[:1], [*FOUND, FOUND[1]], [FOUND[1], FOUND[0]]):
        with pytest.raises(InputError, match="differ in their queries"):
            evaluate(FOUND, TRUTH, metrics, through_index=through)
    with pytest.raises(InputError, match="nothing to measure"):
        evaluate(FOUND, TRUTH, [])
    with pytest.raises(InputError, match="train counts"):
        evaluate(FOUND, TRUTH, metrics, by_popularity=True)
    with pytest.raises(InputError, match="psp@2 needs propensities"):
        evaluate(FOUND, TRUTH, parse_metrics(["psp@2"]))


rows = st.lists(
    st.tuples(
        st.permutations(range(NUM_ITEMS)).flatmap(lambda order: st.integers(0, 6).map(lambda n: list(order)[:n])),
        st.lists(st.integers(0, NUM_ITEMS - 1), max_size=5),
    ),
    min_size=1,
    max_size=8,
)


def evaluated(queries: list[tuple[list[int], list[int]]], order: list[int], size: int) -> Evaluation:
    truth = Ragged.from_lists([positives for _, positives in queries])
    parts = [order[start : start + size] for start in range(0, len(order), size)]
    found = [batch(part, [queries[number][0] for number in part]) for part in parts]
    weights = torch.arange(1, NUM_ITEMS + 1, dtype=torch.float64)
    return evaluate(
        found,
        truth,
        metrics_at([2, 10], list(METRICS)),
        item_counts=COUNTS,
        propensities=Propensities(weights, 10),
        by_popularity=True,
    )


@given(rows, st.randoms(use_true_random=False), st.integers(1, 8))
def test_order_of_queries_and_size_of_batches_do_not_matter(queries: list, random: object, size: int) -> None:
    order = list(range(len(queries)))
    random.shuffle(order)  # type: ignore[attr-defined]
    one, other = evaluated(queries, sorted(order), 100), evaluated(queries, order, size)
    for name in ("metrics", "popularity", "catalogue"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), abs=1e-12)
    assert (one.num_queries, one.num_skipped) == (other.num_queries, other.num_skipped)
    for name, values in one.per_query.items():
        assert values.tolist() == pytest.approx(other.per_query[name].tolist(), nan_ok=True)


@given(rows)
def test_equals_the_slow_reference(queries: list) -> None:
    result = evaluated(queries, list(range(len(queries))), 3)
    found, truth = [list_ for list_, _ in queries], [positives for _, positives in queries]
    weights = [float(item + 1) for item in range(NUM_ITEMS)]
    for metric in metrics_at([2, 10], list(METRICS)):
        value, counted, skipped = slow_metrics.mean(metric.name, metric.k, found, truth, weights)
        assert (result.num_queries, result.num_skipped) == (counted, skipped)
        if counted:
            assert result.metrics[str(metric)] == pytest.approx(value, abs=1e-12)
        else:
            assert str(metric) not in result.metrics


def test_metric_names() -> None:
    assert metrics_at([10], ["recall"]) == [MetricName("recall", 10)]
    assert {metric.name for metric in metrics_at([5, 10])} == set(DEFAULT_METRICS)
