"""Hits: compiled and plain forms agree, ties go against the positives, catalogue counts and keys in both forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xclass.data import id_hash
from xclass.metrics import CatalogueUse, coverage, matching
from xclass.types import Ragged, TopK, offsets_of

pytest.importorskip("numba", reason="numba is not installed: there is one form only")

queries = st.lists(
    st.tuples(
        st.permutations(range(9)).flatmap(lambda order: st.integers(0, 9).map(lambda n: list(order)[:n])),
        st.lists(st.integers(0, 3), min_size=9, max_size=9),
        st.lists(st.integers(0, 11), max_size=6),
    ),
    max_size=5,
)


def lists(rows: list) -> TopK:
    lengths = torch.tensor([len(row[0]) for row in rows], dtype=torch.int64)
    ids = torch.tensor([item for row in rows for item in row[0]], dtype=torch.int64)
    scores = [score for row in rows for score in sorted(row[1][: len(row[0])], reverse=True)]
    return TopK(offsets_of(lengths), ids, torch.tensor(scores, dtype=torch.float32))


@settings(max_examples=80, deadline=None)
@given(queries)
def test_both_forms_find_the_same(rows: list) -> None:
    found, truth = lists(rows), Ragged.from_lists([sorted(set(row[2])) for row in rows])
    if not len(truth.values) or not len(found.ids):
        return
    for mine, plain in zip(matching._compiled_hits(found, truth), matching._plain_hits(found, truth), strict=True):
        assert mine.tolist() == plain.tolist()


@settings(max_examples=80, deadline=None)
@given(queries)
def test_ranks_are_those_of_a_list_sorted_against_the_positives(rows: list) -> None:
    found, matches = lists(rows), matching.match(lists(rows), Ragged.from_lists([row[2] for row in rows]))
    wanted = []
    for number, row in enumerate(rows):
        low, high = int(found.offsets[number]), int(found.offsets[number + 1])
        pairs = zip(found.scores[low:high].tolist(), found.ids[low:high].tolist(), strict=True)
        ranked = sorted(pairs, key=lambda pair: (-pair[0], pair[1] in row[2]))
        wanted += [(number, rank, item) for rank, (_, item) in enumerate(ranked, 1) if item in row[2]]
    assert list(zip(matches.rows.tolist(), matches.ranks.tolist(), matches.items.tolist(), strict=True)) == wanted


def test_constant_scores_are_worth_the_worst_order() -> None:
    found = TopK(torch.tensor([0, 4]), torch.tensor([3, 1, 0, 2]), torch.zeros(4))
    assert matching.match(found, Ragged.from_lists([[3, 0]])).ranks.tolist() == [3, 4]


def test_a_slice_keeps_the_ranks() -> None:
    found = TopK(torch.tensor([0, 4]), torch.tensor([3, 1, 0, 2]), torch.arange(4, 0, -1).float())
    part = matching.match(found, Ragged.from_lists([[3, 0, 8]])).restrict(0, 3)
    assert (part.items.tolist(), part.ranks.tolist(), part.positives.tolist()) == ([0], [3], [1])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(0, 30), unique=True, max_size=8), max_size=12), st.integers(1, 4))
def test_both_forms_count_the_same(rows: list[list[int]], size: int) -> None:
    results = []
    for compiled in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(coverage, "compiles", lambda wanted=compiled: wanted)
            use = CatalogueUse([1, 3, 5])
            for start in range(0, len(rows), size):
                use.add(lists([(row, [0] * 9) for row in rows[start : start + size]]))
            results.append(use.result(31, torch.arange(20, 0, -1)))
    assert results[0] == pytest.approx(results[1], abs=1e-15, nan_ok=True)


def test_mean_popularity_by_hand() -> None:
    use = CatalogueUse([2])
    use.add(lists([([0, 5, 1], [3, 2, 1]), ([1], [1])]))
    assert use.result(9, torch.tensor([7, 4]))["mean_popularity@2"] == (7 + 0 + 4) / 3


numbers = st.one_of(st.integers(0, 40), st.integers(-(2**63), 2**63 - 1), st.integers(2**24 - 3, 2**24 + 3))


@settings(max_examples=80, deadline=None)
@given(st.lists(numbers, unique=True, max_size=20), st.lists(st.lists(numbers, max_size=12), max_size=4))
def test_keys_get_the_numbers_that_a_dictionary_gives(first: list[int], asked: list[list[int]]) -> None:
    for compiled in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(id_hash, "compiles", lambda wanted=compiled: wanted)
            patch.setattr(id_hash, "LEAST_SLOTS", 2)
            held, wanted = id_hash.KeyNumbers(np.array(first, dtype=np.int64)), {key: n for n, key in enumerate(first)}
            for part in asked:
                array = np.array(part, dtype=np.int64)
                assert held.of(array).tolist() == [wanted.get(key, -1) for key in part]
                for key in part:
                    wanted.setdefault(key, len(wanted))
                assert held.of(array, grow=True).tolist() == [wanted[key] for key in part]
                assert len(held) == len(wanted)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(-3, 6), max_size=9), max_size=5))
def test_the_first_of_each_stays(rows: list[list[int]]) -> None:
    offsets = np.cumsum([0, *map(len, rows)])
    ids = np.array([item for row in rows for item in row], dtype=np.int64)
    wanted = [item not in row[:place] for row in rows for place, item in enumerate(row)]
    for compiled in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(id_hash, "compiles", lambda wanted=compiled: wanted)
            keep = id_hash.first_of_each(offsets, ids)
        assert keep is None if all(wanted) else keep.tolist() == wanted
