"""Training batches: every pair once, targets out of their own history, resume anywhere."""

import pytest
import torch

from xclass.data.batches import BatchConfig, TrainBatches, inference_batches
from xclass.types import Ragged

TRAIN = Ragged.from_lists([[5, 6, 7], [], [1], [2, 9, 4, 8, 3]], [[1, 2, 3], [], [4], [5, 6, 7, 8, 9]])


def pairs_of(batches):
    return sorted(
        (int(q), int(i))
        for batch in batches
        for q, row in zip(batch.query_ids, batch.positives.to_lists(), strict=True)
        for i in row
    )


ALL_PAIRS = [(0, 5), (0, 6), (0, 7), (2, 1), (3, 2), (3, 3), (3, 4), (3, 8), (3, 9)]


@pytest.mark.parametrize("by", ["pair", "query"])
def test_an_epoch_is_every_pair_once(by):
    batches = TrainBatches(TRAIN, BatchConfig(by=by, size=2), seed=1, hold_out=False)
    for epoch in range(3):
        assert pairs_of(batches.epoch(epoch)) == ALL_PAIRS
    assert batches.positives_per_epoch() == len(ALL_PAIRS)
    assert len(list(batches.epoch(0))) == len(batches) == (5 if by == "pair" else 2)


@pytest.mark.parametrize("by", ["pair", "query"])
def test_targets_are_left_out_of_their_own_history(by):
    batches = TrainBatches(TRAIN, BatchConfig(by=by, size=3), seed=0, hold_out=True)
    for batch in batches.epoch(0):
        lists = zip(
            batch.query_ids.tolist(),
            batch.positives.to_lists(),
            batch.history.to_lists(),
            batch.known.ragged().to_lists(),
            strict=True,
        )
        for query, targets, history, known in lists:
            assert known == TRAIN.to_lists()[query]
            assert targets and sorted(targets + history) == sorted(known)
            assert by == "pair" or len(targets) == max(1, len(known) // 2)
    total = sum(len(batch.positives.values) for batch in batches.epoch(0))
    assert total == batches.positives_per_epoch() == (9 if by == "pair" else 1 + 1 + 2)


def test_weights_follow_their_pairs():
    weight = {
        (q, i): w
        for q, row, ws in ((0, [5, 6, 7], [1, 2, 3]), (2, [1], [4]), (3, [2, 9, 4, 8, 3], [5, 6, 7, 8, 9]))
        for i, w in zip(row, ws, strict=True)
    }
    for batch in TrainBatches(TRAIN, BatchConfig(by="query", size=2), 0, True).epoch(0):
        rows = batch.query_ids[batch.positives.rows()].tolist()
        pairs = zip(rows, batch.positives.values.tolist(), strict=True)
        assert [weight[pair] for pair in pairs] == batch.positives.weights.tolist() and batch.weights is None
    for batch in TrainBatches(TRAIN, BatchConfig(by="pair", size=2), 0, True).epoch(0):
        pairs = zip(batch.query_ids.tolist(), batch.positives.values.tolist(), strict=True)
        assert [weight[pair] / 5.0 for pair in pairs] == pytest.approx(batch.weights.tolist())
        assert batch.positives.weights is None


@pytest.mark.parametrize("power", [0.5, 1.0, 1.5])
def test_a_query_counts_by_the_power_of_its_targets(power):
    plain = Ragged(TRAIN.offsets, TRAIN.values)
    batches = TrainBatches(plain, BatchConfig(by="query", size=2, weight_power=power), 0, False)
    weight = {q: w for b in batches.epoch(0) for q, w in zip(b.query_ids.tolist(), b.weights.tolist(), strict=True)}
    assert weight[3] / weight[0] == pytest.approx((5 / 3) ** power)
    assert weight[0] / weight[2] == pytest.approx(3**power)
    assert sum(weight.values()) / 3 == pytest.approx(1)


def test_with_power_one_pairs_count_alike():
    """The mean over queries, weighted, of the mean over a query's targets is the mean over all pairs."""
    batches = TrainBatches(TRAIN, BatchConfig(by="query", size=2, weight_power=1.0), 0, False)
    value = {pair: float(number) ** 2 for number, pair in enumerate(ALL_PAIRS)}
    total = 0.0
    for batch in batches.epoch(0):
        for q, targets, w in zip(
            batch.query_ids.tolist(), batch.positives.to_lists(), batch.weights.tolist(), strict=True
        ):
            total += w * sum(value[q, i] for i in targets) / len(targets)
    assert total / 3 == pytest.approx(sum(value.values()) / len(ALL_PAIRS))


def test_a_power_by_pair_is_refused():
    with pytest.raises(ValueError, match="by pair, pairs count alike"):
        BatchConfig(by="pair", weight_power=1.0)


def test_at_most_so_many_positives_and_other_ones_each_epoch():
    batches = TrainBatches(TRAIN, BatchConfig(by="query", size=4, positives_per_query=2), 0, False)
    drawn = [
        dict(zip(b.query_ids.tolist(), b.positives.to_lists(), strict=True))[3]
        for e in range(20)
        for b in batches.epoch(e)
    ]
    assert all(len(row) == 2 for row in drawn) and {i for row in drawn for i in row} == {2, 9, 4, 8, 3}


def test_order_depends_on_seed_and_epoch_only_and_can_start_anywhere():
    def numbers(seed, epoch, first=0):
        return [
            b.positives.values.tolist()
            for b in TrainBatches(TRAIN, BatchConfig(size=2), seed, False).epoch(epoch, first)
        ]

    assert numbers(0, 0) == numbers(0, 0)
    assert numbers(0, 0) != numbers(0, 1) and numbers(0, 0) != numbers(1, 0)
    assert numbers(0, 4, first=3) == numbers(0, 4)[3:]


def test_inference_batches_carry_numbers_and_histories():
    parts = list(inference_batches(TRAIN, torch.tensor([3, 0, 1]), size=2))
    assert [part.query_ids.tolist() for part in parts] == [[3, 0], [1]]
    assert parts[0].history.to_lists() == [[2, 9, 4, 8, 3], [5, 6, 7]] and parts[1].history.to_lists() == [[]]
