"""Weights of positives by their item: for labels that are missing, and for tail items.

Every weight multiplies the loss of the pairs of its item and is taken as it is: with weights of 1 the loss is what it
was. n_i is the item's number of train pairs.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from xclass.metrics import inverse_propensities

ItemWeights = Literal[
    "none", "propensity", "propensity-bound", "propensity-unbiased", "count-power", "effective-number"
]
PROPENSITIES = ("propensity", "propensity-bound", "propensity-unbiased")


def item_weights(
    kind: ItemWeights,
    item_counts: Tensor,
    num_queries: int,
    *,
    a: float = 0.55,
    b: float = 1.5,
    power: float = 0.5,
    beta: float = 0.999,
) -> Tensor:
    """float32 (N,) weight of a positive by its item.

    With the propensity p_i of Jain et al. 2016, eq. 6 (:func:`xclass.metrics.inverse_propensities`):

    propensity: 1/p_i, a pair stands for the 1/p_i true ones of which one was recorded (Jain et al. 2016, eq. 3);
    propensity-bound: 2/p_i − 1, the convex bound of the unbiased one-vs-all loss (Qaraei et al. 2021, "Convex
        surrogates for unbiased loss functions in extreme classification with missing labels", section 3);
    propensity-unbiased: 1/p_i, to be used as a target (the loss's joint form), see :func:`xclass.losses.nce_loss`;
    count-power: (n_mean / n_i)^power, where n_mean is the mean over items with a train pair;
    effective-number: (1 − β) / (1 − β^n_i), times what makes their mean over train pairs 1 (Cui et al. 2019, eq. 8).

    An item without a train pair is given the weight of one with a single pair: it is never a positive in training.

    Args:
        kind: all but "none".
        item_counts: (N,), train pairs of each item.
        num_queries: queries with a train pair.
        a, b: constants of the propensities.
        power: of count-power; 0 makes all weights 1.
        beta: of effective-number, in [0, 1); 0 makes all weights 1, towards 1 they become 1/n_i.

    Cost O(N), once.
    """
    if kind in PROPENSITIES:
        inverse = inverse_propensities(item_counts.clamp(min=1), num_queries, a, b)
        return (2.0 * inverse - 1.0 if kind == "propensity-bound" else inverse).float()
    counts = item_counts.double()
    seen = counts.clamp(min=1)
    if kind == "count-power":
        mean = float(counts.sum()) / max(int((counts > 0).sum()), 1)
        return (mean / seen).pow(power).float()
    effective = (1.0 - beta) / (1.0 - torch.pow(torch.tensor(beta, dtype=torch.float64), seen))
    return (effective * counts.sum() / (effective * counts).sum().clamp(min=1e-30)).float()
