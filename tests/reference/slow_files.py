"""Two files' rows evaluated with dictionaries and loops, from the stated policies."""

from __future__ import annotations

import math
from collections import Counter

from tests.reference import slow_metrics


def lists_of(rows: list[tuple[str, str, float]]) -> dict[str, list[tuple[str, float]]]:
    """(query, item, score) rows → each query's items with their scores, best first, repeats left out."""
    found: dict[str, list[tuple[str, float]]] = {}
    for query, item, score in sorted(rows, key=lambda row: -row[2]):
        if item not in [other for other, _ in found.setdefault(query, [])]:
            found[query].append((item, score))
    return found


def against_the_positives(ranked: list[tuple[str, float]], positives: set[str]) -> list[str]:
    """The items; among equal scores the positives last."""
    return [item for item, _ in sorted(ranked, key=lambda pair: (-pair[1], pair[0] in positives))]


def means(
    rows: list[tuple[str, str, float]], truth: list[tuple[str, str]], names: list[str], cut_offs: list[int]
) -> dict[str, float]:
    """name@k → mean over the queries of the truth."""
    positives: dict[str, set[str]] = {}
    for query, item in truth:
        positives.setdefault(query, set()).add(item)
    found = lists_of(rows)
    ranked = {query: against_the_positives(found.get(query, []), positives[query]) for query in positives}
    return {
        f"{name}@{k}": math.fsum(slow_metrics.PLAIN[name](ranked[query], positives[query], k) for query in positives)
        / len(positives)
        for name in names
        for k in cut_offs
    }


def catalogue(lists: list[list[str]], num_items: int, k: int) -> dict[str, float]:
    """Coverage, Gini (mean difference) and identical lists of whole lists in the order given."""
    times = Counter(item for ranked in lists for item in ranked[:k])
    counts = [*times.values(), *[0] * (num_items - len(times))]
    total = sum(counts)
    heads = Counter(tuple(ranked[:k]) for ranked in lists if ranked)
    return {
        f"coverage@{k}": len(times) / num_items,
        f"gini@{k}": sum(abs(a - b) for a in counts for b in counts) / (2 * num_items * total) if total else math.nan,
        f"identical_lists@{k}": max(heads.values()) / sum(heads.values()) if heads else math.nan,
    }
