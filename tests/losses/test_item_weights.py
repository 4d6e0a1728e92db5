"""Weights of positives by their item: by hand, without bias over missing labels, and through the head."""

import itertools
import math

import pytest
import torch

from xclass.config import build_config
from xclass.errors import ConfigError
from xclass.losses import LOSSES, full_sigmoid_loss, item_weights, mask_value
from xclass.metrics import inverse_propensities
from xclass.runtime.rng import torch_generator
from xclass.training.build import build_model
from xclass.training.run_config import RunConfig
from xclass.types import Batch, Ragged

COUNTS = torch.tensor([9, 3, 1, 0])
KINDS = ("propensity", "propensity-bound", "propensity-unbiased", "count-power", "effective-number")


def test_propensities_by_hand():
    """Jain et al. 2016, eq. 6: 1/p = 1 + C (n + B)^-A, C = (ln N − 1)(B + 1)^A."""
    c = (math.log(50) - 1) * 2.5**0.55
    inverse = [1 + c * (n + 1.5) ** -0.55 for n in (9, 3, 1, 1)]
    assert item_weights("propensity", COUNTS, 50).tolist() == pytest.approx(inverse)
    assert item_weights("propensity-unbiased", COUNTS, 50).tolist() == pytest.approx(inverse)
    assert item_weights("propensity-bound", COUNTS, 50).tolist() == pytest.approx([2 * x - 1 for x in inverse])
    other = item_weights("propensity", COUNTS, 50, a=0.6, b=2.6)
    assert other[0] == pytest.approx(1 + (math.log(50) - 1) * 3.6**0.6 * 11.6**-0.6)


def test_reweighting_by_hand():
    assert item_weights("count-power", COUNTS, 50, power=0.5).tolist() == pytest.approx(
        [math.sqrt((13 / 3) / n) for n in (9, 3, 1, 1)]
    )
    assert item_weights("count-power", COUNTS, 50, power=0.0).tolist() == [1.0] * 4
    plain = [(1 - 0.9) / (1 - 0.9**n) for n in (9, 3, 1, 1)]
    mean = sum(n * w for n, w in zip((9, 3, 1, 0), plain, strict=True)) / 13
    assert item_weights("effective-number", COUNTS, 50, beta=0.9).tolist() == pytest.approx([w / mean for w in plain])
    assert item_weights("effective-number", COUNTS, 50, beta=0.0).tolist() == pytest.approx([1.0] * 4)


@pytest.mark.parametrize("kind", KINDS)
def test_rare_items_weigh_more(kind):
    weights = item_weights(kind, torch.tensor([1000, 100, 10, 1]), 5000)
    assert bool((weights.diff() > 0).all())


def one_vs_all(scores, observed, weights, joint):
    """Full sigmoid of one query whose observed positives are ``observed``; without any, all items are negatives."""
    if not observed:
        return float(torch.nn.functional.softplus(scores).sum())
    others = scores.clone().unsqueeze(0)
    others[0, list(observed)] = mask_value(scores.dtype)
    offsets = torch.tensor([0, len(observed)])
    used = weights[list(observed)]
    return float(
        full_sigmoid_loss(scores[list(observed)], others, offsets, used, positives="joint" if joint else "separate")
    )


def test_the_unbiased_loss_is_the_loss_of_all_labels_in_expectation():
    """Every pattern of missing labels, with its probability; the plain weighted loss and no weights are biased."""
    scores = torch.tensor([0.4, -1.2, 2.0, 0.1], dtype=torch.float64)
    true, inverse = (0, 1, 2), inverse_propensities(torch.tensor([90, 20, 3, 1]), 1000)
    ones = torch.ones(4, dtype=torch.float64)

    def expectation(weights, joint):
        total = 0.0
        for size in range(4):
            for seen in itertools.combinations(true, size):
                chance = math.prod(float(1 / inverse[i] if i in seen else 1 - 1 / inverse[i]) for i in true)
                total += chance * one_vs_all(scores, seen, weights, joint)
        return total

    wanted = one_vs_all(scores, true, ones, False)
    assert expectation(inverse, True) == pytest.approx(wanted, rel=1e-12)
    assert abs(expectation(inverse, False) - wanted) > 0.1 * wanted
    assert abs(expectation(ones, False) - wanted) > 0.1 * wanted


def test_the_bound_is_above_the_unbiased_zero_one_loss_of_a_positive():
    """(1/p)·[s < 0] + (1 − 1/p)·[s ≥ 0] ≤ (2/p − 1)·log2(1 + e^−s), convex and never below 0."""
    inverse = torch.tensor([1.0, 1.7, 6.0, 40.0], dtype=torch.float64)
    for score in torch.linspace(-4, 4, 41, dtype=torch.float64):
        unbiased = torch.where(score < 0, inverse, 1 - inverse)
        bound = (2 * inverse - 1) * torch.log2(1 + torch.exp(-score))
        assert bool((bound >= unbiased - 1e-12).all()) and bool((bound >= 0).all())


class Counts:
    num_queries, num_items, num_train_queries, sequence = 4, 12, 400, None
    propensity = 0.55, 1.5
    item_counts = torch.arange(24, 0, -2)


def steps(loss, by="query", sampler=None, pair_weights=None):
    """(loss by query, its gradient in the item rows by item) of one step."""
    values = {"loss": loss, "sampler": sampler or {"kind": "uniform", "num_sampled": 6}}
    values["model"] = {"embedding_dim": 4, "query": {"kind": "id"}, "init_std": 1.0}
    model = build_model(build_config(RunConfig, values), Counts(), None)
    if by == "query":
        lists, weights, owners = [[0, 7], [3]], pair_weights, [0, 1]
    else:
        lists, weights, owners = [[0], [7], [3]], None, [0, 0, 1]
    known = [[[0, 7], [3]][owner] for owner in owners]
    batch = Batch(
        torch.tensor(owners),
        Ragged.from_lists([[] for _ in owners]),
        Ragged.from_lists(lists, weights),
        Ragged.from_lists(known),
    )
    prepared = model.prepare(batch, torch_generator(0, "test"))
    rows = model.pull(prepared.row_plans, requires_grad=True)
    value = model.loss(prepared, rows)
    value.sum().backward()
    grads = torch.zeros(12, 4)
    grads[prepared.row_plans["item"].unique] = rows["item"].values.grad
    return value.detach(), grads


@pytest.mark.parametrize("kind", LOSSES)
def test_weights_of_one_change_nothing(kind):
    sampler = {"kind": "all"} if LOSSES[kind].all_items else None
    plain = steps({"kind": kind}, sampler=sampler)
    ones = steps({"kind": kind, "item_weights": "count-power", "item_weight_power": 0.0}, sampler=sampler)
    for got, expected in zip(ones, plain, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["sampled-softmax", "full-softmax", "bpr"])
def test_a_pairs_loss_is_multiplied_by_its_items_weight(kind):
    """By pair the losses of pairs are alone; by query the loss is their mean over the query's targets."""
    sampler = {"kind": "all"} if kind == "full-softmax" else None
    weights = item_weights("propensity", Counts.item_counts, 400)
    plain, _ = steps({"kind": kind}, "pair", sampler)
    weighed, _ = steps({"kind": kind, "item_weights": "propensity"}, "pair", sampler)
    torch.testing.assert_close(weighed, plain * weights[[0, 7, 3]])
    by_query, _ = steps({"kind": kind, "item_weights": "propensity"}, "query", sampler)
    torch.testing.assert_close(by_query, torch.stack([(weighed[0] + weighed[1]) / 2, weighed[2]]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["sampled-logistic", "full-sigmoid"])
def test_negatives_of_a_logistic_loss_count_once(kind):
    sampler = {"kind": "all"} if kind == "full-sigmoid" else None
    plain, _ = steps({"kind": kind}, "pair", sampler)
    weighed, _ = steps({"kind": kind, "item_weights": "propensity"}, "pair", sampler)
    bound, _ = steps({"kind": kind, "item_weights": "propensity-bound"}, "pair", sampler)
    unbiased, _ = steps({"kind": kind, "item_weights": "propensity-unbiased"}, "pair", sampler)
    inverse = inverse_propensities(Counts.item_counts, 400)[[0, 7, 3]].float()
    positive = (weighed - plain) / (inverse - 1)  # softplus(−s) of each pair
    torch.testing.assert_close(bound - plain, 2 * (inverse - 1) * positive, rtol=1e-4, atol=1e-5)
    score = -positive.expm1().log()
    torch.testing.assert_close(unbiased - plain, (1 - inverse) * score, rtol=1e-3, atol=1e-3)


def test_the_datasets_constants_serve_unless_others_are_given(monkeypatch):
    plain, _ = steps({"item_weights": "propensity"}, "pair")
    given, _ = steps({"item_weights": "propensity", "propensity_a": 0.6, "propensity_b": 2.6}, "pair")
    monkeypatch.setattr(Counts, "propensity", (0.6, 2.6))
    other, _ = steps({"item_weights": "propensity"}, "pair")
    torch.testing.assert_close(given, other)
    assert float((given - plain).abs().max()) > 0.01


def test_the_pairs_own_weights_still_count():
    pair_weights = [[1.0, 3.0], [2.0]]
    alone, _ = steps({"item_weights": "propensity"}, "pair")
    together, _ = steps({"item_weights": "propensity"}, "query", pair_weights=pair_weights)
    torch.testing.assert_close(together, torch.stack([(alone[0] + 3 * alone[1]) / 4, alone[2]]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ({"item_weights": "propensity", "positives": "joint"}, "item_weights goes with"),
        ({"item_weights": "propensity-unbiased"}, "is not for kind"),
        ({"kind": "nce", "item_weights": "propensity-unbiased", "top_k": 3}, "neither with calibration nor with top_k"),
        ({"item_weights": "propensities"}, "propensity"),
        ({"effective_beta": 1.0}, "less than 1"),
    ],
)
def test_what_does_not_fit_is_refused(loss, message):
    with pytest.raises(ConfigError, match=message):
        build_config(RunConfig, {"loss": loss})
