"""TensorFlow's two sampled losses."""

from __future__ import annotations

import torch
from torch import Tensor

from xclass.compat.drawing import Sampled
from xclass.compat.logits import Operands, Options, operands
from xclass.compat.shards import STRATEGIES, Table
from xclass.errors import InputError
from xclass.losses import Loss, LossConfig, build_loss
from xclass.losses.fused.accidental_hits import Hits, find_hits
from xclass.losses.fused.sampled_loss import Scoring, blocked_loss

JOINT_NCE = build_loss(LossConfig(kind="nce", positives="joint"), 1, 2)
JOINT_SOFTMAX = build_loss(LossConfig(kind="sampled-softmax", positives="joint"), 1, 2)


def nce_loss(
    weights: Table,
    biases: Table | None,
    labels: Tensor,
    inputs: Tensor,
    num_sampled: int,
    num_classes: int,
    num_true: int = 1,
    sampled_values: Sampled | None = None,
    remove_accidental_hits: bool = False,
    name: str = "nce_loss",
    *,
    partition_strategy: str = "div",
    subtract_log_q: bool = True,
    seed: int | torch.Generator | None = None,
    sparse_grad: bool = False,
    product_dtype: torch.dtype | None = None,
) -> Tensor:
    """Noise-contrastive estimation: the sum of sigmoid cross-entropies of true and sampled classes.

    loss_b = Σ_t [softplus(x_bt) − x_bt / num_true] + Σ_s softplus(x_bs), with the logits x of
    :func:`compute_sampled_logits`. A sum, not a mean; a true class has the target 1/num_true.

    Arguments are those of :func:`compute_sampled_logits`; ``name`` and what comes before it are ``tf.nn.nce_loss``'s,
    in its order. Without ``subtract_log_q`` it is negative sampling; with ``remove_accidental_hits`` sampled logistic.

    ``product_dtype=torch.bfloat16`` takes the large products in bfloat16: faster, the logits rounded to 8 bits.

    Returns:
        [batch_size] in the dtype of ``inputs``.

    Source: Gutmann & Hyvärinen 2010; TensorFlow 2.21.
    """
    if name in STRATEGIES:
        raise InputError(
            f'"{name}" came as name',
            where="nce_loss",
            do=f'tf.compat.v1 has partition_strategy there; pass partition_strategy="{name}" by name',
        )
    options = Options(subtract_log_q, partition_strategy, sparse_grad, seed, name, product_dtype)
    with torch.profiler.record_function(name):
        sizes = (num_sampled, num_classes, num_true)
        parts = operands(weights, biases, labels, inputs, sizes, sampled_values, options)
        return _loss(JOINT_NCE, parts, remove_accidental_hits, product_dtype).to(inputs.dtype)


def sampled_softmax_loss(
    weights: Table,
    biases: Table | None,
    labels: Tensor,
    inputs: Tensor,
    num_sampled: int,
    num_classes: int,
    num_true: int = 1,
    sampled_values: Sampled | None = None,
    remove_accidental_hits: bool = True,
    seed: int | torch.Generator | None = None,
    name: str = "sampled_softmax_loss",
    *,
    partition_strategy: str = "div",
    subtract_log_q: bool = True,
    sparse_grad: bool = False,
    product_dtype: torch.dtype | None = None,
) -> Tensor:
    """Cross-entropy over true and sampled classes together.

    loss_b = log(Σ_t e^{x_bt} + Σ_s e^{x_bs}) − (1/num_true) Σ_t x_bt, with the logits x of
    :func:`compute_sampled_logits`. All true classes stand in one denominator: the least loss is log(num_true).

    Arguments are those of :func:`compute_sampled_logits`; ``name`` and what comes before it are
    ``tf.nn.sampled_softmax_loss``'s, in its order.

    ``product_dtype=torch.bfloat16`` takes the large products in bfloat16: faster, the logits rounded to 8 bits.

    Returns:
        [batch_size] in the dtype of ``inputs``.

    Source: Jean et al. 2015, eq. 7 to 9; TensorFlow 2.21.
    """
    options = Options(subtract_log_q, partition_strategy, sparse_grad, seed, name, product_dtype)
    with torch.profiler.record_function(name):
        sizes = (num_sampled, num_classes, num_true)
        parts = operands(weights, biases, labels, inputs, sizes, sampled_values, options)
        return _loss(JOINT_SOFTMAX, parts, remove_accidental_hits, product_dtype).to(inputs.dtype)


def _loss(loss: Loss, parts: Operands, remove_accidental_hits: bool, product_dtype: torch.dtype | None) -> Tensor:
    """(B,) through the one-pass kernel: no logits of batch × num_sampled are kept."""
    none = parts.positives.offsets[:0]
    hits = find_hits(parts.positives, parts.negatives.ids) if remove_accidental_hits else Hits(none, none)
    scoring = Scoring(
        parts.positives, parts.negatives, hits, loss, log_q_of="both", product_dtype=product_dtype or parts.query.dtype
    )
    return blocked_loss(parts.query, parts.rows, parts.true_places, parts.sampled_places, scoring)
