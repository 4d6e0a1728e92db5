"""How pairs are divided into train, valid and test.

Every function takes pairs grouped by query (within a query in the order of time, else of the file) and returns one
int8 label per pair: 0 train, 1 valid, 2 test.
"""

from __future__ import annotations

import numpy as np

from xclass.data.features import stable_order
from xclass.errors import DataError
from xclass.ingest.pairs import TEST, TRAIN, VALID, Pairs, blocks_of, query_blocks
from xclass.runtime.rng import numpy_generator

LOTTERY = 1 << 24
FREE = -1  # label of a pair that is still to be divided


def random_split(
    pairs: Pairs, test_fraction: float, valid_fraction: float, seed: int, labels: np.ndarray | None = None
) -> np.ndarray:
    """A share of every query's pairs, drawn at random; a query keeps at least one pair in train.

    Of c pairs, ⌊c·test_fraction + ½⌋ go to test and ⌊c·valid_fraction + ½⌋ to valid, fewer where that would leave no
    train pair (valid gives way first). Which ones depends on the seed and the ids, not on the order of the rows.

        row  query  item        test .4, valid 0, seed 1
         0     a     0          test
         1     a     1          train
         2     a     2          train
         3     a     3          test
         4     a     4          train
         5     b     3          train

    >>> pairs = Pairs(query=np.array([0, 0, 0, 0, 0, 1]), item=np.array([0, 1, 2, 3, 4, 3]))
    >>> labels = random_split(pairs, test_fraction=0.4, valid_fraction=0, seed=1)
    >>> np.flatnonzero(labels == TRAIN).tolist(), np.flatnonzero(labels == TEST).tolist()
    ([1, 2, 4, 5], [0, 3])

    With ``labels``, int8 (n,), only the pairs labelled ``FREE`` are divided and the others keep their label: of a
    query's c pairs together as many are in test and valid as above, as far as its free pairs reach.

    >>> random_split(pairs, 0.4, 0, seed=1, labels=np.array([2, 0, 0, FREE, FREE, FREE], dtype=np.int8)).tolist()
    [2, 0, 0, 2, 0, 0]
    """
    some = labels is not None
    labels = labels.copy() if labels is not None else np.full(len(pairs), FREE, dtype=np.int8)
    generator = numpy_generator(seed, "split")
    for low, high in query_blocks(pairs.query, "split"):
        query, item, block = pairs.query[low:high], pairs.item[low:high], labels[low:high]
        order = stable_order(query, item)
        lottery = generator.integers(LOTTERY, size=high - low) + LOTTERY * (block[order] != FREE)
        order = order[stable_order(query, lottery)]  # of each query its free pairs first, drawn by lot
        rank, count = _ranks(query)
        in_train, in_valid, in_test = (_per_query(query, block == part) if some else 0 for part in (TRAIN, VALID, TEST))
        most = np.maximum(count - in_train - in_valid - in_test - (in_train == 0), 0)
        num_test = np.clip(np.floor(count * test_fraction + 0.5) - in_test, 0, most)
        num_valid = np.clip(np.floor(count * valid_fraction + 0.5) - in_valid, 0, most - num_test)
        drawn = np.select([rank < num_test, rank < num_test + num_valid], [TEST, VALID], TRAIN)
        block[order] = np.where(block[order] == FREE, drawn, block[order]) if some else drawn
    return labels


def leave_last_split(pairs: Pairs, valid: bool) -> np.ndarray:
    """The last pair of every query goes to test, with ``valid`` the one before to valid; one stays in train.

    With times the last is the latest; rows of the same time keep the order of the file.

        row  query  item        with valid
         0     a     0          train
         1     a     1          valid
         2     a     2          test
         3     b     0          train
         4     b     3          test
         5     c     1          train

    >>> pairs = Pairs(query=np.array([0, 0, 0, 1, 1, 2]), item=np.array([0, 1, 2, 0, 3, 1]))
    >>> leave_last_split(pairs, valid=True).tolist()
    [0, 1, 2, 0, 2, 0]
    """
    labels = np.zeros(len(pairs), dtype=np.int8)
    for low, high in query_blocks(pairs.query, "split"):
        rank, count = _ranks(pairs.query[low:high])
        left = count - rank
        last, before = (left == 1) & (count > 1), (left == 2) & (count > 2) & valid
        labels[low:high] = np.select([last, before], [TEST, VALID], TRAIN)
    return labels


def time_split(pairs: Pairs, test_fraction: float, valid_fraction: float) -> tuple[np.ndarray, dict[str, float | int]]:
    """One cut through time for everybody: what happened at or after the cut-off is test, before it train.

    The cut-offs are quantiles of all times: test gets the latest ⌊n·test_fraction + ½⌋ of n pairs, and every other
    pair of the same moment; valid the share before it, in the same way. So no train pair is as late as any
    valid or test pair.

        row  query  item  time        test .34, valid 0: 2 of 6 pairs, cut-off 30
         0     a     0     10         train
         1     a     1     30         test
         2     b     0     20         train
         3     b     2     30         test
         4     b     3     40         test
         5     c     1     20         train

    >>> times = np.array([10, 30, 20, 30, 40, 20])
    >>> pairs = Pairs(np.array([0, 0, 1, 1, 1, 2]), np.array([0, 1, 0, 2, 3, 1]), time=times)
    >>> labels, cuts = time_split(pairs, test_fraction=0.34, valid_fraction=0)
    >>> np.flatnonzero(labels == TRAIN).tolist(), np.flatnonzero(labels == TEST).tolist(), cuts
    ([0, 2, 5], [1, 3, 4], {'test': 30})

    Returns:
        labels (n,), and the cut-off of each part that was cut: its pairs are at or after it.

    Raises:
        DataError: no pair is left before the cut-off.
    """
    assert pairs.time is not None
    labels = np.zeros(len(pairs), dtype=np.int8)
    cuts: dict[str, float | int] = {}
    num_test = int(len(pairs) * test_fraction + 0.5)
    num_valid = int(len(pairs) * valid_fraction + 0.5)
    for name, label, count in (("valid", VALID, num_test + num_valid), ("test", TEST, num_test)):
        if count == 0 or (label == VALID and num_valid == 0):
            continue
        cuts[name] = nth_smallest(pairs.time, len(pairs) - count)
        for low, high in blocks_of(len(pairs)):
            labels[low:high][pairs.time[low:high] >= cuts[name]] = label
    if not (labels == TRAIN).any():
        raise DataError(
            "a split by time leaves no train pair",
            wanted=f"pairs before {min(cuts.values())}",
            got=f"times from {pairs.time.min()} to {pairs.time.max()}",
            do="lower the test and valid fractions, or pass --split random",
        )
    return labels, cuts


def nth_smallest(values: np.ndarray, n: int) -> float | int:
    """``np.sort(values)[n]`` of int64 or float64, in four passes over blocks, in the memory of one.

    The values as unsigned integers of the same order, 16 bits after 16 bits: a pass counts what shares the bits so far.

    >>> nth_smallest(np.array([3, -7, 5, 3]), 2), nth_smallest(np.array([0.5, -2.5]), 0)
    (3, -2.5)
    """
    prefix = np.uint64(0)
    for shift in (48, 32, 16, 0):
        counts = np.zeros(1 << 16, dtype=np.int64)
        for low, high in blocks_of(len(values)):
            digits = _ordered_bits(values[low:high]) >> np.uint64(shift)
            same = digits if shift == 48 else digits[digits >> np.uint64(16) == prefix]
            counts += np.bincount((same & np.uint64(0xFFFF)).astype(np.int64), minlength=1 << 16)
        below = np.cumsum(counts)
        digit = int(np.searchsorted(below, n, side="right"))
        n -= int(below[digit - 1]) if digit else 0
        prefix = prefix << np.uint64(16) | np.uint64(digit)
    top = np.uint64(1 << 63)
    if values.dtype.kind == "i":
        return int((prefix ^ top).view(np.int64))
    return float((prefix ^ top if prefix & top else ~prefix).view(np.float64))


def _ordered_bits(values: np.ndarray) -> np.ndarray:
    """uint64 that rise as the values do: integers by their sign bit; of negative floats all bits are turned."""
    bits, top = np.ascontiguousarray(values).view(np.uint64), np.uint64(1 << 63)
    if values.dtype.kind == "i":
        return bits ^ top
    return np.where(bits & top != 0, ~bits, bits ^ top)


def cut_valid(pairs: Pairs, valid_fraction: float, seed: int) -> np.ndarray:
    """A given split's labels with a random share of every query's train pairs moved to valid.

    As in :func:`random_split`, a query keeps at least one train pair, and the order of rows doesn't matter.

        row  query  part        valid .5, seed 0
         0     a    train       valid
         1     a    train       train
         2     a    test        test
         3     b    train       train

    >>> pairs = Pairs(np.array([0, 0, 0, 1]), np.array([0, 1, 2, 0]), part=np.array([0, 0, 2, 0], dtype=np.int8))
    >>> cut_valid(pairs, valid_fraction=0.5, seed=0).tolist()
    [1, 0, 2, 0]
    """
    assert pairs.part is not None
    labels = pairs.part.copy()
    train = np.flatnonzero(labels == TRAIN)
    drawn = random_split(Pairs(pairs.query[train], pairs.item[train]), 0.0, valid_fraction, seed)
    labels[train] = drawn
    return labels


def _ranks(query: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of grouped pairs: each pair's place within its query (from 0), and its query's number of pairs."""
    starts = np.flatnonzero(np.concatenate([[True], query[1:] != query[:-1]]))
    count = np.diff(np.append(starts, len(query)))
    return np.arange(len(query)) - np.repeat(starts, count), np.repeat(count, count)


def _per_query(query: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Of grouped pairs: at each pair, how many of its query's pairs are chosen."""
    starts = np.flatnonzero(np.concatenate([[True], query[1:] != query[:-1]]))
    return np.repeat(np.add.reduceat(chosen, starts, dtype=np.int64), np.diff(np.append(starts, len(query))))
