"""Run by napkinXC's own interpreter: reads cases from standard input, prints its metrics as JSON."""

from __future__ import annotations

import json
import sys

import numpy as np
from napkinxc import metrics


def measured(case: dict) -> dict[str, list[float]]:
    """Each metric at 1 … k."""
    counts, documents, k = np.array(case["counts"]), case["documents"], case["k"]
    a, b = case["a"], case["b"]
    # The published formula of 1/p, as its own function computes it from a matrix with these counts.
    weights = 1 + (np.log(documents) - 1) * (b + 1) ** a * (counts + b) ** -a
    labels = [[row for row in range(documents) if row < count] for count in case["counts"]]
    lists: list[list[int]] = [[] for _ in range(documents)]
    for label, rows in enumerate(labels):
        for row in rows:
            lists[row].append(label)
    theirs = metrics.Jain_et_al_inverse_propensity(lists, A=a, B=b)
    assert np.allclose(theirs, weights[: len(theirs)])
    truth, found = case["truth"], case["found"]
    return {
        "precision": metrics.precision_at_k(truth, found, k=k).tolist(),
        "recall": metrics.recall_at_k(truth, found, k=k).tolist(),
        "ndcg": metrics.ndcg_at_k(truth, found, k=k).tolist(),
        "psp": metrics.psprecision_at_k(truth, found, weights, k=k, normalize=True).tolist(),
        "psndcg": metrics.psndcg_at_k(truth, found, weights, k=k, normalize=True).tolist(),
    }


print(json.dumps([measured(case) for case in json.load(sys.stdin)]))
