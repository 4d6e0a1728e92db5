"""Ingest's rules once more, one row at a time in plain Python."""

from __future__ import annotations


def slow_min_counts(pairs: list[tuple[int, int]], min_query: int, min_item: int) -> list[tuple[int, int]]:
    """Remove one pair that breaks a minimum after another until none does."""
    left = list(pairs)
    while True:
        for pair in left:
            few_items = sum(query == pair[0] for query, _ in left) < min_query
            few_queries = sum(item == pair[1] for _, item in left) < min_item
            if few_items or few_queries:
                left.remove(pair)
                break
        else:
            return left


def slow_merge(rows: list[tuple[str, str, float, int]]) -> dict[tuple[str, str], tuple[float, int]]:
    """(query, item) → (sum of weights, first time)."""
    merged: dict[tuple[str, str], tuple[float, int]] = {}
    for query, item, weight, time in rows:
        if (query, item) in merged:
            before, first = merged[query, item]
            merged[query, item] = (before + weight, min(first, time))
        else:
            merged[query, item] = (weight, time)
    return merged


def slow_item_order(train: list[tuple[str, object]], everything: list[tuple[str, object]]) -> list[object]:
    """Items by falling number of train pairs, then by id; items outside train come last."""
    counts: dict[object, int] = {item: 0 for _, item in everything}
    for _, item in train:
        counts[item] += 1
    return sorted(counts, key=lambda item: (-counts[item], item))


def slow_time_split(times: list[int], test_fraction: float) -> list[int]:
    """0 or 2 for each time: 2 from the cut-off on."""
    count = int(len(times) * test_fraction + 0.5)
    if count == 0:
        return [0] * len(times)
    cut = sorted(times, reverse=True)[count - 1]
    return [2 if time >= cut else 0 for time in times]
