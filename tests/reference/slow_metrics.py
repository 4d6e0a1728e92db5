"""Each metric as a loop over one query's list, written from its formula; no tensors, no shortcuts."""

from __future__ import annotations

import math


def recall(found: list[int], truth: set[int], k: int) -> float:
    return len([item for item in found[:k] if item in truth]) / len(truth)


def capped_recall(found: list[int], truth: set[int], k: int) -> float:
    return len([item for item in found[:k] if item in truth]) / min(k, len(truth))


def precision(found: list[int], truth: set[int], k: int) -> float:
    return len([item for item in found[:k] if item in truth]) / k


def hit_rate(found: list[int], truth: set[int], k: int) -> float:
    return float(any(item in truth for item in found[:k]))


def ndcg(found: list[int], truth: set[int], k: int) -> float:
    gained = sum(1 / math.log2(rank + 1) for rank, item in enumerate(found[:k], 1) if item in truth)
    return gained / sum(1 / math.log2(rank + 1) for rank in range(1, min(k, len(truth)) + 1))


def average_precision(found: list[int], truth: set[int], k: int) -> float:
    hits, total = 0, 0.0
    for rank, item in enumerate(found[:k], 1):
        if item in truth:
            hits += 1
            total += hits / rank
    return total / min(k, len(truth))


def reciprocal_rank(found: list[int], truth: set[int], k: int) -> float:
    for rank, item in enumerate(found[:k], 1):
        if item in truth:
            return 1 / rank
    return 0.0


def ps_precision(found: list[int], truth: set[int], k: int, weights: list[float]) -> float:
    return sum(weights[item] for item in found[:k] if item in truth) / k


def ps_ndcg(found: list[int], truth: set[int], k: int, weights: list[float]) -> float:
    gained = sum(weights[item] / math.log2(rank + 1) for rank, item in enumerate(found[:k], 1) if item in truth)
    return gained / sum(1 / math.log2(rank + 1) for rank in range(1, min(k, len(truth)) + 1))


def best_list(truth: set[int], weights: list[float]) -> list[int]:
    return sorted(truth, key=lambda item: -weights[item])


PLAIN = {
    "recall": recall,
    "capped_recall": capped_recall,
    "precision": precision,
    "hit_rate": hit_rate,
    "ndcg": ndcg,
    "map": average_precision,
    "mrr": reciprocal_rank,
}
WEIGHTED = {"psp": ps_precision, "psndcg": ps_ndcg}


def mean(
    name: str, k: int, found: list[list[int]], truth: list[list[int]], weights: list[float]
) -> tuple[float, int, int]:
    """The metric over all queries, how many were counted, how many skipped."""
    counted = [(list_, set(positives)) for list_, positives in zip(found, truth, strict=True) if positives]
    skipped = len(truth) - len(counted)
    if not counted:
        return math.nan, 0, skipped
    if name in PLAIN:
        values = [PLAIN[name](list_, positives, k) for list_, positives in counted]
        return sum(values) / len(values), len(counted), skipped
    gained = sum(WEIGHTED[name](list_, positives, k, weights) for list_, positives in counted)
    best = sum(WEIGHTED[name](best_list(positives, weights), positives, k, weights) for _, positives in counted)
    return gained / best, len(counted), skipped
