"""The dot head: masks, the blocked pass against plain autograd, ownership of negatives, log-Q."""

import functools
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from xclass.errors import InputError
from xclass.heads import HEADS, DotHead
from xclass.losses import LOSSES, _dispatch, mask_value
from xclass.losses._dispatch import row_switches
from xclass.losses.fused import accidental_hits, pairs
from xclass.losses.fused import column_blocks as columns_module
from xclass.losses.fused import per_query as own_module
from xclass.losses.fused import row_blocks as blocks_module
from xclass.losses.fused import sampled_loss as blocked_module
from xclass.losses.fused.accidental_hits import Hits, find_hits
from xclass.losses.fused.sampled_loss import Scoring, blocked_loss
from xclass.losses.interface import final_weights
from xclass.runtime.jit import compiles
from xclass.runtime.rng import torch_generator
from xclass.runtime.threads import in_parts, num_threads, short_operations
from xclass.sampling import AllItems, Uniform
from xclass.towers import Projection
from xclass.types import Batch, Negatives, Ragged, Rows, offsets_of


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


def problem(num_queries=23, k=11, d=5, dtype=torch.float64, own=False):
    """Items 0 … 29 have the rows 0 … 29 of the item vectors."""
    generator = torch_generator(3, "test")
    lengths = torch.randint(0, 4, (num_queries,), generator=generator)
    ids = torch.randint(0, 30, (int(lengths.sum()),), generator=generator)
    weights = torch.rand(len(ids), generator=generator, dtype=dtype) + 0.1
    positives = Ragged(offsets_of(lengths), ids, weights)
    shape = (num_queries, k) if own else (k,)
    candidates = torch.randint(-1 if own else 0, 30, shape, generator=generator)
    negatives = Negatives(
        candidates,
        torch.randn(shape, generator=generator, dtype=dtype),
        torch.randn(len(ids), generator=generator, dtype=dtype),
    )
    vectors = [torch.randn(n, d, generator=generator, dtype=dtype).requires_grad_() for n in (num_queries, 30)]
    return positives, negatives, vectors


def plain_logits(positives, negatives, vectors, hits, scoring):
    """The logits as a whole, by autograd; rows are pairs where the scoring says so."""
    query, items = vectors
    rows = positives.rows()
    pos = (query[rows] * items[positives.values]).sum(1) * scoring.inverse_temperature
    if scoring.log_q_of == "both":
        pos = pos - negatives.pos_log_q
    each = query[rows] if scoring.per_pair else query
    ids, log_q = negatives.ids, negatives.log_q
    if scoring.per_pair and ids.dim() == 2:
        ids, log_q = ids[rows], log_q[rows]
    own = items[ids.clamp(min=0)]
    neg = (each.unsqueeze(1) * own).sum(2) * scoring.inverse_temperature
    if scoring.log_q_of != "none":
        neg = neg - log_q
    return pos, neg.index_put((hits.rows, hits.columns), torch.tensor(mask_value(neg.dtype), dtype=neg.dtype))


def plain_loss(positives, negatives, vectors, hits, scoring):
    pos, neg = plain_logits(positives, negatives, vectors, hits, scoring)
    if not scoring.per_pair:
        return scoring.loss.function(pos, neg, positives.offsets, positives.weights)
    rows = positives.rows()
    share = final_weights(scoring.loss, positives.offsets, positives.weights, pos.detach())
    each = scoring.loss.function(pos, neg, torch.arange(len(pos) + 1))
    return torch.zeros(len(positives), dtype=pos.dtype).index_add(0, rows, share * each)


def cases():
    for name in LOSSES:
        yield name, False, False
        yield name, True, False
        if not LOSSES[name].full and LOSSES[name].normalise:
            yield name, False, True
            yield name, True, True


@pytest.mark.parametrize("row_weights", [None, torch.linspace(2, 0, 23).double()])
@pytest.mark.parametrize("upstream", ["mean", "uneven"])
@pytest.mark.parametrize(("block", "threads"), [(40, 1), (1 << 18, 1), (40, 2)])
@pytest.mark.parametrize(("name", "own", "per_pair"), list(cases()))
def test_the_blocked_pass_equals_plain_autograd(
    monkeypatch, upstream, block, threads, row_weights, name, own, per_pair
):
    cut(monkeypatch, blocks_module, block, threads)
    check_blocked(problem(own=own), name, per_pair, row_weights, upstream)


@pytest.mark.parametrize("row_weights", [None, torch.linspace(2, 0, 23).double()])
@pytest.mark.parametrize(("block", "threads"), [(600, 1), (1 << 18, 1), (600, 2)])
@pytest.mark.parametrize("in_order", [False, True])
@pytest.mark.parametrize(("name", "own", "per_pair"), [case for case in cases() if not case[1]])
def test_a_pass_by_columns_equals_plain_autograd(
    monkeypatch, in_order, block, threads, row_weights, name, own, per_pair
):
    cut(monkeypatch, columns_module, block, threads)
    monkeypatch.setattr(columns_module, "MANY_BYTES", 0)
    monkeypatch.setattr(columns_module, "LEAST_COLUMNS", 2)
    monkeypatch.delattr(blocks_module, "_part")
    positives, negatives, vectors = problem(d=40 if block == 600 else 5)  # of few rows the cells are kept
    if in_order:  # every item, as a sampler of all items gives them
        log_q = torch.randn(30, generator=torch_generator(4, "test"), dtype=torch.float64)
        negatives = negatives._replace(ids=torch.arange(30), log_q=log_q)
    check_blocked((positives, negatives, vectors), name, per_pair, row_weights, "uneven")


def test_many_columns_begin_where_the_gradient_of_the_candidates_is_large(monkeypatch):
    taken = []
    monkeypatch.setattr(
        blocked_module, "run_columns", lambda *_: taken.append("columns") or blocks_module.run_blocks(*_)
    )
    positives, negatives, vectors = problem(dtype=torch.float32)
    scoring = Scoring(positives, negatives, find_hits(positives, negatives.ids), LOSSES["nce"])
    for limit, wanted in ((11 * 5 * 4 + 1, []), (11 * 5 * 4, ["columns"])):
        monkeypatch.setattr(columns_module, "MANY_BYTES", limit)
        blocked_loss(*vectors, positives.values, negatives.ids, scoring)
        assert taken == wanted


def cut(monkeypatch, module, block, threads):
    monkeypatch.setitem(module.BLOCK_BYTES, "cpu", block)
    monkeypatch.setattr(module, "PART_CELLS", 1 if threads > 1 else 1 << 18)
    monkeypatch.setattr(module, "in_parts", functools.partial(in_parts, threads=threads))


def check_blocked(given, name, per_pair, row_weights, upstream):
    positives, negatives, vectors = given
    per_pair = per_pair or LOSSES[name].per_pair
    hits = find_hits(
        positives.take(positives.rows()) if per_pair else positives, pair_ids(negatives, positives, per_pair)
    )
    assert len(hits.rows) > 0
    weights = torch.full((23,), 1 / 23.0).double() if upstream == "mean" else torch.linspace(0, 2, 23).double()
    scoring = Scoring(
        positives,
        negatives,
        hits,
        LOSSES[name],
        1 / 0.3,
        "both" if LOSSES[name].subtract_log_q else "none",
        torch.float64,
        row_weights,
        per_pair,
    )
    ours = blocked_loss(*vectors, positives.values, negatives.ids.clamp(min=0), scoring)
    plain = plain_loss(positives, negatives, vectors, hits, scoring) * (1.0 if row_weights is None else row_weights)
    torch.testing.assert_close(ours, plain, rtol=1e-11, atol=1e-12)
    got = torch.autograd.grad((ours * weights).sum(), vectors)
    expected = torch.autograd.grad((plain * weights).sum(), vectors)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("row_weights", [None, torch.linspace(2, 0, 23)])
@pytest.mark.parametrize(
    ("name", "per_pair"), [(name, pair) for name, own, pair in cases() if own and row_switches(LOSSES[name])]
)
@pytest.mark.skipif(not compiles(), reason="in operations on tensors")
def test_candidates_of_ones_own_need_no_copies_of_vectors(monkeypatch, name, per_pair, row_weights):
    positives, negatives, vectors = problem(dtype=torch.float32, own=True)
    hits = find_hits(
        positives.take(positives.rows()) if per_pair or LOSSES[name].per_pair else positives,
        pair_ids(negatives, positives, per_pair or LOSSES[name].per_pair),
    )
    log_q_of = "both" if LOSSES[name].subtract_log_q else "none"
    plain = Scoring(positives, negatives, hits, LOSSES[name], 1 / 0.3, log_q_of, per_pair=per_pair)
    wide = Ragged(positives.offsets, positives.values, positives.weights.double())
    wide_negatives = Negatives(negatives.ids, negatives.log_q.double(), negatives.pos_log_q.double())
    double = [each.detach().double().requires_grad_() for each in vectors]
    weights = torch.linspace(0, 2, 23) * (1.0 if row_weights is None else row_weights)
    expected = plain_loss(wide, wide_negatives, double, hits, plain._replace(positives=wide))
    expected = expected, *torch.autograd.grad((expected * weights).sum(), double)
    monkeypatch.delattr(blocks_module, "_part")
    found = []
    for threads in (1, 2):
        monkeypatch.setattr(own_module, "PART_CELLS", 1 if threads > 1 else 1 << 18)
        monkeypatch.setattr(own_module, "LEAST_DIMS", 1)
        monkeypatch.setattr(own_module, "in_parts", functools.partial(in_parts, threads=threads))
        scoring = plain._replace(row_weights=row_weights)
        loss = blocked_loss(*vectors, positives.values, negatives.ids.clamp(min=0), scoring)
        found.append((loss.detach(), *torch.autograd.grad((loss * torch.linspace(0, 2, 23)).sum(), vectors)))
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))
    expected = expected[0] * (1.0 if row_weights is None else row_weights), *expected[1:]
    for one, other in zip(found[0], expected, strict=True):
        torch.testing.assert_close(one.double(), other.detach(), rtol=1e-5, atol=2e-5)


def test_short_operations_run_on_one_thread_and_parts_on_all():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with short_operations():
            assert torch.get_num_threads() == 1 and num_threads() == 2
            parts = in_parts(lambda low, high: (low, high), 10, 2, torch.device("cpu"))
            assert parts == [(0, 2), (2, 5), (5, 7), (7, 10)]
            with short_operations():
                assert num_threads() == 2
            assert num_threads() == 2
        assert torch.get_num_threads() == num_threads() == 2
        with pytest.raises(InputError), short_operations():
            Uniform(0, 1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_an_error_in_a_part_is_raised_and_the_threads_go_on():
    def work(low, high):
        if low == 3:
            raise InputError("part")
        return low

    with pytest.raises(InputError):
        in_parts(work, 6, 6, torch.device("cpu"), threads=3)
    assert in_parts(lambda low, high: low, 6, 6, torch.device("cpu"), threads=3) == [0, 1, 2, 3, 4, 5]


def test_a_second_backward_gives_the_same_again():
    positives, negatives, vectors = problem()
    scoring = Scoring(positives, negatives, find_hits(positives, negatives.ids), LOSSES["sampled-softmax"])
    scoring = scoring._replace(product_dtype=torch.float64)
    loss = blocked_loss(*vectors, positives.values, negatives.ids, scoring).mean()
    first = torch.autograd.grad(loss, vectors, retain_graph=True)
    second = torch.autograd.grad(2 * loss, vectors)
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(2 * a, b, rtol=1e-12, atol=1e-13)


def pair_ids(negatives, positives, per_pair):
    return negatives.ids[positives.rows()] if per_pair and negatives.ids.dim() == 2 else negatives.ids


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("by_columns", [False, True])
def test_without_a_compiler_the_result_is_the_same(monkeypatch, name, dtype, by_columns):
    monkeypatch.setattr(columns_module, "MANY_BYTES", 0 if by_columns else 1 << 40)
    positives, negatives, vectors = problem(dtype=torch.float32)
    hits = find_hits(positives.take(positives.rows()) if LOSSES[name].per_pair else positives, negatives.ids)
    results = []
    for there in (True, False):
        monkeypatch.setattr(_dispatch, "compiles", lambda there=there: there)
        monkeypatch.setattr(pairs, "compiles", lambda there=there: there)
        scoring = Scoring(positives, negatives, hits, LOSSES[name], 1.0, "both", dtype)
        loss = blocked_loss(*vectors, positives.values, negatives.ids, scoring)
        results.append((loss.detach(), *torch.autograd.grad(loss.sum(), vectors)))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(
            a, b, rtol=1e-5 if dtype == torch.float32 else 2e-2, atol=1e-5 if dtype == torch.float32 else 2e-2
        )


def test_bfloat16_products_stay_close():
    positives, negatives, vectors = problem(dtype=torch.float32)
    nothing = torch.empty(0, dtype=torch.int64)
    losses = [
        blocked_loss(
            *vectors,
            positives.values,
            negatives.ids,
            Scoring(positives, negatives, Hits(nothing, nothing), LOSSES["sampled-softmax"], product_dtype=dtype),
        )
        for dtype in (torch.float32, torch.bfloat16)
    ]
    torch.testing.assert_close(losses[0], losses[1], rtol=0.03, atol=0.03)
    assert not torch.equal(losses[0], losses[1])


def test_hits_of_candidates_of_ones_own(monkeypatch):
    generator = torch_generator(1, "test")
    for _ in range(30):
        lists = [torch.randperm(12, generator=generator)[:n].tolist() for n in (0, 3, 5, 1)]
        lists[1] *= 2  # an item may be listed twice
        candidates = torch.randint(-1, 12, (4, 6), generator=generator)
        hits = find_hits(Ragged.from_lists(lists), candidates)
        expected = [(b, j) for b in range(4) for j in range(6) if int(candidates[b, j]) in [-1, *lists[b]]]
        assert list(zip(hits.rows.tolist(), hits.columns.tolist(), strict=True)) == expected
        monkeypatch.setattr(accidental_hits, "FIRST_ROOM", 2)  # a second look is necessary
        assert find_hits(Ragged.from_lists(lists), candidates).columns.tolist() == [j for _, j in expected]
        monkeypatch.undo()
        monkeypatch.setattr(accidental_hits, "compiles", lambda: False)
        assert find_hits(Ragged.from_lists(lists), candidates).columns.tolist() == [j for _, j in expected]
        monkeypatch.undo()


def test_threads_of_the_pass_leave_torch_as_it_was():
    before = torch.get_num_threads()
    parts = in_parts(lambda low, high: (low, high, torch.get_num_threads()), 10, 100, torch.device("cpu"), threads=3)
    assert parts == [(0, 1, 1), (1, 3, 1), (3, 5, 1), (5, 6, 1), (6, 8, 1), (8, 10, 1)]
    assert torch.get_num_threads() == before
    assert ThreadPoolExecutor(1).submit(torch.get_num_threads).result() == before


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
    assert HEADS["dot"] is DotHead
