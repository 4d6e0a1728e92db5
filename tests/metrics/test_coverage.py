"""Coverage, Gini, identical lists; the popularity baseline and the popularity bands."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xclass.errors import InputError
from xclass.metrics import CatalogueUse, gini, popular_topk, popularity_bands
from xclass.types import Ragged, TopK, offsets_of


def lists(rows: list[list[int]]) -> TopK:
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
    ids = torch.tensor([item for row in rows for item in row], dtype=torch.int64)
    return TopK(offsets_of(lengths), ids, torch.zeros(len(ids)))


def test_use_of_the_catalogue_by_hand() -> None:
    use = CatalogueUse([2])
    use.add(lists([[0, 1, 3], [1, 0]]))
    use.add(lists([[0, 1], []]))
    got = use.result(4)
    # shown in the first two: item 0 three times, item 1 three times; 2 and 3 never
    assert got["coverage@2"] == 2 / 4
    assert got["gini@2"] == pytest.approx((1 * 3 + 3 * 3) / (4 * 6))
    assert got["identical_lists@2"] == pytest.approx(2 / 3)  # 0 1, twice, of three lists that are not empty
    assert set(use.definitions()) == set(got)


def test_lists_that_differ_in_order_or_length_are_not_identical() -> None:
    use = CatalogueUse([3])
    use.add(lists([[0, 1, 2], [0, 2, 1], [0, 1], [2, 1, 0], [1, 0]]))
    assert use.result(5)["identical_lists@3"] == 1 / 5


def test_everybody_the_same() -> None:
    use = CatalogueUse([2])
    use.add(lists([[3, 5]] * 7))
    assert use.result(100) == pytest.approx({"coverage@2": 0.02, "gini@2": 0.98, "identical_lists@2": 1.0})


def test_no_lists_at_all() -> None:
    use = CatalogueUse([2])
    use.add(lists([[], []]))
    got = use.result(3)
    assert got["coverage@2"] == 0.0
    assert math.isnan(got["gini@2"])
    assert math.isnan(got["identical_lists@2"])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=12).filter(any))
def test_gini_is_half_the_relative_mean_difference(counts: list[int]) -> None:
    n = len(counts)
    wanted = sum(abs(a - b) for a in counts for b in counts) / (2 * n * sum(counts))
    assert gini(torch.tensor(counts)) == pytest.approx(wanted, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 8), st.lists(st.lists(st.integers(0, 9), max_size=14), max_size=5))
def test_popular_items_that_were_not_seen(k: int, seen: list[list[int]]) -> None:
    counts = torch.tensor([9, 9, 8, 7, 7, 7, 3, 1, 0, 0])
    got = popular_topk(Ragged.from_lists(seen), k, counts)
    wanted = [[item for item in range(10) if item not in set(row)][:k] for row in seen]
    assert Ragged(got.offsets, got.ids).to_lists() == wanted
    assert got.scores.tolist() == [float(counts[item]) for row in wanted for item in row]


def test_popular_items_need_falling_counts() -> None:
    with pytest.raises(InputError, match="fall with train count"):
        popular_topk(Ragged.from_lists([[]]), 2, torch.tensor([1, 2]))
    with pytest.raises(InputError, match="k is too small"):
        popular_topk(Ragged.from_lists([[]]), 0, torch.tensor([2, 1]))


def test_popularity_bands_by_hand() -> None:
    # 100 pairs: 40 | 80: the item that crosses 50 still belongs to the head; 15 more → 95 ≥ 80
    bands = popularity_bands(torch.tensor([40, 40, 15, 3, 2, 0]))
    assert [(band.name, band.first, band.end) for band in bands] == [
        ("head", 0, 2), ("torso", 2, 2), ("tail", 2, 5), ("cold", 5, 6),
    ]  # fmt: skip
    bands = popularity_bands(torch.tensor([50, 20, 10, 10, 5, 5]))
    assert [(band.first, band.end) for band in bands] == [(0, 1), (1, 3), (3, 6), (6, 6)]
    assert "50%" in bands[0].definition


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 1000), min_size=1, max_size=40))
def test_bands_cover_every_item_once(counts: list[int]) -> None:
    bands = popularity_bands(torch.tensor(sorted(counts, reverse=True)))
    assert [band.first for band in bands] == [0, bands[0].end, bands[1].end, bands[2].end]
    assert bands[-1].end == len(counts)


def test_positives_of_a_band() -> None:
    torso = popularity_bands(torch.tensor([50, 20, 10, 10, 5, 5]))[1]
    assert torso.restrict(Ragged.from_lists([[0, 1, 5], [3], [2, 1]])).to_lists() == [[1], [], [2, 1]]
