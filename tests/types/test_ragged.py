"""Ragged and TopK against lists of lists."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xclass.errors import InputError
from xclass.types import Batch, Ragged, TopK, concat_ragged, offsets_of

LISTS = st.lists(st.lists(st.integers(0, 2**40), max_size=6), max_size=8)


@given(LISTS)
def test_lists_survive(lists: list[list[int]]) -> None:
    ragged = Ragged.from_lists(lists)
    assert ragged.to_lists() == lists
    assert len(ragged) == len(lists)
    assert ragged.lengths().tolist() == [len(row) for row in lists]
    assert ragged.rows().tolist() == [place for place, row in enumerate(lists) for _ in row]
    assert ragged.offsets.dtype == ragged.values.dtype == torch.int64


@given(LISTS.filter(len), st.data())
def test_take_repeats_and_reorders(lists: list[list[int]], data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.integers(0, len(lists) - 1), max_size=10))
    taken = Ragged.from_lists(lists).take(torch.tensor(rows, dtype=torch.int64))
    assert taken.to_lists() == [lists[row] for row in rows]


@given(LISTS, st.data())
def test_slice_is_python_slice(lists: list[list[int]], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(lists)))
    stop = data.draw(st.integers(start, len(lists)))
    assert Ragged.from_lists(lists).slice(start, stop).to_lists() == lists[start:stop]


@given(LISTS, st.integers(1, 5))
def test_filter_keeps_every_list(lists: list[list[int]], divisor: int) -> None:
    ragged = Ragged.from_lists(lists)
    kept = ragged.filter(ragged.values % divisor == 0)
    assert kept.to_lists() == [[value for value in row if value % divisor == 0] for row in lists]


@given(
    st.lists(st.tuples(st.lists(st.integers(0, 9), max_size=4), st.lists(st.integers(0, 9), max_size=4)), max_size=6)
)
def test_concat_is_list_by_list(pairs: list[tuple[list[int], list[int]]]) -> None:
    first, second = (Ragged.from_lists([pair[side] for pair in pairs]) for side in (0, 1))
    assert concat_ragged(first, second).to_lists() == [a + b for a, b in pairs]


def test_weights_follow_their_values() -> None:
    ragged = Ragged.from_lists([[7, 8], [], [9]], [[0.5, 2.0], [], [3.0]])
    assert ragged.take(torch.tensor([2, 0])).weights.tolist() == [3.0, 0.5, 2.0]
    assert ragged.slice(1, 3).weights.tolist() == [3.0]
    assert ragged.filter(torch.tensor([False, True, True])).weights.tolist() == [2.0, 3.0]
    assert ragged.to("cpu").weights.tolist() == [0.5, 2.0, 3.0]


def test_long_widens_what_was_narrow_on_disk() -> None:
    narrow = Ragged(torch.tensor([0, 2]), torch.tensor([3, 4], dtype=torch.int32))
    assert narrow.long().values.dtype == torch.int64
    assert narrow.long().to_lists() == [[3, 4]]


@pytest.mark.parametrize(
    ("offsets", "values", "weights", "message"),
    [
        (torch.tensor([0, 2], dtype=torch.int32), torch.arange(2), None, "wrong kind"),
        (torch.tensor([], dtype=torch.int64), torch.arange(0), None, "wrong kind"),
        (torch.tensor([1, 2]), torch.arange(2), None, "do not span"),
        (torch.tensor([0, 3]), torch.arange(2), None, "do not span"),
        (torch.tensor([0, 2]), torch.arange(2), torch.ones(3), "differ in shape"),
    ],
)
def test_what_is_no_ragged(
    offsets: torch.Tensor, values: torch.Tensor, weights: torch.Tensor | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        Ragged(offsets, values, weights)


@pytest.mark.parametrize(
    ("lists", "weights"),
    [([[1.5]], None), ([["1"]], None), ([[1 << 70]], None), ([[1, 2], [3]], [[1.0], [2.0, 3.0]])],
)
def test_python_lists_that_are_no_ragged(lists: list[list[int]], weights: list[list[float]] | None) -> None:
    with pytest.raises(InputError):
        Ragged.from_lists(lists, weights)


def test_a_ragged_is_of_tensors() -> None:
    with pytest.raises(InputError, match="takes tensors"):
        Ragged(np.array([0, 1]), np.array([1]))  # type: ignore[arg-type]


def test_concat_refuses_other_lengths() -> None:
    with pytest.raises(InputError, match="different length"):
        concat_ragged(Ragged.from_lists([[1]]), Ragged.from_lists([[1], [2]]))


def test_offsets_do_not_wrap_past_31_bits() -> None:
    assert offsets_of(torch.tensor([2**31, 2**31], dtype=torch.int64)).tolist() == [0, 2**31, 2**32]


def test_topk_leaves_padding_out() -> None:
    ids = torch.tensor([[4, 2, -1], [-1, -1, -1], [0, 5, 6]])
    scores = torch.tensor([[3.0, 1.0, 0.0], [0.0, 0.0, 0.0], [9.0, 8.0, 7.0]])
    topk = TopK.from_padded(ids, scores)
    assert topk.lengths().tolist() == [2, 0, 3]
    assert topk.ids.tolist() == [4, 2, 0, 5, 6]
    assert topk.rows().tolist() == [0, 0, 2, 2, 2]
    assert topk.ranks().tolist() == [1, 2, 1, 2, 3]
    assert topk.head(1).ids.tolist() == [4, 0]
    assert topk.head(1).lengths().tolist() == [1, 0, 1]


def test_topk_keep_never_brings_padding_back() -> None:
    topk = TopK.from_padded(torch.tensor([[4, -1]]), torch.tensor([[1.0, 2.0]]), torch.tensor([[True, True]]))
    assert topk.ids.tolist() == [4]


def test_topk_concat_is_in_order() -> None:
    one = TopK.from_padded(torch.tensor([[1, -1]]), torch.tensor([[1.0, 0.0]]))
    two = TopK.from_padded(torch.tensor([[2, 3]]), torch.tensor([[5.0, 4.0]]))
    both = TopK.concat([one, two])
    assert both.offsets.tolist() == [0, 1, 3]
    assert both.ids.tolist() == [1, 2, 3]
    assert both.scores.tolist() == [1.0, 5.0, 4.0]


def test_batch_counts_queries() -> None:
    assert len(Batch(torch.tensor([3, -1]), Ragged.from_lists([[1], [2, 3]]))) == 2
