"""Weights of positives by their place: the estimated threshold against a plain count, and what it does in the kernel."""

import math

import pytest
import torch

from xclass.heads import TopWeights
from xclass.losses import LOSSES, mask_value
from xclass.losses.fused.accidental_hits import find_hits
from xclass.losses.fused.sampled_loss import Scoring, blocked_loss
from xclass.losses.fused.top_k_weights import top_weights
from xclass.runtime.rng import torch_generator
from xclass.types import Negatives, Ragged, offsets_of


def plain(k, temperature, negatives, counts, positives, scale):
    """One query: walk down all scores, adding up how many items each stands for."""
    walk = sorted(
        [(s, c) for s, c in zip(negatives, counts, strict=True)] + [(s, 1.0) for s in positives], reverse=True
    )
    total, edge = 0.0, walk[-1][0]
    for score, count in walk:
        total += count
        if total >= k:
            edge = score
            break
    return [1 / (1 + math.exp(-(s - edge) / (scale * temperature))) for s in positives]


@pytest.mark.parametrize("k", [1, 3, 20, 1000])
@pytest.mark.parametrize("own", [False, True])
def test_equals_the_plain_walk(k, own):
    generator = torch_generator(0, "test")
    scores = torch.randn(5, 12, generator=generator, dtype=torch.float64)
    log_q = torch.randn((5, 12) if own else (12,), generator=generator, dtype=torch.float64) - 1.5
    positives = Ragged(offsets_of(torch.tensor([1, 0, 4, 2, 1])), torch.arange(8))
    pos = torch.randn(8, generator=generator, dtype=torch.float64)
    masked = scores.clone()
    masked[2, 3] = masked[0, 0] = mask_value(torch.float64)
    got = top_weights(TopWeights(k, 0.2), masked, log_q, pos, positives.offsets, 2.0)
    expected = []
    for b, row in enumerate(positives.to_lists()):
        keep = [j for j in range(12) if float(masked[b, j]) > -1e300]
        counts = (log_q[b] if own else log_q)[keep].neg().exp().tolist()
        if row:
            expected += plain(k, 0.2, scores[b, keep].tolist(), counts, pos[row].tolist(), 2.0)
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def test_the_kernel_weighs_loss_and_gradient():
    generator = torch_generator(1, "test")
    query, items = (torch.randn(n, 4, generator=generator, dtype=torch.float64).requires_grad_() for n in (3, 9))
    positives = Ragged.from_lists([[0], [1, 2], [3]])
    negatives = Negatives(torch.arange(9), torch.full((9,), -0.5).double(), torch.zeros(4).double())
    hits = find_hits(positives, negatives.ids)
    scoring = Scoring(
        positives,
        negatives,
        hits,
        LOSSES["sampled-softmax"],
        2.0,
        "none",
        torch.float64,
        top_weights=TopWeights(3, 0.1),
    )
    ours = blocked_loss(query, items, positives.values, negatives.ids, scoring)
    scores = query @ items.T * 2.0
    masked = scores.index_put((hits.rows, hits.columns), torch.tensor(mask_value(torch.float64)).double())
    rows = positives.rows()
    pos = scores[rows, positives.values]
    weights = top_weights(TopWeights(3, 0.1), masked.detach(), negatives.log_q, pos.detach(), positives.offsets, 2.0)
    assert float(weights.max() - weights.min()) > 0.1
    each = torch.nn.functional.softplus(masked.logsumexp(1)[rows] - pos) * weights
    expected = torch.stack([each[0], (each[1] + each[2]) / 2, each[3]])
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    for a, b in zip(
        torch.autograd.grad(ours.sum(), (query, items)),
        torch.autograd.grad(expected.sum(), (query, items)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


def test_half_precision_scores_and_no_negatives():
    offsets, pos = torch.tensor([0, 1]), torch.tensor([0.5])
    assert top_weights(TopWeights(2, 0.1), torch.empty(1, 0), None, pos, offsets, 1.0).tolist() == [0.5]
    low = torch.tensor([[0.5, mask_value(torch.bfloat16)]]).bfloat16()
    assert top_weights(TopWeights(1, 0.1), low, None, pos, offsets, 1.0).tolist() == [0.5]
