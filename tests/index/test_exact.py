"""Exact search: blocks, ties, exclusions at block borders; the running top-k against a plain sort."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xclass.errors import InputError
from xclass.index import ExactIndex, SubsetIndex, exact
from xclass.index.topk_lists import RunningTopK, running_topk
from xclass.types import Ragged, TopK


def built(vectors: torch.Tensor) -> ExactIndex:
    index = ExactIndex()
    index.build(vectors)
    return index


def rows_of(found: TopK) -> list[list[tuple[float, int]]]:
    lists = Ragged(found.offsets, found.ids).to_lists()
    scores = iter(found.scores.tolist())
    return [[(next(scores), item) for item in list_] for list_ in lists]


def sorted_rows(scores: torch.Tensor, k: int) -> list[list[tuple[float, int]]]:
    """Falling score, then rising number; −inf never."""
    rows = [[(score, item) for item, score in enumerate(row) if score > float("-inf")] for row in scores.tolist()]
    return [sorted(row, key=lambda pair: (-pair[0], pair[1]))[:k] for row in rows]


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 2**30),
    st.integers(1, 5),
    st.integers(1, 90),
    st.integers(1, 40),
    st.sampled_from([2, 5, 1000]),
    st.sampled_from([1, 7, 16, 33, 100]),
)
def test_running_topk_equals_a_sort(seed: int, rows: int, columns: int, k: int, levels: int, block: int) -> None:
    """Few score levels make ties everywhere; level 0 is −inf: never taken."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(levels, (rows, columns), generator=generator).float()
    scores[scores == 0] = -torch.inf
    for running in (RunningTopK(rows, k, torch.device("cpu")), running_topk(rows, k, torch.device("cpu"))):
        for start in range(0, columns, block):
            running.feed(scores[:, start : start + block].contiguous(), start)
        assert rows_of(running.result()) == sorted_rows(scores, k)


@pytest.mark.parametrize("order", ["rising", "falling", "constant"])
def test_running_topk_in_the_worst_orders(order: str) -> None:
    scores = torch.arange(2000.0).repeat(3, 1)
    scores = {"rising": scores, "falling": scores.flip(1), "constant": torch.zeros(3, 2000)}[order].contiguous()
    for running in (RunningTopK(3, 5, torch.device("cpu")), running_topk(3, 5, torch.device("cpu"))):
        for start in range(0, 2000, 64):
            running.feed(scores[:, start : start + 64].contiguous(), start)
        assert rows_of(running.result()) == sorted_rows(scores, 5)


def test_scores_and_order_by_hand() -> None:
    index = ExactIndex()
    index.build(torch.tensor([[1.0, 0], [0, 2], [3, 3], [-1, 0], [3, 3]]))
    found = index.search(torch.tensor([[1.0, 0], [0, -1]]), 3)
    assert rows_of(found) == [[(3.0, 2), (3.0, 4), (1.0, 0)], [(0.0, 0), (0.0, 3), (-2.0, 1)]]
    found = index.search(torch.tensor([[1.0, 0], [0, -1]]), 3, Ragged.from_lists([[2, 2], [0, 3, 1]]))
    assert rows_of(found) == [[(3.0, 4), (1.0, 0), (0.0, 1)], [(-3.0, 2), (-3.0, 4)]]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**30), st.integers(1, 70), st.integers(1, 80), st.integers(0, 60))
def test_many_blocks_and_random_exclusions(seed: int, num_items: int, k: int, longest: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randint(-3, 4, (num_items, 3), generator=generator).float()
    queries = torch.randint(-3, 4, (9, 3), generator=generator).float()
    lists = [torch.randint(num_items, (longest,), generator=generator).tolist() for _ in range(9)]
    scores = queries @ vectors.T
    for row, hidden in enumerate(lists):
        scores[row, hidden] = -torch.inf
    index = ExactIndex()
    index.build(vectors)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "BLOCK_ITEMS", 16)
        patch.setattr(exact, "BLOCK_SCORES", 64)
        found = index.search(queries, k, Ragged.from_lists(lists))
    assert rows_of(found) == sorted_rows(scores, k)


def test_a_person_who_has_seen_everything() -> None:
    index = ExactIndex()
    index.build(torch.eye(4))
    found = index.search(torch.ones(2, 4), 2, Ragged.from_lists([[0, 1, 2, 3], [1]]))
    assert rows_of(found) == [[], [(1.0, 0), (1.0, 2)]]


def test_overflow_is_refused_and_large_numbers_are_not() -> None:
    index = ExactIndex()
    index.build(torch.full((3, 2), 1e19))
    assert torch.isfinite(index.search(torch.full((1, 2), 1e19), 2).scores).all()
    with pytest.raises(InputError, match="query 1 is not finite"):
        index.search(torch.tensor([[1.0, 1], [3e38, 3e38]]), 2)


def test_half_precision_and_slices_are_taken() -> None:
    vectors = torch.randn(20, 8, generator=torch.Generator().manual_seed(3))
    index = ExactIndex()
    index.build(vectors.to(torch.bfloat16)[:, ::2])
    assert index.dim == 4
    assert index.vectors.rows.dtype == torch.bfloat16, "never widened as a whole"
    assert index.vectors.read(3, 5).dtype == torch.float32
    with pytest.raises(InputError, match="wrong shape"):
        index.build(torch.ones(3, 2, dtype=torch.int64))


def test_memory_does_not_hold_queries_times_items() -> None:
    """50 million scores would be 200 MB; the search may not allocate a tenth of that at once."""
    index = ExactIndex()
    index.build(torch.randn(100_000, 2, generator=torch.Generator().manual_seed(0)))
    largest = 0
    original = torch.mm

    def watched(*args: torch.Tensor, **named: torch.Tensor) -> torch.Tensor:
        nonlocal largest
        result = original(*args, **named)
        largest = max(largest, result.numel())
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "mm", watched)
        index.search(torch.randn(500, 2, generator=torch.Generator().manual_seed(1)), 10)
    assert 0 < largest <= exact.BLOCK_SCORES


def test_candidates_keep_their_numbers() -> None:
    vectors = torch.tensor([[5.0], [4.0], [3.0], [2.0], [1.0]])
    subset = SubsetIndex(built(vectors), torch.tensor([4, 1, 3, 1]))
    found = subset.search(torch.ones(2, 1), 5, Ragged.from_lists([[0, 1], []]))
    assert rows_of(found) == [[(2.0, 3), (1.0, 4)], [(4.0, 1), (2.0, 3), (1.0, 4)]]
    assert (subset.num_items, subset.describe()["candidates"]) == (5, 3)
    with pytest.raises(InputError, match="candidate is not in the catalogue"):
        SubsetIndex(built(vectors), torch.tensor([5]))
    with pytest.raises(InputError, match="candidate list is empty"):
        SubsetIndex(built(vectors), torch.tensor([], dtype=torch.int64))
    with pytest.raises(InputError, match="not in the index"):
        subset.search(torch.ones(1, 1), 2, Ragged.from_lists([[9]]))
