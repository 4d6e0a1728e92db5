"""Ranking metrics: hand-computed values, the slow reference on generated inputs, the edges."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import slow_metrics
from xclass.errors import InputError
from xclass.metrics import METRICS, Mean, MetricName, average, compute, match, parse_metric, parse_metrics
from xclass.metrics.propensity import inverse_propensities
from xclass.types import Ragged, TopK, offsets_of

NUM_ITEMS = 12


def lists(rows: list[list[int]]) -> TopK:
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
    ids = torch.tensor([item for row in rows for item in row], dtype=torch.int64)
    return TopK(offsets_of(lengths), ids, -torch.arange(len(ids), dtype=torch.float32))


def values(
    name: str, found: list[list[int]], truth: list[list[int]], weights: torch.Tensor | None = None
) -> list[float]:
    metric = parse_metric(name)
    return compute(lists(found), Ragged.from_lists(truth), [metric], weights)[metric].gained.tolist()


# One query: list 4 7 1 9 2, positives 7, 2, 3. Hits at ranks 2 and 5.
FOUND, TRUTH = [[4, 7, 1, 9, 2]], [[7, 2, 3]]


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("recall@1", 0.0),
        ("recall@2", 1 / 3),
        ("recall@5", 2 / 3),
        ("recall@50", 2 / 3),
        ("capped_recall@2", 1 / 2),
        ("capped_recall@5", 2 / 3),
        ("precision@2", 1 / 2),
        ("precision@5", 2 / 5),
        ("precision@10", 2 / 10),
        ("hit_rate@1", 0.0),
        ("hit_rate@2", 1.0),
        ("ndcg@2", (1 / math.log2(3)) / (1 + 1 / math.log2(3))),
        ("ndcg@5", (1 / math.log2(3) + 1 / math.log2(6)) / (1 + 1 / math.log2(3) + 1 / 2)),
        ("map@2", (1 / 2) / 2),
        ("map@5", (1 / 2 + 2 / 5) / 3),
        ("mrr@1", 0.0),
        ("mrr@5", 1 / 2),
    ],
)
def test_hand_computed(name: str, wanted: float) -> None:
    assert values(name, FOUND, TRUTH) == pytest.approx([wanted], abs=1e-15)


def test_propensity_scored_by_hand() -> None:
    weights = torch.tensor([1.0, 1, 2, 10, 1, 1, 1, 4, 1, 1], dtype=torch.float64)
    found, truth = lists(FOUND), Ragged.from_lists(TRUTH)
    psp = compute(found, truth, [MetricName("psp", 2)], weights)
    # hit: item 7 (weight 4) at rank 2; the best two positives are 3 (10) and 7 (4)
    assert average(psp)["psp@2"] == pytest.approx((4 / 2) / ((10 + 4) / 2), abs=1e-15)
    psndcg = compute(found, truth, [MetricName("psndcg", 5)], weights)
    gained = 4 / math.log2(3) + 2 / math.log2(6)
    best = 10 + 4 / math.log2(3) + 2 / math.log2(4)
    assert average(psndcg)["psndcg@5"] == pytest.approx(gained / best, abs=1e-15)


def test_propensities_by_hand() -> None:
    # n = 100 documents, A = .55, B = 1.5: C = (ln 100 − 1)·2.5^.55
    c = (math.log(100) - 1) * 2.5**0.55
    wanted = [1 + c * (count + 1.5) ** -0.55 for count in (50, 3, 0)]
    assert inverse_propensities(torch.tensor([50, 3, 0]), 100).tolist() == pytest.approx(wanted, rel=1e-14)
    with pytest.raises(InputError, match="num_queries of 3 or more"):
        inverse_propensities(torch.tensor([1]), 2)


def test_ratio_of_totals_not_mean_of_ratios() -> None:
    weights = torch.tensor([1.0, 3.0], dtype=torch.float64)
    batch = compute(lists([[0], [0]]), Ragged.from_lists([[0], [1]]), [MetricName("psp", 1)], weights)
    assert average(batch)["psp@1"] == pytest.approx(1 / (1 + 3))


ragged_lists = st.lists(
    st.tuples(
        st.permutations(range(NUM_ITEMS)).flatmap(lambda order: st.integers(0, NUM_ITEMS).map(lambda n: order[:n])),
        st.lists(st.integers(0, NUM_ITEMS - 1), max_size=8),
    ),
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(ragged_lists, st.integers(1, NUM_ITEMS + 5), st.sampled_from(sorted(METRICS)))
def test_equals_the_slow_reference(rows: list, k: int, name: str) -> None:
    found, truth = [list(row[0]) for row in rows], [row[1] for row in rows]
    weights = [1.0 + item * item for item in range(NUM_ITEMS)]
    metric = MetricName(name, k)
    batch = compute(lists(found), Ragged.from_lists(truth), [metric], torch.tensor(weights, dtype=torch.float64))
    mean = Mean()
    mean.add(batch[metric])
    wanted = slow_metrics.mean(name, k, found, truth, weights)
    assert (mean.value(), mean.num_queries, mean.num_skipped) == pytest.approx(wanted, abs=1e-12, nan_ok=True)


@settings(max_examples=25, deadline=None)
@given(ragged_lists, st.randoms(use_true_random=False))
def test_order_of_queries_and_batch_size_do_not_matter(rows: list, random: object) -> None:
    metrics = [MetricName(name, 3) for name in METRICS]
    weights = torch.arange(1, NUM_ITEMS + 1, dtype=torch.float64)

    def means(parts: list[list]) -> dict[str, float]:
        running = {metric: Mean() for metric in metrics}
        for part in parts:
            batch = compute(
                lists([list(r[0]) for r in part]), Ragged.from_lists([r[1] for r in part]), metrics, weights
            )
            for metric in metrics:
                running[metric].add(batch[metric])
        return {str(metric): mean.value() for metric, mean in running.items()}

    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert means([[row] for row in shuffled]) == pytest.approx(means([rows]), abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("name", sorted(METRICS))
def test_properties_of_every_metric(name: str) -> None:
    weights = torch.tensor([1.0, 2, 4, 8, 16], dtype=torch.float64)
    metric = MetricName(name, 3)

    def mean(found: list[list[int]], truth: list[list[int]]) -> float:
        return average(compute(lists(found), Ragged.from_lists(truth), [metric], weights))[f"{name}@3"]

    assert mean([[4, 3, 2]], [[2, 3, 4]]) == pytest.approx(1.0)  # the best list gets 1
    assert mean([[0, 1]], [[2]]) == 0.0  # no hit gets 0
    assert mean([[]], [[2]]) == 0.0  # an empty list counts 0, it is not skipped
    assert mean([[4, 0]], [[4]]) == mean([[4]], [[4]])  # a short list is a list with misses
    assert mean([[3, 4]], [[4, 4, 3, 4]]) == mean([[3, 4]], [[3, 4]])  # repeats in the truth count once
    assert mean([[4], [0]], [[4], []]) == mean([[4]], [[4]])  # a query without positives is skipped
    assert math.isnan(mean([[4]], [[]]))
    assert mean([[0, 1, 2, 4]], [[4]]) == 0.0  # beyond the cut-off


def test_skipped_queries_are_nan_in_place() -> None:
    got = values("recall@2", [[1], [2], [3]], [[1], [], [1]])
    assert got[0] == 1.0
    assert math.isnan(got[1])
    assert got[2] == 0.0


def test_fewer_positives_than_k_and_k_beyond_the_catalogue() -> None:
    assert values("recall@100", [[0, 1, 2]], [[0, 1, 2]]) == [1.0]
    assert values("capped_recall@2", [[0, 1]], [[0, 1, 2]]) == [1.0]
    assert values("recall@2", [[0, 1]], [[0, 1, 2]]) == [pytest.approx(2 / 3)]


def test_constant_scores_are_worth_what_the_order_is_worth() -> None:
    found = TopK(torch.tensor([0, 3]), torch.tensor([0, 1, 2]), torch.zeros(3))
    metric = parse_metric("recall@1")
    assert compute(found, Ragged.from_lists([[2]]), [metric])[metric].gained.tolist() == [0.0]


def test_inputs_stay_unchanged_and_no_rectangle_is_needed() -> None:
    truth = Ragged.from_lists([[5, 5, 2]])
    found = lists([[2, 5]])
    match(found, truth)
    assert truth.to_lists() == [[5, 5, 2]]
    assert found.ids.tolist() == [2, 5]
    huge = 2**40  # a queries × items array would be terabytes
    assert values("recall@1", [[huge]], [[huge, huge - 1]]) == [0.5]


def test_int32_truth_from_disk() -> None:
    truth = Ragged(torch.tensor([0, 2]), torch.tensor([3, 4], dtype=torch.int32))
    metric = parse_metric("recall@2")
    assert compute(lists([[4]]), truth, [metric])[metric].gained.tolist() == [0.5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("recal@20", 'did you mean "recall"'),
        ("recall", "recall@k"),
        ("recall@", "cut-off of 1 or more"),
        ("recall@0", "cut-off of 1 or more"),
        ("recall@-1", "cut-off of 1 or more"),
        ("recall@2.5", "cut-off of 1 or more"),
        ("@5", "known: capped_recall"),
    ],
)
def test_bad_metric_names(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_metric(text)


def test_metric_lists() -> None:
    assert [str(metric) for metric in parse_metrics(["recall@5", "ndcg@5", "recall@5"])] == ["recall@5", "ndcg@5"]
    with pytest.raises(InputError, match="must be a list"):
        parse_metrics("recall@5")


def test_bad_batches() -> None:
    truth = Ragged.from_lists([[1], [2]])
    with pytest.raises(InputError, match="different length"):
        match(lists([[1]]), truth)
    with pytest.raises(InputError, match="recommends the same item twice"):
        match(lists([[1, 3, 1], [2]]), truth)
    with pytest.raises(InputError, match="recommended item number is negative"):
        match(lists([[-1], [2]]), truth)
    with pytest.raises(InputError, match="positive item number is negative"):
        match(lists([[1]]), Ragged.from_lists([[-1]]))
    with pytest.raises(InputError, match="psp@5 needs propensities"):
        values("psp@5", [[1]], [[1]])
    with pytest.raises(InputError, match="no propensity"):
        values("psp@5", [[9]], [[9]], torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("name", sorted(METRICS))
def test_definition_says_formula_denominator_ties_and_empty_queries(name: str) -> None:
    text = METRICS[name].definition(20)
    assert "20" in text
    assert "{" not in text
    for word in ("skipped and counted", "equal scores", "misses"):
        assert word in text


def test_counted_and_skipped_queries() -> None:
    mean = Mean()
    mean.add(
        compute(lists([[1], [1], []]), Ragged.from_lists([[1], [], [2]]), [MetricName("recall", 1)])[
            MetricName("recall", 1)
        ]
    )
    assert (mean.num_queries, mean.num_skipped, mean.value()) == (2, 1, 0.5)
