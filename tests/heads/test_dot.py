"""The dot head: masks, the blocked pass against plain autograd, ownership of negatives, log-Q."""

import pytest
import torch

from xclass.errors import InputError
from xclass.heads import HEADS, DotHead
from xclass.heads import blocked as blocked_module
from xclass.heads.blocked import Scoring, blocked_loss
from xclass.heads.masks import Hits, find_hits
from xclass.losses import LOSSES, mask_value
from xclass.rng import torch_generator
from xclass.sampling import AllItems, Uniform
from xclass.towers import Projection
from xclass.types import Batch, Negatives, Ragged, Rows


def plain_mask(excluded, candidates):
    return [(b, j) for b, row in enumerate(excluded.to_lists()) for j, c in enumerate(candidates.tolist()) if c in row]


def test_hits_equal_the_plain_search():
    generator = torch_generator(0, "test")
    for _ in range(50):
        lengths = torch.randint(0, 5, (7,), generator=generator).tolist()
        lists = [torch.randperm(12, generator=generator)[:n].tolist() for n in lengths]
        candidates = torch.randint(0, 12, (9,), generator=generator)
        hits = find_hits(Ragged.from_lists(lists), candidates)
        assert sorted(zip(hits.rows.tolist(), hits.columns.tolist(), strict=True)) == plain_mask(
            Ragged.from_lists(lists), candidates
        )
        assert bool((hits.rows.diff() >= 0).all())


def problem(num_queries=23, k=11, d=5, dtype=torch.float64):
    generator = torch_generator(3, "test")
    lengths = torch.randint(0, 4, (num_queries,), generator=generator)
    ids = torch.randint(0, 30, (int(lengths.sum()),), generator=generator)
    positives = Ragged(torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]), ids)
    negatives = Negatives(
        torch.randint(0, 30, (k,), generator=generator),
        torch.randn(k, generator=generator, dtype=dtype),
        torch.randn(len(ids), generator=generator, dtype=dtype),
    )
    shapes = ((num_queries, d), (len(ids), d), (k, d))
    vectors = [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]
    return positives, negatives, vectors


def plain_loss(positives, negatives, vectors, hits, temperature):
    query, positive, negative = vectors
    pos_logits = (query[positives.rows()] * positive).sum(1) / temperature - negatives.pos_log_q
    neg_logits = query @ negative.T / temperature - negatives.log_q
    neg_logits = neg_logits.index_put(
        (hits.rows, hits.columns), torch.tensor(mask_value(neg_logits.dtype), dtype=neg_logits.dtype)
    )
    return LOSSES["sampled-softmax"].function(pos_logits, neg_logits, positives.offsets)


@pytest.mark.parametrize("row_weights", [None, torch.linspace(2, 0, 23).double()])
@pytest.mark.parametrize("upstream", ["mean", "uneven"])
@pytest.mark.parametrize("block", [40, 1 << 18])
def test_the_blocked_pass_equals_plain_autograd(monkeypatch, upstream, block, row_weights):
    monkeypatch.setattr(blocked_module, "BLOCK_LOGITS", block)
    positives, negatives, vectors = problem()
    hits = find_hits(positives, negatives.ids)
    assert len(hits.rows) > 0
    weights = torch.full((23,), 1 / 23.0).double() if upstream == "mean" else torch.linspace(0, 2, 23).double()
    scoring = Scoring(
        positives, negatives, hits, 1 / 0.3, True, LOSSES["sampled-softmax"].block, torch.float64, row_weights
    )
    ours = blocked_loss(*vectors, scoring)
    plain = plain_loss(positives, negatives, vectors, hits, 0.3) * (1.0 if row_weights is None else row_weights)
    torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)
    got = torch.autograd.grad((ours * weights).sum(), vectors)
    expected = torch.autograd.grad((plain * weights).sum(), vectors)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


def test_bfloat16_products_stay_close():
    positives, negatives, vectors = problem(dtype=torch.float32)
    nothing = torch.empty(0, dtype=torch.int64)
    losses = [
        blocked_loss(
            *vectors,
            Scoring(positives, negatives, Hits(nothing, nothing), 1.0, True, LOSSES["sampled-softmax"].block, dtype),
        )
        for dtype in (torch.float32, torch.bfloat16)
    ]
    torch.testing.assert_close(losses[0], losses[1], rtol=0.03, atol=0.03)
    assert not torch.equal(losses[0], losses[1])


def head(sampler, **settings):
    return DotHead(sampler, LOSSES["sampled-softmax"], Projection(2, (), False, torch_generator(0, "test")), **settings)


def rows_for(batch, plan, items):
    ids = items["positives"], items["negatives"]
    unique, inverse = torch.unique(torch.cat(ids), return_inverse=True)
    positions = dict(zip(items, inverse.split([len(part) for part in ids]), strict=True))
    return Rows(torch.stack([unique.double(), torch.ones(len(unique)).double()], 1), positions)


def test_each_query_meets_its_own_targets_and_the_shared_candidates():
    """Item i's vector is (i, 1): the loss of a query is computed by hand from its own ids only."""
    batch = Batch(
        torch.tensor([0, 1]),
        Ragged.from_lists([[], []]),
        Ragged.from_lists([[2], [5, 1]]),
        Ragged.from_lists([[2, 3], [5, 1]]),
    )
    dot = head(AllItems(6), temperature=2.0)
    dot.product_dtype = torch.float64
    plan = dot.plan(batch, torch_generator(0, "test"))
    query = torch.tensor([[0.3, 0.0], [-0.2, 1.0]], dtype=torch.float64)
    items = dot.requests(batch, plan)["item"]
    losses = dot.loss(query, batch, plan, {"item": rows_for(batch, plan, items)})
    score = lambda q, i: torch.tensor((q[0] * i + q[1]) / 2.0).exp()  # noqa: E731
    first = (score((0.3, 0), 2) + sum(score((0.3, 0), i) for i in (0, 1, 4, 5))).log() - score((0.3, 0), 2).log()
    second = [
        (score((-0.2, 1), p) + sum(score((-0.2, 1), i) for i in (0, 2, 3, 4))).log() - score((-0.2, 1), p).log()
        for p in (5, 1)
    ]
    torch.testing.assert_close(losses, torch.stack([first, sum(second) / 2]).double(), rtol=1e-6, atol=1e-6)


def test_what_is_masked_follows_the_switches():
    batch = Batch(torch.tensor([0]), Ragged.from_lists([[]]), Ragged.from_lists([[2]]), Ragged.from_lists([[2, 3]]))
    seen = {}
    for name, switches in {
        "known": {},
        "targets": {"remove_known_positives": False},
        "nothing": {"remove_known_positives": False, "remove_accidental_hits": False},
    }.items():
        seen[name] = head(AllItems(5), **switches).plan(batch, torch_generator(0, "test")).hits.columns.tolist()
    assert seen == {"known": [2, 3], "targets": [2], "nothing": []}


def test_a_batch_without_targets_and_a_bad_temperature_are_refused():
    with pytest.raises(InputError, match="no positives"):
        head(Uniform(5, 2)).plan(Batch(torch.tensor([0]), Ragged.from_lists([[]])), torch_generator(0, "test"))
    with pytest.raises(InputError, match="temperature"):
        head(Uniform(5, 2), temperature=0.0)


def test_registered():
    assert {"dot": DotHead} == HEADS
