"""Every sample that a sampler can draw, with its probability; and a head of the package run over all of them.

Items are the unit vectors of N dimensions and the query vector holds the scores, so that the gradient of the query is the
gradient of the scores. Everything is float64: an expectation is a sum, and equal means equal to 1e-12.
"""

import functools
import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from xclass.heads import DotHead
from xclass.losses import LOSSES
from xclass.runtime.rng import torch_generator
from xclass.sampling import AllItems
from xclass.towers import Projection
from xclass.types import Batch, Negatives, Ragged, Rows, offsets_of

TOLERANCE = 1e-12


class Samples(NamedTuple):
    """ids: int64 (R, K), -1 where a sample is shorter. probability: float64 (R,), summing to 1."""

    ids: Tensor
    probability: Tensor


def with_replacement(p, k):
    """K independent draws. Sequences that are permutations of each other are one row: N + K - 1 over K rows."""
    rows = list(itertools.combinations_with_replacement(range(len(p)), k))
    ways = [math.factorial(k) / math.prod(math.factorial(row.count(i)) for i in set(row)) for row in rows]
    chances = [n * math.prod(float(p[i]) for i in row) for n, row in zip(ways, rows, strict=True)]
    return _samples(rows, chances)


def sequences(p, k):
    """K independent draws, all N^K ordered sequences."""
    rows = list(itertools.product(range(len(p)), repeat=k))
    return _samples(rows, [math.prod(float(p[i]) for i in row) for row in rows])


def without_replacement(p, k):
    """K distinct items by sequential rejection: each draw is from what is left, in proportion to p."""
    rows = list(itertools.permutations(range(len(p)), k))
    chances = []
    for row in rows:
        left, chance = float(sum(p)), 1.0
        for i in row:
            chance, left = chance * float(p[i]) / left, left - float(p[i])
        chances.append(chance)
    return _samples(rows, chances)


def independent(q):
    """Every item is in the sample with a probability q of its own, independently: all 2^N subsets."""
    rows, chances = [], []
    for picks in itertools.product((False, True), repeat=len(q)):
        rows.append([i if pick else -1 for i, pick in enumerate(picks)])
        chances.append(math.prod(float(c) if pick else 1 - float(c) for c, pick in zip(q, picks, strict=True)))
    return _samples(rows, chances)


def _samples(rows, chances):
    return Samples(torch.tensor(rows), torch.tensor(chances, dtype=torch.float64))


def expected_counts(samples, num_items):
    """float64 (N,): the mean number of times that each item is in the sample."""
    counts = torch.zeros(num_items, dtype=torch.float64)
    there = samples.ids >= 0
    each = samples.probability.unsqueeze(1).expand(samples.ids.shape)
    return counts.index_add(0, samples.ids[there], each[there])


class Scripted:
    """A sampler whose candidates are given: row b for query b, or one row for the whole batch. log_q: (N,) each."""

    by_context = adapts = False

    def __init__(self, ids, log_q, pos_log_q=None):
        self.ids, self.log_q, self.num_items = ids, log_q, len(log_q)
        self.pos_log_q = log_q if pos_log_q is None else pos_log_q

    def sample(self, positives, generator=None, query_ids=None):
        log_q = torch.where(self.ids >= 0, self.log_q[self.ids.clamp(min=0)], 0.0)
        return Negatives(self.ids, log_q, self.pos_log_q[positives.values])

    def draw(self, positives, generator=None, query_ids=None):
        return self.ids

    def learn(self, positives):
        """Nothing."""


def make_head(loss="sampled-softmax", switches=None, **settings):
    """A dot head in float64 whose sampler is set later."""
    chosen = LOSSES[loss]
    if switches:
        chosen = chosen._replace(
            function=functools.partial(chosen.function, **switches), finish=functools.partial(chosen.finish, **switches)
        )
    head = DotHead(AllItems(1), chosen, Projection(2, (), False, torch_generator(0, "proofs")), **settings)
    head.product_dtype = torch.float64
    return head


def head_losses(head, scores, targets, sampler):
    """(B,) losses for B targets (one a query, or a list of lists), and the leaf of the scores, (N,) or (B, N)."""
    lists = [[target] for target in targets.tolist()] if isinstance(targets, Tensor) else targets
    positives = Ragged.from_lists(lists)
    head.sampler = sampler
    nobody = torch.zeros(len(lists), dtype=torch.int64)
    batch = Batch(nobody, Ragged(offsets_of(nobody), nobody[:0]), positives)
    plan = head.plan(batch, torch_generator(0, "proofs"))
    leaf = scores.clone().requires_grad_()
    requests = head.requests(batch, plan)["item"]
    rows = {"item": Rows(torch.eye(scores.shape[-1], dtype=torch.float64), requests)}
    return head.loss(leaf.expand(len(lists), -1), batch, plan, rows), leaf


def expected_loss(head, scores, samples, log_q, p_target, pos_log_q=None):
    """(E[loss], its gradient in the scores) over targets with probabilities ``p_target`` and all samples.

    Every (target, sample) is one query with candidates of its own.
    """
    targets = torch.arange(len(scores))[p_target > 0]
    rows = len(samples.ids)
    chances = (p_target[targets].unsqueeze(1) * samples.probability).flatten()
    sampler = Scripted(samples.ids.repeat(len(targets), 1), log_q, pos_log_q)
    losses, leaf = head_losses(head, scores, targets.repeat_interleave(rows), sampler)
    total = (losses * chances).sum()
    return total.detach(), torch.autograd.grad(total, leaf)[0]


def assert_equal(got, want, tolerance=TOLERANCE):
    """AssertionError unless equal to ``tolerance``, relative or absolute."""
    torch.testing.assert_close(
        torch.as_tensor(got, dtype=torch.float64), torch.as_tensor(want, dtype=torch.float64), rtol=tolerance, atol=tolerance
    )  # fmt: skip
