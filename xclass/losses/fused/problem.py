"""What the blocked loss reads and fills, in each of its forms: blocks of rows, blocks of columns, compiled loops."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from xclass.losses import Loss
from xclass.losses.fused.accidental_hits import Hits
from xclass.losses.fused.top_k_weights import TopWeights


class Problem(NamedTuple):
    """What the blocks read. R rows: queries, or pairs with one positive each.

    query: (R, D), divided by the temperature. items: (U, D). pos_rows: (P,). neg_rows: (K,) or (R, K).
    offsets: (R+1,). share: (P,) final weights. pos_log_q: (P,) or None when it is not subtracted.
    log_q: (K,), (R, K), or None when it is not subtracted; count_log_q: the same, always there.
    """

    query: Tensor
    items: Tensor
    pos_rows: Tensor
    neg_rows: Tensor
    offsets: Tensor
    share: Tensor
    pos_log_q: Tensor | None
    log_q: Tensor | None
    count_log_q: Tensor
    hits: Hits
    loss: Loss
    inverse_temperature: float
    product_dtype: torch.dtype
    top_weights: TopWeights | None


class Gradients(NamedTuple):
    """∂(Σ_r weight_r · loss_r): (R, D) for the rows' queries, (U, D) for the items."""

    query: Tensor
    items: Tensor


class Outputs(NamedTuple):
    """Filled row by row: (R,) loss; (P,) gradient of the positives' logits; (R, D) gradient of the queries times τ."""

    loss: Tensor
    pos_grad: Tensor
    query: Tensor


def outputs(problem: Problem) -> Outputs:
    """Not filled."""
    query = problem.query
    return Outputs(query.new_empty(len(query)), query.new_empty(len(problem.pos_rows)), torch.empty_like(query))
