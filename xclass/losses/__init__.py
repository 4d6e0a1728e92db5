"""Losses: pure functions of logits. They know no ids, no model and no sampler.

    loss(pos_logits (P,), neg_logits (B, K), offsets (B+1,), weights (P,) | None) -> (B,)

``pos_logits[offsets[b]:offsets[b+1]]`` are the positives of query b. Logits are scores with the temperature and the
log-Q already in them. A query without positives has loss 0. Masked negatives hold ``mask_value(dtype)``, never −inf.

Each name stands for a :class:`Loss`: the plain function (for autograd) and the same with its gradient written out,
which computes both in one pass over a block that stays in cache.
"""

from xclass.losses.seam import Loss, mask_value
from xclass.losses.softmax import (
    full_softmax_block,
    full_softmax_loss,
    sampled_softmax_block,
    sampled_softmax_loss,
)

LOSSES: dict[str, Loss] = {
    "sampled-softmax": Loss(sampled_softmax_loss, sampled_softmax_block),
    "full-softmax": Loss(full_softmax_loss, full_softmax_block),
}

__all__ = ["LOSSES", "Loss", "full_softmax_loss", "mask_value", "sampled_softmax_loss"]
