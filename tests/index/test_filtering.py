"""Allow lists, deny lists and exclusions over every registered kind, beside brute force."""

from __future__ import annotations

import functools

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xclass.errors import InputError
from xclass.index import INDEX_KINDS, ExactIndex, FaissIndex, Index, IndexConfig, SubsetIndex
from xclass.index import rows as rows_module
from xclass.index.faiss.selectors import search_parameters
from xclass.index.filtering import Allowed, Hidden
from xclass.index.rows import exact_among, search_lists
from xclass.retrieval.search import restricted
from xclass.testing.index import check_contract
from xclass.types import Ragged, TopK
from xclass.types.vectors import TensorVectors

pytest.importorskip("faiss")

NUM_ITEMS, NUM_QUERIES, DIM = 700, 9, 12
KINDS = [kind for kind in INDEX_KINDS if kind != "factory"]
FACTORIES = ["HNSW16,SQ8", "IVF8,SQ8", "IVF8,PQ4x4fs", "PQ4x4", "PCA8,IVF8,Flat", "IVF8,PQ4x4,RFlat", "PQ4x4fs", "SQ8"]
SHARES = (1.0, 0.9, 0.5, 0.3, 0.1, 0.01, 0.003)


@functools.cache
def problem() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(11)
    centres = torch.randn(20, DIM, generator=generator)
    which = torch.randint(20, (NUM_ITEMS + NUM_QUERIES,), generator=generator)
    rows = centres[which] + 0.7 * torch.randn(NUM_ITEMS + NUM_QUERIES, DIM, generator=generator)
    return rows[:NUM_ITEMS], rows[NUM_ITEMS:]


@functools.cache
def index_of(name: str) -> Index:
    factory = None if name in INDEX_KINDS else name
    kind = "factory" if factory else name
    index = INDEX_KINDS[kind](IndexConfig(kind=kind, factory=factory))
    index.build(problem()[0])
    return index


def brute_force(allowed: set[int], hidden: list[set[int]], k: int) -> list[list[int]]:
    vectors, queries = problem()
    products = (queries.double() @ vectors.double().T).tolist()
    return [sorted(allowed - hidden[b], key=lambda item: (-products[b][item], item))[:k] for b in range(NUM_QUERIES)]


def lists(found: TopK) -> list[list[int]]:
    return Ragged(found.offsets, found.ids).to_lists()


@st.composite
def filters(draw: st.DrawFn) -> tuple[torch.Tensor | None, torch.Tensor | None, Ragged, int]:
    """(allow, deny, seen, k): from everything to fewer than k, and a query that has seen everything."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    count = max(1, int(NUM_ITEMS * draw(st.sampled_from(SHARES))))
    allow = torch.randperm(NUM_ITEMS, generator=generator)[:count] if draw(st.booleans()) else None
    denied = draw(st.sampled_from([0, 1, 5, 60, NUM_ITEMS // 2]))
    deny = torch.randperm(NUM_ITEMS, generator=generator)[:denied] if draw(st.booleans()) else None
    lengths = [0, 1, NUM_ITEMS, *draw(st.lists(st.sampled_from([0, 2, 30, 400]), min_size=6, max_size=6))]
    seen = [torch.randint(NUM_ITEMS, (n,), generator=generator).tolist() for n in lengths]
    seen[2] = list(range(NUM_ITEMS))
    return allow, deny, Ragged.from_lists(seen), draw(st.sampled_from([1, 5, 40]))


@pytest.mark.parametrize("name", KINDS + FACTORIES)
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(filters())
def test_filters_of_every_kind(name: str, drawn: tuple[torch.Tensor | None, torch.Tensor | None, Ragged, int]) -> None:
    allow, deny, seen, k = drawn
    everything = set(range(NUM_ITEMS))
    allowed = (everything if allow is None else set(allow.tolist())) - (set() if deny is None else set(deny.tolist()))
    if not allowed:
        with pytest.raises(InputError, match="candidate list is empty"):
            restricted(index_of(name), allow, deny)
        return
    index, left = restricted(index_of(name), allow, deny)
    hidden = [set(row) | set([] if left is None else left.tolist()) for row in seen.to_lists()]
    found = index.search(problem()[1], k, Ragged.from_lists([sorted(row) for row in hidden]))
    forbidden = Ragged.from_lists([sorted((everything - allowed) | row) for row in hidden])
    check_contract(found, *problem(), k, forbidden)
    wanted = brute_force(allowed, hidden, k)
    got = lists(found)
    if name in ("exact", "flat") or len(allowed) <= NUM_ITEMS // 4:
        assert got == wanted, "nothing is lost among few candidates, or by an exact search"
    if k > 1:  # one item of few bits and little re-scoring is a matter of luck
        total = sum(map(len, wanted))
        assert sum(len(set(a) & set(b)) for a, b in zip(got, wanted, strict=True)) >= 0.5 * total
    assert got[2] == [], "a query that has seen everything gets an empty list"


@pytest.mark.parametrize("name", KINDS)
def test_lists_do_not_depend_on_order_or_batch(name: str) -> None:
    queries = problem()[1]
    seen = Ragged.from_lists([list(range(7 * b, 9 * b + 3)) for b in range(NUM_QUERIES)])
    for index in (index_of(name), SubsetIndex(index_of(name), torch.arange(0, NUM_ITEMS, 2))):
        whole = lists(index.search(queries, 8, seen))
        order = torch.tensor([4, 0, 8, 2, 6, 1, 3, 7, 5])
        assert lists(index.search(queries[order], 8, seen.take(order))) == [whole[b] for b in order]
        for size in (1, 2, 4):
            parts = torch.arange(NUM_QUERIES).split(size)
            found = TopK.concat([index.search(queries[part], 8, seen.take(part)) for part in parts])
            assert lists(found) == whole


@pytest.mark.parametrize("name", KINDS)
def test_nan_is_refused_by_every_kind(name: str) -> None:
    spoilt = problem()[0].clone()
    spoilt[13, 2] = torch.nan
    kind = INDEX_KINDS[name](IndexConfig(kind=name))
    with pytest.raises(InputError, match="item 13 is not finite"):
        kind.build(spoilt)
    asked = problem()[1].clone()
    asked[1, 0] = torch.nan
    for index in (
        index_of(name),
        SubsetIndex(index_of(name), torch.arange(500)),
        SubsetIndex(index_of(name), torch.arange(5)),
    ):
        with pytest.raises(InputError, match="query 1 is not finite"):
            index.search(asked, 3)


@pytest.mark.parametrize(
    "factory", ["Flat", "HNSW16,Flat", "IVF8,Flat", "IVF8,PQ4x4", "IVF8,PQ4x4fs", "PCA8,IVF8,Flat"]
)
def test_faiss_itself_looks_at_allowed_items_alone(factory: str) -> None:
    """Not by asking for more: k items are fetched, and all of them are allowed."""
    index = FaissIndex("factory", factory)
    index.build(problem()[0])
    allowed = Allowed(torch.arange(0, NUM_ITEMS, 3), NUM_ITEMS)
    _, ids = index.faiss.search(problem()[1].numpy(), 10, params=search_parameters(index.faiss, 64, allowed.bits))
    assert (ids >= 0).all() and (ids % 3 == 0).all()


def test_what_can_not_filter_inside_says_so() -> None:
    index = FaissIndex("factory", "PQ4x4")
    index.build(problem()[0])
    assert search_parameters(index.faiss, 0, Allowed(torch.arange(3), NUM_ITEMS).bits) is None


def test_a_narrow_list_in_front_of_an_approximate_kind_is_searched_completely() -> None:
    index = index_of("hnsw")
    assert SubsetIndex(index, torch.arange(NUM_ITEMS // 4)).queries_at_once == ExactIndex.queries_at_once
    wide = SubsetIndex(index, torch.arange(NUM_ITEMS // 2))
    assert wide.queries_at_once == index.queries_at_once
    assert wide.describe() == {**index.describe(), "kind": "subset", "candidates": NUM_ITEMS // 2}


def test_a_search_restores_the_reach() -> None:
    index = FaissIndex("hnsw")
    index.build(problem()[0])
    before = dict(index.parameters)
    SubsetIndex(index, torch.arange(NUM_ITEMS // 2)).search(problem()[1], 5)
    assert index.parameters == before


@pytest.mark.parametrize("copied", [0, 1 << 28])
def test_rows_fetched_or_copied_are_the_same(copied: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "COPIED_BYTES", copied)
    numbers = torch.tensor([3, 699, 4, 250, 4])
    among = exact_among(TensorVectors(problem()[0]), Allowed(numbers, NUM_ITEMS))
    assert lists(among.search(problem()[1], 3)) == brute_force(set(numbers.tolist()), [set()] * NUM_QUERIES, 3)


@given(st.integers(0, 2**32), st.sampled_from([1, 3, 50]))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_each_query_s_own_list(seed: int, k: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    lengths = [0, 1, 300, 5, 5, 20, 0, 90, 7]
    allow = [torch.randint(NUM_ITEMS, (n,), generator=generator).tolist() for n in lengths]
    seen = [torch.randint(NUM_ITEMS, (40,), generator=generator).tolist() + allow[b][:2] for b in range(NUM_QUERIES)]
    vectors = TensorVectors(problem()[0])
    found = search_lists(vectors, problem()[1], k, Ragged.from_lists(allow), Ragged.from_lists(seen))
    wanted = [brute_force(set(allow[b]), [set(seen[b])] * NUM_QUERIES, k)[b] for b in range(NUM_QUERIES)]
    assert lists(found) == wanted
    products = problem()[1] @ problem()[0].T
    assert torch.allclose(found.scores, products[found.rows(), found.ids], rtol=1e-5, atol=1e-5)


def test_own_lists_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    allow = Ragged.from_lists([list(range(b, 60 + b)) for b in range(NUM_QUERIES)])
    whole = search_lists(TensorVectors(problem()[0]), problem()[1], 9, allow)
    monkeypatch.setattr(rows_module, "PAIRS_AT_ONCE", 7)
    assert lists(search_lists(TensorVectors(problem()[0]), problem()[1], 9, allow)) == lists(whole)


def test_allowed() -> None:
    allowed = Allowed(torch.tensor([9, 2, 2, 15, 16]), 18)
    assert (len(allowed), allowed.share, allowed.numbers.tolist()) == (4, 4 / 18, [2, 9, 15, 16])
    assert allowed.contains(torch.tensor([[-1, 2], [3, 16]])).tolist() == [[False, True], [False, True]]
    assert allowed.places(torch.tensor([0, 2, 15, 17])).tolist() == [-1, 0, 2, -1]
    assert allowed.only(Ragged.from_lists([[1, 2], [], [16, 17]])).to_lists() == [[2], [], [16]]
    hidden = Hidden(Ragged.from_lists([[2, 2, 3], []]), 2, 18, allowed)
    assert hidden.left.tolist() == [3, 4]
    for bad in ([], [18], [-1]):
        with pytest.raises(InputError, match="candidate"):
            Allowed(torch.tensor(bad, dtype=torch.int64), 18)
