"""The four splits: their defining properties, against slow versions, whatever the order of the rows."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference.datasets import ingest_text, lists, pairs
from reference.slow_ingest import slow_time_split

from xclass.data.features import stable_order
from xclass.ingest.pairs import TEST, TRAIN, VALID, Pairs, group_by_query
from xclass.ingest.splits import cut_valid, leave_last_split, random_split, time_split
from xclass.runtime.rng import numpy_generator


def grouped(counts: list[int]) -> Pairs:
    query = np.repeat(np.arange(len(counts)), counts)
    return Pairs(query, np.concatenate([np.arange(count) for count in counts] or [np.zeros(0, int)]).astype(np.int64))


def sizes(labels: np.ndarray, query: np.ndarray, label: int) -> list[int]:
    return np.bincount(query[labels == label], minlength=int(query.max()) + 1).tolist()


def test_random_split_sizes_of_every_query() -> None:
    split = grouped([1, 2, 3, 5, 10, 100])
    labels = random_split(split, test_fraction=0.2, valid_fraction=0.1, seed=0)
    # floor(c·.2 + .5) and floor(c·.1 + .5)
    assert sizes(labels, split.query, TEST) == [0, 0, 1, 1, 2, 20]
    assert sizes(labels, split.query, VALID) == [0, 0, 0, 1, 1, 10]


@given(st.lists(st.integers(1, 30), min_size=1, max_size=20), st.floats(0, 0.99), st.floats(0, 0.99), st.integers(0, 9))
def test_random_split_leaves_every_query_a_train_pair(counts: list[int], test: float, valid: float, seed: int) -> None:
    split = grouped(counts)
    labels = random_split(split, test, valid, seed)
    assert min(sizes(labels, split.query, TRAIN)) >= 1


def test_random_split_repeats_with_its_seed_only() -> None:
    split = grouped([10] * 50)
    first, again, other = (random_split(split, 0.3, 0.0, seed) for seed in (1, 1, 2))
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != other.tobytes()


def test_random_split_draws_every_pair_equally_often() -> None:
    split = grouped([5])
    drawn = np.mean([random_split(split, 0.4, 0.0, seed) == TEST for seed in range(4000)], axis=0)
    # a share of .4 over 4000 trials has a standard error of .0077
    np.testing.assert_allclose(drawn, 0.4, atol=5 * 0.0077)


def test_leave_last_keeps_the_first_in_train() -> None:
    split = grouped([1, 2, 3, 4])
    assert leave_last_split(split, valid=True).tolist() == [0, 0, 2, 0, 1, 2, 0, 0, 1, 2]
    assert leave_last_split(split, valid=False).tolist() == [0, 0, 2, 0, 0, 2, 0, 0, 0, 2]


@given(st.lists(st.integers(0, 20), min_size=2, max_size=40), st.floats(0.05, 0.6))
def test_time_split_against_the_slow_version(times: list[int], fraction: float) -> None:
    wanted = slow_time_split(times, fraction)
    if 0 not in wanted:
        return
    split = Pairs(np.zeros(len(times), int), np.arange(len(times)), time=np.array(times))
    labels, cuts = time_split(split, fraction, 0.0)
    assert labels.tolist() == wanted
    if TEST in labels:
        assert max(split.time[labels == TRAIN]) < cuts["test"] <= min(split.time[labels == TEST])  # type: ignore[index]


def test_time_split_with_valid_between() -> None:
    split = Pairs(np.zeros(10, int), np.arange(10), time=np.arange(10))
    labels, cuts = time_split(split, 0.2, 0.3)
    assert labels.tolist() == [0] * 5 + [1] * 3 + [2] * 2
    assert cuts == {"valid": 5, "test": 8}


def test_ties_at_the_cut_off_all_go_to_the_later_part() -> None:
    split = Pairs(np.zeros(6, int), np.arange(6), time=np.array([1, 2, 2, 2, 3, 3]))
    labels, cuts = time_split(split, 0.5, 0.0)
    assert labels.tolist() == [0, 2, 2, 2, 2, 2]
    assert cuts == {"test": 2}


def test_cut_valid_touches_train_only() -> None:
    split = grouped([8, 8])
    split.part = np.array([0] * 6 + [2] * 2 + [0] * 4 + [2] * 4, dtype=np.int8)
    labels = cut_valid(split, 0.5, seed=3)
    assert (labels[split.part == TEST] == TEST).all()
    assert sizes(labels, split.query, VALID) == [3, 2]
    assert split.part.tolist().count(VALID) == 0, "the input is unchanged"


@pytest.mark.parametrize("kind", ["int32", "int64", "float64"])
def test_stable_order_is_lexsort(kind: str) -> None:
    generator = numpy_generator(0, "test")
    for spread in (3, 1000, 2**40):
        major, minor = generator.integers(0, 5, 300), generator.integers(-spread, spread, 300)
        minor = np.minimum(minor, 2**31 - 1).astype(kind)
        np.testing.assert_array_equal(stable_order(major, minor), np.lexsort((minor, major)))
    assert stable_order(np.zeros(0, int), np.zeros(0, int)).tolist() == []


def test_group_by_query_is_stable_and_by_time() -> None:
    split = Pairs(np.array([1, 0, 1, 0, 1]), np.array([5, 6, 7, 8, 9]))
    group_by_query(split)
    assert split.item.tolist() == [6, 8, 5, 7, 9]
    timed = Pairs(np.array([1, 0, 1, 0, 1]), np.array([5, 6, 7, 8, 9]), time=np.array([3, 2, 3, 1, 0]))
    group_by_query(timed)
    assert (timed.item.tolist(), timed.time.tolist()) == ([8, 6, 9, 5, 7], [1, 2, 0, 3, 3])  # type: ignore[union-attr]


def table(seed: int | None) -> str:
    """200 rows with distinct pairs and distinct times, shuffled by ``seed``."""
    rows = [f"u{n % 17},i{n * 7 % 53},{n}" for n in range(200)]
    if seed is not None:
        rows = [rows[n] for n in numpy_generator(seed, "rows").permutation(200)]
    return "user,item,time\n" + "\n".join(rows) + "\n"


@pytest.mark.parametrize("split", ["random", "leave-last", "time"])
def test_the_order_of_rows_does_not_matter(tmp_path: Path, split: str) -> None:
    options = {"split": split, "valid_fraction": 0.1, "min_item_count": 2}
    options |= {} if split == "leave-last" else {"test_fraction": 0.2}
    straight = ingest_text(tmp_path / "1", "a.csv", table(None), **options)
    shuffled = ingest_text(tmp_path / "2", "a.csv", table(5), **options)
    assert straight.splits == shuffled.splits == ("train", "valid", "test")
    assert straight.fingerprint == shuffled.fingerprint


def test_leave_last_goes_by_time(tmp_path: Path) -> None:
    content = "user,item,time\na,late,30\na,early,10\na,mid,20\nb,only,5\n"
    dataset = ingest_text(tmp_path, "a.csv", content, split="leave-last", valid_fraction=0.1)
    assert pairs(dataset, "train") == [("a", "early"), ("b", "only")]
    assert pairs(dataset, "valid") == [("a", "mid")]
    assert pairs(dataset, "test") == [("a", "late")]


def test_auto_split_is_by_time_where_there_is_time(tmp_path: Path) -> None:
    timed = ingest_text(tmp_path / "1", "a.csv", table(1), test_fraction=0.25)
    assert timed.manifest["split"] == "time"
    assert timed.manifest["report"]["cut_offs"] == {"test": 150}
    assert timed.manifest["report"]["splits"]["train"]["last_time"] == 149
    untimed = ingest_text(tmp_path / "2", "a.csv", table(1), test_fraction=0.25, time_col="")
    assert untimed.manifest["split"] == "random"


def test_every_pair_is_in_exactly_one_part(tmp_path: Path) -> None:
    dataset = ingest_text(tmp_path, "a.csv", table(2), test_fraction=0.3, valid_fraction=0.2, time_col="")
    parts = [pair for split in dataset.splits for pair in pairs(dataset, split)]
    wanted = Counter(tuple(row.split(",")[:2]) for row in table(None).split("\n")[1:-1])
    assert Counter(parts) == Counter(wanted.keys())


def test_order_within_a_query_is_the_file_s(tmp_path: Path) -> None:
    dataset = ingest_text(tmp_path, "a.csv", "user,item\n1,9\n2,5\n1,3\n1,7\n2,1\n", split="random")
    assert lists(dataset) == {1: [9, 3, 7], 2: [5, 1]}
