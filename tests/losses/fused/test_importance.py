"""Importance sampling: its gradient by the paper's formula, the effective size, samples that grow, and the exact end."""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import pytest
import torch
from reference import losses as reference

from xclass.embeddings import plan_rows
from xclass.errors import ConfigError
from xclass.heads import DotHead
from xclass.losses import LOSSES, effective_size, importance_loss
from xclass.losses.fused.accidental_hits import Hits
from xclass.losses.fused.adaptive_sample_size import Growth, growing_loss, sample_sizes
from xclass.losses.fused.sampled_loss import Scoring
from xclass.runs.train import resolve_config
from xclass.runtime.rng import torch_generator
from xclass.sampling import FixedUnigram, Uniform
from xclass.towers import Projection
from xclass.types import Batch, Negatives, Ragged, Rows

N, D, K = 30, 4, 24
TARGETS = [[3, 4], [0], [], [29], [7, 8, 9]]
NOTHING = torch.zeros(0, dtype=torch.int64)


def test_the_gradient_is_the_papers_estimate_for_every_sample() -> None:
    scores, q = torch.randn(4, generator=torch_generator(0, "t"), dtype=torch.float64), [0.1, 0.2, 0.3, 0.4]
    leaf = scores.clone().requires_grad_(True)
    for sample in itertools.product(range(4), repeat=3):
        ids, target = torch.tensor(sample), sample[0]
        neg = leaf[ids] - torch.tensor(q, dtype=torch.float64)[ids].log()
        loss = importance_loss(leaf[target : target + 1], neg.unsqueeze(0), torch.tensor([0, 1])).sum()
        (got,) = torch.autograd.grad(loss, leaf)
        wanted = reference.importance_gradient(scores.tolist(), target, sample, q)
        assert got.tolist() == pytest.approx(wanted, abs=1e-12)


def test_its_bias_falls_with_the_sample_and_its_sum_is_unbiased() -> None:
    """Over all samples: E[Σ r] = Z, and the expected gradient comes near to the softmax's as the sample grows."""
    scores = torch.tensor([1.0, -0.5, 0.3], dtype=torch.float64)
    q = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    gaps = []
    for size in (1, 2, 6):
        expected, z = torch.zeros(3, dtype=torch.float64), 0.0
        for sample in itertools.product(range(3), repeat=size):
            ids = torch.tensor(sample)
            chance, ratios = float(q[ids].prod()), (scores[ids] - (size * q[ids]).log()).exp()
            z += chance * float(ratios.sum())
            expected.index_add_(0, ids, chance * ratios / ratios.sum())
        assert z == pytest.approx(float(scores.exp().sum()), rel=1e-12)
        gaps.append(float((expected - scores.softmax(0)).abs().sum()))
    assert gaps[0] > gaps[1] > gaps[2] and gaps[2] < 0.3 * gaps[0]


def test_effective_size() -> None:
    flat, one = torch.zeros(2, 8), torch.tensor([[50.0] + [0.0] * 7])
    assert effective_size(flat).tolist() == pytest.approx([8.0, 8.0])
    assert float(effective_size(one)) == pytest.approx(1.0)
    logits = torch.randn(3, 5, generator=torch_generator(0, "t"))
    ratios = logits.exp()
    torch.testing.assert_close(effective_size(logits), ratios.sum(1) ** 2 / ratios.square().sum(1))
    torch.testing.assert_close(effective_size(logits + 100), effective_size(logits), rtol=1e-4, atol=0)
    assert effective_size(torch.zeros(2, 0)).tolist() == [0.0, 0.0]


def problem(own: bool, dtype: torch.dtype = torch.float64) -> tuple[Any, ...]:
    """(query, items, scoring, candidates): items lie at the rows of their numbers."""
    generator = torch_generator(1, "t", int(own))
    draw = functools.partial(torch.randn, generator=generator, dtype=dtype)
    positives = Ragged.from_lists(TARGETS)
    weights = None if own else torch.rand(len(positives.values), generator=generator) + 0.1
    positives = Ragged(positives.offsets, positives.values, weights)
    shape = (len(TARGETS), K) if own else (K,)
    ids = torch.randint(0, N, shape, generator=generator)
    log_q = 0.3 * torch.randn(shape, generator=generator, dtype=dtype)
    scoring = Scoring(
        positives,
        Negatives(ids, log_q, torch.zeros(len(positives.values), dtype=dtype)),
        Hits(NOTHING, NOTHING),
        LOSSES["importance"],
        2.0,
        "negatives",
        dtype,
    )
    return draw(len(TARGETS), D), draw(N, D), scoring, ids


def middle(own: bool) -> float:
    """An effective size that some queries' samples reach."""
    query, items, scoring, ids = problem(own)
    candidates = items[ids] if own else items[ids].expand(len(query), K, D)
    logits = 2.0 * torch.einsum("bkd,bd->bk", candidates, query) - scoring.negatives.log_q
    return float(effective_size(logits).median()) * 1.05


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("wanted", [1.0, 6.0, 1000.0])
def test_samples_grow_as_the_rule_says(own: bool, wanted: float) -> None:
    query, items, scoring, ids = problem(own)
    sizes = sample_sizes(query, items, ids, scoring, Growth(wanted, 5))
    for b in range(len(TARGETS)):
        mine = ids[b] if own else ids
        log_q = scoring.negatives.log_q[b] if own else scoring.negatives.log_q
        logits = (items[mine] @ query[b] * 2.0 - log_q).tolist()
        taken, enough = reference.grown(logits, wanted, 5)
        assert (int(sizes.candidates[b]), bool(sizes.enough[b])) == (taken, enough)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("exact", [False, True])
def test_a_grown_loss_and_its_gradient(own: bool, exact: bool) -> None:
    """Each query's loss is that of the candidates it took, at their own log-Q, or of all items where they fell short."""
    query, items, scoring, ids = problem(own)
    weights = torch.tensor([1.0, 2.0, 1.0, 0.5, 3.0], dtype=torch.float64)
    scoring, growth = scoring._replace(row_weights=weights), Growth(middle(own), 4, exact)
    sizes = sample_sizes(query, items, ids, scoring, growth)
    assert len(sizes.candidates.unique()) > 1 and 0 < int(sizes.enough.sum()) < len(TARGETS)
    leaves = query.clone().requires_grad_(True), items.clone().requires_grad_(True)
    every = torch.arange(N) if exact else None
    loss = growing_loss(*leaves, scoring.positives.values, ids, scoring, growth, every)
    got = torch.autograd.grad(loss.sum(), leaves)
    q, v = query.clone().requires_grad_(True), items.clone().requires_grad_(True)
    means = []
    for b, row in enumerate(TARGETS):
        size = int(sizes.candidates[b])
        mine, log_q = (ids[b], scoring.negatives.log_q[b]) if own else (ids, scoring.negatives.log_q)
        neg = v[mine[:size]] @ q[b] * 2.0 - log_q[:size] - math.log(size / K)
        if exact and not bool(sizes.enough[b]):
            neg = v @ q[b] * 2.0
        low, high = scoring.positives.offsets[b : b + 2].tolist()
        given = None if scoring.positives.weights is None else scoring.positives.weights[low:high].double()
        offsets = torch.tensor([0, len(row)])
        means.append(importance_loss(v[row] @ q[b] * 2.0, neg.unsqueeze(0), offsets, given)[0] * weights[b])
    torch.testing.assert_close(loss.detach(), torch.stack(means).detach())
    for have, want in zip(got, torch.autograd.grad(torch.stack(means).sum(), (q, v)), strict=True):
        torch.testing.assert_close(have, want)


@pytest.mark.parametrize("own", [False, True])
def test_gradients_numerically(own: bool) -> None:
    query, items, scoring, ids = problem(own)

    def run(q: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return growing_loss(q, v, scoring.positives.values, ids, scoring, Growth(middle(own), 4))

    assert torch.autograd.gradcheck(run, (query.requires_grad_(True), items.requires_grad_(True)))


def test_through_the_head_a_target_stays_a_candidate_and_keeps_its_score() -> None:
    """Hits stay, log-Q is taken from candidates only; with a size that nothing reaches and the exact end, the loss is
    the full softmax's."""
    projection, temperature = Projection(D, (), False, torch_generator(0, "t")), 0.5
    make = functools.partial(
        DotHead, projection=projection, temperature=temperature, remove_known_positives=False, loss=LOSSES["importance"]
    )
    positives, empty = Ragged.from_lists(TARGETS), Ragged.from_lists([[] for _ in TARGETS])
    batch = Batch(torch.arange(len(TARGETS)), empty, positives, positives)
    q, v = (torch.randn(n, D, generator=torch_generator(n, "t")) for n in (len(TARGETS), N))
    losses = {}
    for name, growth in (("plain", None), ("exact", Growth(1e6, 8, True))):
        head = make(FixedUnigram(torch.arange(1, N + 1), 40), growth=growth)
        plan = head.plan(batch, torch_generator(3, "plan"))
        assert not len(plan.hits.rows) and len(set(plan.negatives.ids.tolist()) & set(positives.values.tolist()))
        row_plan = plan_rows(head.requests(batch, plan)["item"])
        losses[name] = head.loss(q, batch, plan, {"item": Rows(v[row_plan.unique], row_plan.positions)})
        scores = q @ v.T / temperature
        if growth is None:
            log_z = (scores[:, plan.negatives.ids] - plan.negatives.log_q).logsumexp(1)
        else:
            log_z = scores.logsumexp(1)
        means = torch.stack([scores[b, row].mean() if row else log_z[b] for b, row in enumerate(TARGETS)])
        torch.testing.assert_close(losses[name], log_z - means, rtol=1e-4, atol=1e-5)


def test_no_effective_size_is_all_candidates() -> None:
    query, items, scoring, ids = problem(False)
    whole = growing_loss(query, items, scoring.positives.values, ids, scoring, Growth(1e9, 5))
    pos = (query[scoring.positives.rows()] * items[scoring.positives.values]).sum(1) * 2.0
    neg = query @ items[ids].T * 2.0 - scoring.negatives.log_q
    wanted = importance_loss(pos, neg, scoring.positives.offsets, scoring.positives.weights)
    torch.testing.assert_close(whole, wanted)


IMPORTANCE = {"kind": "importance", "effective_size": 10}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"loss": {"kind": "nce", "effective_size": 5}}, "effective_size is not a switch"),
        ({"loss": {"kind": "importance", "exact_when_short": True}}, "go with effective_size"),
        ({"loss": {"kind": "importance", "subtract_log_q": False}}, "subtract_log_q"),
        ({"loss": IMPORTANCE, "sampler": {"kind": "all"}}, "independent draws"),
        ({"loss": {**IMPORTANCE, "exact_when_short": True}, "head": {"kind": "cnn"}}, "exact_when_short needs"),
        ({"loss": IMPORTANCE, "sampler": {"kind": "uniform", "replacement": False}}, "independent draws"),
    ],
)
def test_switches_that_do_not_fit_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        resolve_config(settings)


def test_a_configuration_reaches_the_head() -> None:
    settings = {
        "loss": {**IMPORTANCE, "sample_block": 16, "exact_when_short": True},
        "sampler": {"kind": "log-uniform"},
    }
    config = resolve_config(settings)
    assert (config.loss.effective_size, config.loss.sample_block, config.loss.exact_when_short) == (10.0, 16, True)
    assert not config.loss.masks_known_positives and Uniform(3, 2, per_query=True).per_query
