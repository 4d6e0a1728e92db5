"""Losses: pure functions of logits. They know no ids, no model and no sampler.

    loss(pos_logits (P,), neg_logits (B, K), offsets (B+1,), weights (P,) | None) -> (B,)

``pos_logits[offsets[b]:offsets[b+1]]`` are the positives of query b. Logits are scores with the temperature and the
log-Q already in them. A query without positives has loss 0. Masked negatives hold ``mask_value(dtype)``, never −inf.

Each name stands for a :class:`Loss`: the plain function (for autograd) and the same in two halves, a pass over the
negatives of a block of queries and what comes after it, which give loss and gradient while the block is in cache.
"""

from xclass.losses.config import LOSSES, LossConfig, build_loss
from xclass.losses.interface import Loss, mask_value
from xclass.losses.item_weights import item_weights
from xclass.losses.logistic import (
    bpr_loss,
    full_sigmoid_loss,
    gbce_power,
    nce_loss,
    negative_sampling_loss,
    sampled_logistic_loss,
)
from xclass.losses.rows import one_pass
from xclass.losses.softmax import effective_size, full_softmax_loss, importance_loss, sampled_softmax_loss

__all__ = [
    "LOSSES",
    "Loss",
    "LossConfig",
    "bpr_loss",
    "build_loss",
    "effective_size",
    "full_sigmoid_loss",
    "full_softmax_loss",
    "gbce_power",
    "importance_loss",
    "item_weights",
    "mask_value",
    "nce_loss",
    "negative_sampling_loss",
    "one_pass",
    "sampled_logistic_loss",
    "sampled_softmax_loss",
]
