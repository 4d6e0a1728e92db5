"""TensorFlow's two sampled losses."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from xclass.compat.drawing import Sampled
from xclass.compat.logits import Options, logits_of, operands
from xclass.compat.shards import STRATEGIES, Table
from xclass.errors import InputError


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
) -> Tensor:
    """Noise-contrastive estimation: the sum of sigmoid cross-entropies of true and sampled classes.

    loss_b = Σ_t [softplus(x_bt) − x_bt / num_true] + Σ_s softplus(x_bs), with the logits x of
    :func:`compute_sampled_logits`. A sum, not a mean; a true class has the target 1/num_true.

    Arguments are those of :func:`compute_sampled_logits`; ``name`` and what comes before it are ``tf.nn.nce_loss``'s,
    in its order. Without ``subtract_log_q`` it is negative sampling; with ``remove_accidental_hits`` sampled logistic.

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
    options = Options(subtract_log_q, partition_strategy, sparse_grad, seed, name)
    with torch.profiler.record_function(name):
        sizes = (num_sampled, num_classes, num_true)
        parts = operands(weights, biases, labels, inputs, sizes, sampled_values, options)
        true, sampled = logits_of(parts, remove_accidental_hits)
        loss = (functional.softplus(true) - true / num_true).sum(1) + functional.softplus(sampled).sum(1)
        return loss.to(inputs.dtype)


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
) -> Tensor:
    """Cross-entropy over true and sampled classes together.

    loss_b = log(Σ_t e^{x_bt} + Σ_s e^{x_bs}) − (1/num_true) Σ_t x_bt, with the logits x of
    :func:`compute_sampled_logits`. All true classes stand in one denominator: the least loss is log(num_true).

    Arguments are those of :func:`compute_sampled_logits`; ``name`` and what comes before it are
    ``tf.nn.sampled_softmax_loss``'s, in its order.

    Returns:
        [batch_size] in the dtype of ``inputs``.

    Source: Jean et al. 2015, eq. 7 to 9; TensorFlow 2.21.
    """
    options = Options(subtract_log_q, partition_strategy, sparse_grad, seed, name)
    with torch.profiler.record_function(name):
        sizes = (num_sampled, num_classes, num_true)
        parts = operands(weights, biases, labels, inputs, sizes, sampled_values, options)
        true, sampled = logits_of(parts, remove_accidental_hits)
        return (torch.cat([true, sampled], 1).logsumexp(1) - true.mean(1)).to(inputs.dtype)
