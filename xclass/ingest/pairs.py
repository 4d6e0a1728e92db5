"""Pairs as arrays of integer codes, grouped by query: ordered, without duplicates, filtered by minimum counts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from xclass.data.features import stable_order
from xclass.data.npy_stream import VALUES_PER_BLOCK
from xclass.runtime.progress import Progress

PAIRS_PER_BLOCK = 1 << 18
TRAIN, VALID, TEST = 0, 1, 2
PART_CODES = {"train": TRAIN, "valid": VALID, "test": TEST}


@dataclass(slots=True)
class Pairs:
    """query, item: codes (n,); weight float32, time int64 or float64, part int8 (TRAIN, VALID, TEST): (n,) or None."""

    query: np.ndarray
    item: np.ndarray
    weight: np.ndarray | None = None
    time: np.ndarray | None = None
    part: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.query)

    def select(self, rows: np.ndarray) -> None:
        """Keep ``rows`` (a mask or positions), one array after another so that only one is there twice.

        By a mask, arrays on disk are closed up in their place.
        """
        for name in ("query", "item", "weight", "time", "part"):
            array = getattr(self, name)
            if array is not None:
                in_place = isinstance(array, np.memmap) and rows.dtype == np.bool_
                setattr(self, name, _closed_up(array, rows) if in_place else array[rows])


def _closed_up(array: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """What a mask keeps moved to the front of ``array``, block by block; the front of it."""
    length = 0
    for low, high in blocks_of(len(array)):
        kept = array[low:high][keep[low:high]]
        array[length : length + len(kept)] = kept
        length += len(kept)
    return array[:length]


def blocks_of(length: int, size: int = VALUES_PER_BLOCK) -> Iterator[tuple[int, int]]:
    """0 … length in ranges of ``size``."""
    for low in range(0, length, size):
        yield low, min(low + size, length)


def count_codes(codes: np.ndarray, size: int, chosen: np.ndarray | None = None) -> np.ndarray:
    """int64 (size,), how often each code comes up, among the pairs of the mask ``chosen`` if there is one.

    Block by block: ``np.bincount`` makes 8 bytes of every code first.

    >>> count_codes(np.array([2, 0, 2]), 4).tolist()
    [1, 0, 2, 0]
    """
    counts = np.zeros(size, dtype=np.int64)
    for low, high in blocks_of(len(codes), max(VALUES_PER_BLOCK, size)):
        block = codes[low:high] if chosen is None else codes[low:high][chosen[low:high]]
        counts += np.bincount(block, minlength=size)
    return counts


def offsets_by_query(query: np.ndarray, num_queries: int, chosen: np.ndarray | None = None) -> np.ndarray:
    """int64 (num_queries + 1,), where each query's pairs begin once they are grouped; of a mask of pairs."""
    offsets = np.zeros(num_queries + 1, dtype=np.int64)
    np.cumsum(count_codes(query, num_queries, chosen), out=offsets[1:])
    return offsets


def group_by_query(pairs: Pairs) -> None:
    """Order by query; within a query by time where there are times, else as they came. Ties keep their order."""
    if not _is_rising(pairs.query):
        pairs.select(np.argsort(pairs.query, kind="stable"))  # what comes from disk is in order
    if pairs.time is None:
        return
    for low, high in query_blocks(pairs.query, "order by time"):
        order = low + stable_order(pairs.query[low:high], pairs.time[low:high])
        for name in ("item", "weight", "time", "part"):
            array = getattr(pairs, name)
            if array is not None:
                array[low:high] = array[order]


def query_blocks(query: np.ndarray, label: str) -> Iterator[tuple[int, int]]:
    """Ranges of some hundred thousand grouped pairs that never cut a query in two, with progress."""
    low = 0
    with Progress(label, len(query), "pairs") as progress:
        while low < len(query):
            high = min(low + PAIRS_PER_BLOCK, len(query))
            high = int(np.searchsorted(query, query[high - 1], side="right"))
            yield low, high
            progress.advance(high - low)
            low = high


def merge_duplicates(pairs: Pairs) -> tuple[int, np.ndarray]:
    """Make every (query, item) of grouped pairs unique: the first stays, with the sum of the weights.

    Returns:
        The number of pairs that went, and the positions (before merging, two per find) of pairs that stand in two
        parts of a given split; those are for the caller to refuse.
    """
    keep = np.ones(len(pairs), dtype=bool)
    overlaps = []
    for low, high in query_blocks(pairs.query, "merge duplicates"):
        order = low + stable_order(pairs.query[low:high], pairs.item[low:high])
        query, item = pairs.query[order], pairs.item[order]
        again = np.flatnonzero((query[1:] == query[:-1]) & (item[1:] == item[:-1])) + 1
        if len(again) == 0:
            continue
        if pairs.part is not None:
            across = again[pairs.part[order[again]] != pairs.part[order[again - 1]]]
            overlaps.append(np.stack([order[across - 1], order[across]], axis=1))
        keep[order[again]] = False
        if pairs.weight is not None:
            starts = np.ones(len(order), dtype=bool)
            starts[again] = False
            totals = np.bincount(np.cumsum(starts) - 1, weights=pairs.weight[order])
            with np.errstate(over="ignore"):  # what is too large is refused later, by name
                pairs.weight[order[starts]] = totals
    merged = len(keep) - int(np.count_nonzero(keep))
    found = np.concatenate(overlaps) if overlaps else np.zeros((0, 2), dtype=np.int64)
    if merged and len(found) == 0:
        pairs.select(keep)
    return merged, found


@dataclass(frozen=True, slots=True)
class MinCounts:
    """What iterated filtering left: masks over codes, rounds that dropped something, and how many ids went."""

    queries: np.ndarray
    items: np.ndarray
    rounds: int
    dropped_queries: int
    dropped_items: int


def filter_min_counts(
    query: np.ndarray,
    item: np.ndarray,
    num_queries: int,
    num_items: int,
    min_query: int,
    min_item: int,
    lasting: tuple[np.ndarray, np.ndarray] | None = None,
    counted: np.ndarray | None = None,
) -> MinCounts:
    """Drop items with fewer than ``min_item`` pairs and queries with fewer than ``min_query``, until nothing changes.

    The result is the largest set of queries and items that meets both minimums among its own pairs, whatever the order
    of dropping. Every code below ``num_queries`` and ``num_items`` counts, those without pairs too. Queries and items
    of the masks ``lasting`` stay whatever they have. Only pairs of the mask ``counted`` count. O(pairs · rounds).

    >>> kept = filter_min_counts(np.array([0, 0, 1, 1, 2]), np.array([0, 1, 0, 1, 2]), 3, 3, 2, 2)
    >>> kept.queries.tolist(), kept.items.tolist(), kept.rounds
    ([True, True, False], [True, True, False], 1)
    """
    alive_q, alive_i = np.ones(num_queries, dtype=bool), np.ones(num_items, dtype=bool)
    always_q, always_i = lasting if lasting is not None else (~alive_q, ~alive_i)
    rounds = 0
    while min_query > 0 or min_item > 0:
        there = alive_pairs(query, item, alive_q, alive_i, counted) if rounds else counted
        staying_i = alive_i & ((count_codes(item, num_items, there) >= min_item) | always_i)
        there = alive_pairs(query, item, alive_q, staying_i, counted)
        staying_q = alive_q & ((count_codes(query, num_queries, there) >= min_query) | always_q)
        if (staying_i == alive_i).all() and (staying_q == alive_q).all():
            break
        alive_i, alive_q, rounds = staying_i, staying_q, rounds + 1
    return MinCounts(alive_q, alive_i, rounds, int((~alive_q).sum()), int((~alive_i).sum()))


def alive_pairs(
    query: np.ndarray, item: np.ndarray, queries: np.ndarray, items: np.ndarray, counted: np.ndarray | None = None
) -> np.ndarray:
    """Mask (n,) of the pairs whose query and item are in the masks of codes, among those of the mask ``counted``."""
    there = np.ones(len(query), dtype=bool) if counted is None else counted.copy()
    for low, high in blocks_of(len(query)):
        there[low:high] &= queries[query[low:high]] & items[item[low:high]]
    return there


def _is_rising(values: np.ndarray) -> bool:
    return all(
        (
            values[low + 1 : low + PAIRS_PER_BLOCK + 1] >= values[low : low + PAIRS_PER_BLOCK][: len(values) - low - 1]
        ).all()
        for low in range(0, len(values) - 1, PAIRS_PER_BLOCK)
    )
