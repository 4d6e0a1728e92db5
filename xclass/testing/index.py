"""The contract of an index, checked against brute force: run it over your own kind.

from xclass.testing import check_index
check_index(lambda: MyIndex(...))
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from xclass.errors import InputError
from xclass.index.build import Index
from xclass.runtime.rng import torch_generator
from xclass.types import Ragged, TopK

MakeIndex = Callable[[], Index]
RELATIVE = 1e-5


def check_index(make_index: MakeIndex, least_recall: float = 0.9, seed: int = 0) -> None:
    """Every promise of :class:`xclass.index.Index`; an AssertionError names the one that is broken.

    Args:
        make_index: a new, empty index at every call.
        least_recall: share of the true top 10 that must be found on 600 vectors of 16 dimensions with heavy-tailed
            norms; 1.0 for an exact index, whose scores must then equal brute force's place by place.
        seed: of the vectors, queries and exclusions.
    """
    for check in (
        check_against_brute_force,
        check_narrow_exclusions,
        check_small_catalogues,
        check_zero_vectors,
        check_batches,
        check_refusals,
    ):
        check(make_index, least_recall, seed)


def check_against_brute_force(make_index: MakeIndex, least_recall: float, seed: int) -> None:
    """Enough of the true top 10, true scores, best first, with and without exclusions; the input stays as it is."""
    generator = torch_generator(seed, "check-index")
    vectors, queries = _problem(600, 50, generator)
    kept_vectors, kept_queries = vectors.clone(), queries.clone()
    index = _built(make_index, vectors)
    assert index.num_items == 600, "num_items is the number of vectors"
    for longest in (0, 12, 300):
        lists = [torch.randint(600, (int(n),), generator=generator).tolist() for n in _lengths(50, longest, generator)]
        exclude = Ragged.from_lists(lists)
        found = index.search(queries, 10, exclude if longest else None)
        check_contract(found, vectors, queries, 10, exclude)
        exact = _brute_force(vectors, queries, exclude)
        recall = sum(_found_share(found, b, exact[b], 10) for b in range(50)) / 50
        assert recall >= least_recall, f"recall {recall:.3f} of the true top 10, wanted {least_recall}"
    assert torch.equal(vectors, kept_vectors), "build changes the caller's vectors"
    assert torch.equal(queries, kept_queries), "search changes the caller's queries"


def check_narrow_exclusions(make_index: MakeIndex, least_recall: float, seed: int) -> None:
    """1%, fewer than k, or nothing left: all that is left comes out, whoever else is in the batch."""
    vectors, queries = _problem(400, 4, torch_generator(seed, "check-index-narrow"))
    everything = list(range(400))
    left: list[list[int]] = [[7, 11, 250, 399], [0], [], everything]
    exclude = Ragged.from_lists([[item for item in everything if item not in set(kept)] for kept in left])
    found = _built(make_index, vectors).search(queries, 10, exclude)
    check_contract(found, vectors, queries, 10, exclude)
    got = _lists(found)
    for wanted, list_ in zip(left[:3], got[:3], strict=True):
        assert sorted(list_) == wanted, f"of the items left, {wanted}, came {sorted(list_)}"


def check_small_catalogues(make_index: MakeIndex, least_recall: float, seed: int) -> None:
    """One item; fewer items than k: every item comes out. No query: no list."""
    for num_items in (1, 3):
        vectors, queries = _problem(num_items, 2, torch_generator(seed, "check-index-small"))
        index = _built(make_index, vectors)
        found = index.search(queries, 10)
        check_contract(found, vectors, queries, 10, None)
        assert all(sorted(list_) == list(range(num_items)) for list_ in _lists(found)), "a small catalogue comes whole"
        assert len(index.search(queries[:0], 10)) == 0, "no query, no list"


def check_zero_vectors(make_index: MakeIndex, least_recall: float, seed: int) -> None:
    """Zero item vectors and a zero query are like others: score 0, no NaN, full lists."""
    vectors, queries = _problem(100, 3, torch_generator(seed, "check-index-zero"))
    vectors[::3] = 0.0
    queries[1] = 0.0
    found = _built(make_index, vectors).search(queries, 5)
    check_contract(found, vectors, queries, 5, None)
    assert found.lengths().tolist() == [5, 5, 5], "zero vectors shorten a list"


def check_batches(make_index: MakeIndex, least_recall: float, seed: int) -> None:
    """The same lists one by one, together, and the second time."""
    vectors, queries = _problem(300, 12, torch_generator(seed, "check-index-batches"))
    index = _built(make_index, vectors)
    together = index.search(queries, 5)
    again = index.search(queries, 5)
    one_by_one = TopK.concat([index.search(queries[b : b + 1], 5) for b in range(12)])
    for other in (again, one_by_one):
        assert torch.equal(together.ids, other.ids), "the lists depend on the batch"
        assert torch.allclose(together.scores, other.scores, rtol=RELATIVE), "the scores depend on the batch"


def check_refusals(make_index: MakeIndex, least_recall: float, seed: int) -> None:
    """NaN, infinity, wrong shapes, k below 1 and unknown items are InputErrors."""
    vectors, queries = _problem(50, 2, torch_generator(seed, "check-index-refusals"))
    for bad in (float("nan"), float("inf")):
        spoilt = vectors.clone()
        spoilt[13, 2] = bad
        _refuses("item 13", partial(make_index().build, spoilt))
    index = _built(make_index, vectors)
    spoilt = queries.clone()
    spoilt[1, 0] = float("nan")
    _refuses("query 1", lambda: index.search(spoilt, 5))
    _refuses("do not fit", lambda: index.search(queries[:, :-1], 5))
    _refuses("k is too small", lambda: index.search(queries, 0))
    _refuses("not in the index", lambda: index.search(queries, 5, Ragged.from_lists([[50], []])))
    _refuses("one list of exclusions", lambda: index.search(queries, 5, Ragged.from_lists([[1]])))
    _refuses("empty", lambda: make_index().search(queries, 5))
    _refuses("wrong shape", lambda: make_index().build(vectors[0]))


def check_contract(found: TopK, vectors: Tensor, queries: Tensor, k: int, exclude: Ragged | None) -> None:
    """What holds for every result: types, no hidden, repeated or unknown item, true scores, order, length."""
    assert found.ids.dtype == torch.int64, "item numbers are int64"
    assert found.scores.dtype == torch.float32, "scores are float32"
    assert len(found) == len(queries), "one list per query"
    hidden = exclude.to_lists() if exclude is not None else [[] for _ in range(len(queries))]
    products = queries.double() @ vectors.double().T
    scale = float(products.abs().max())
    for b, ids in enumerate(_lists(found)):
        scores = found.scores[found.offsets[b] : found.offsets[b + 1]]
        assert len(set(ids)) == len(ids), f"query {b} gets an item twice"
        assert all(0 <= item < len(vectors) for item in ids), f"query {b} gets an item that does not exist"
        assert not set(ids) & set(hidden[b]), f"query {b} gets an excluded item"
        assert len(ids) == min(k, len(vectors) - len(set(hidden[b]))), f"query {b}'s list has the wrong length"
        error = (scores.double() - products[b, ids]).abs()
        assert not len(ids) or float(error.max()) <= RELATIVE * scale, f"query {b}'s scores are not inner products"
        pairs = list(zip(scores.tolist(), ids, strict=True))
        in_order = sorted(pairs, key=lambda pair: (-pair[0], pair[1]))
        assert pairs == in_order, f"query {b}'s list is not best first, equal scores by item number"


def _problem(num_items: int, num_queries: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Vectors with structure and heavy-tailed norms, as training makes them."""
    directions = torch.randn(8, 16, generator=generator)
    mixed = torch.randn(num_items + num_queries, 8, generator=generator) @ directions
    mixed += 0.5 * torch.randn(num_items + num_queries, 16, generator=generator)
    norms = torch.rand(num_items, 1, generator=generator).clamp(min=1e-3) ** -0.5
    return mixed[:num_items] * norms / 4, mixed[num_items:]


def _lengths(num_queries: int, longest: int, generator: torch.Generator) -> Tensor:
    lengths = torch.randint(longest + 1, (num_queries,), generator=generator)
    lengths[: num_queries // 4] = 0
    return lengths


def _built(make_index: MakeIndex, vectors: Tensor) -> Index:
    index = make_index()
    index.build(vectors)
    return index


def _brute_force(vectors: Tensor, queries: Tensor, exclude: Ragged) -> list[list[int]]:
    products = queries.double() @ vectors.double().T
    products[exclude.rows(), exclude.values] = -torch.inf
    order = products.argsort(dim=1, descending=True, stable=True)
    return [[item for item in order[b].tolist() if products[b, item] > -torch.inf] for b in range(len(queries))]


def _found_share(found: TopK, b: int, exact: list[int], k: int) -> float:
    return len(set(_lists(found)[b]) & set(exact[:k])) / max(len(exact[:k]), 1)


def _lists(found: TopK) -> list[list[int]]:
    return Ragged(found.offsets, found.ids).to_lists()


def _refuses(message: str, act: Callable[[], object]) -> None:
    try:
        act()
    except InputError as error:
        assert message in str(error), f'the message says "{error}", not "{message}"'
    else:
        raise AssertionError(f"accepted what must be refused: {message}")
