"""Slow plain losses: one query, one positive, one exponential at a time, in Python floats."""

import math


def sampled_softmax(pos, neg, offsets, weights=None, positive=True, power=1.0):
    """For each query: weighted mean over its positives of log(e^pos + (sum e^neg)^power) - pos."""
    losses = []
    for query, row in enumerate(neg):
        total = weight_sum = 0.0
        for p in range(offsets[query], offsets[query + 1]):
            weight = 1.0 if weights is None else weights[p]
            z = (math.exp(pos[p]) if positive else 0.0) + sum(math.exp(logit) for logit in row) ** power
            total += weight * (math.log(z) - pos[p])
            weight_sum += weight
        losses.append(total / weight_sum if weight_sum else 0.0)
    return losses


def full_softmax(pos, scores, offsets, weights=None):
    """For each query: weighted mean over its positives of log(sum over all items e^score) - pos."""
    losses = []
    for query, row in enumerate(scores):
        z = sum(math.exp(score) for score in row)
        total = weight_sum = 0.0
        for p in range(offsets[query], offsets[query + 1]):
            weight = 1.0 if weights is None else weights[p]
            total += weight * (math.log(z) - pos[p])
            weight_sum += weight
        losses.append(total / weight_sum if weight_sum else 0.0)
    return losses
