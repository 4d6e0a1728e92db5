"""Pairs as arrays of integer codes, grouped by query: ordered, without duplicates, filtered by minimum counts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from xclass.progress import Progress

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
        """Keep ``rows`` (a mask or positions), one array after another so that only one is there twice."""
        for name in ("query", "item", "weight", "time", "part"):
            array = getattr(self, name)
            if array is not None:
                setattr(self, name, array[rows])


def offsets_by_query(query: np.ndarray, num_queries: int) -> np.ndarray:
    """int64 (num_queries + 1,), where each query's pairs begin once they are grouped."""
    offsets = np.zeros(num_queries + 1, dtype=np.int64)
    np.cumsum(np.bincount(query, minlength=num_queries), out=offsets[1:])
    return offsets


def group_by_query(pairs: Pairs) -> None:
    """Order by query; within a query by time where there are times, else as they came. Ties keep their order."""
    if not _is_rising(pairs.query):
        pairs.select(np.argsort(pairs.query, kind="stable"))
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


def stable_order(major: np.ndarray, minor: np.ndarray) -> np.ndarray:
    """Positions that sort by ``major``, then ``minor``, then place: ``np.lexsort((minor, major))``, faster.

    Integers whose ranges fit are packed with their position into one int64 each, and sorted as such.
    """
    if len(major) == 0 or minor.dtype.kind != "i":
        return np.lexsort((minor, major))
    low_major, low_minor = int(major.min()), int(minor.min())
    span = int(minor.max()) - low_minor + 1
    place_bits = (len(major) - 1).bit_length()
    if ((int(major.max()) - low_major + 1) * span) >> (62 - place_bits):
        return np.lexsort((minor, major))
    packed = (major.astype(np.int64) - low_major) * span
    packed += minor
    packed -= low_minor
    packed <<= place_bits
    packed |= np.arange(len(major))
    packed.sort()
    packed &= (1 << place_bits) - 1
    return packed


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
) -> MinCounts:
    """Drop items with fewer than ``min_item`` pairs and queries with fewer than ``min_query``, until nothing changes.

    The result is the largest set of queries and items that meets both minimums among its own pairs, whatever the order
    of dropping. Every code below ``num_queries`` and ``num_items`` counts, those without pairs too. Queries and items
    of the masks ``lasting`` stay whatever they have. O(pairs · rounds).

    >>> kept = filter_min_counts(np.array([0, 0, 1, 1, 2]), np.array([0, 1, 0, 1, 2]), 3, 3, 2, 2)
    >>> kept.queries.tolist(), kept.items.tolist(), kept.rounds
    ([True, True, False], [True, True, False], 1)
    """
    alive_q, alive_i = np.ones(num_queries, dtype=bool), np.ones(num_items, dtype=bool)
    always_q, always_i = lasting if lasting is not None else (~alive_q, ~alive_i)
    rounds = 0
    while True:
        staying_i = alive_i & ((np.bincount(item, minlength=num_items) >= min_item) | always_i)
        if not staying_i.all():
            query, item = _where(query, item, staying_i[item])
        staying_q = alive_q & ((np.bincount(query, minlength=num_queries) >= min_query) | always_q)
        if not staying_q.all():
            query, item = _where(query, item, staying_q[query])
        if (staying_i == alive_i).all() and (staying_q == alive_q).all():
            break
        alive_i, alive_q, rounds = staying_i, staying_q, rounds + 1
    return MinCounts(alive_q, alive_i, rounds, int((~alive_q).sum()), int((~alive_i).sum()))


def _where(query: np.ndarray, item: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return query[mask], item[mask]


def _is_rising(values: np.ndarray) -> bool:
    return all(
        (
            values[low + 1 : low + PAIRS_PER_BLOCK + 1] >= values[low : low + PAIRS_PER_BLOCK][: len(values) - low - 1]
        ).all()
        for low in range(0, len(values) - 1, PAIRS_PER_BLOCK)
    )
