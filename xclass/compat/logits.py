"""What the two losses share: candidates, the rows they need, log-Q, and the logits themselves."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from xclass.compat.checks import check_count, check_seed, class_ids, logs_of_counts, true_matrix
from xclass.compat.drawing import Sampled
from xclass.compat.hits import FLT_MAX
from xclass.compat.samplers import log_uniform_candidate_sampler
from xclass.compat.shards import Table, gather, table_rows
from xclass.errors import InputError
from xclass.losses.fused.accidental_hits import find_hits
from xclass.types import Negatives, Ragged

# Up to so many logits a call computes in float64, where that costs next to nothing; larger ones in float32.
FLOAT64_LOGITS = 1 << 18


class Operands(NamedTuple):
    """What the logits are made of, in the dtype they are computed in.

    A bias is the last column of its row; ``query`` then ends in a 1.

    query: (B, D[+1]). rows: (U, D[+1]) of the distinct classes of the call.
    positives: Ragged (B) of the true classes, num_true each. true_places: (B·T,) which of the rows.
    negatives: the candidates with log-Q, zeros where it is not subtracted. sampled_places: (S,).
    """

    query: Tensor
    rows: Tensor
    positives: Ragged
    true_places: Tensor
    negatives: Negatives
    sampled_places: Tensor


class Options(NamedTuple):
    """Arguments that say how, not what."""

    subtract_log_q: bool
    partition_strategy: str
    sparse_grad: bool
    seed: int | torch.Generator | None
    where: str
    product_dtype: torch.dtype | None = None


def operands(
    weights: Table,
    biases: Table | None,
    labels: Tensor,
    inputs: Tensor,
    sizes: tuple[int, int, int],
    sampled_values: Sampled | None,
    options: Options,
) -> Operands:
    """Everything checked, drawn and gathered. ``sizes`` are num_sampled, num_classes and num_true.

    Each distinct row is read once, so that a table's gradient has every row once, summed in the dtype of the products.
    """
    num_sampled, num_classes, num_true = sizes
    where = options.where
    check_count("num_sampled", num_sampled, where)
    check_count("num_classes", num_classes, where)
    check_seed(options.seed, where)
    check_inputs(inputs, where)
    true_classes = true_matrix("labels", labels, num_true, num_classes, where).to(inputs.device)
    if len(true_classes) != len(inputs):
        raise InputError("labels and inputs differ in length", where=where, wanted=len(inputs), got=len(true_classes))
    sampled, true_count, sampled_count = _candidates(true_classes, sizes, sampled_values, options)
    dtype = working_dtype(inputs, len(inputs) * (num_true + num_sampled), options.product_dtype)
    flat = true_classes.reshape(-1)
    ids, places = torch.cat([flat, sampled]).unique(return_inverse=True)
    query, rows = _rows(weights, biases, inputs, ids, dtype, num_classes, options)
    true_log_q, sampled_log_q = query.new_zeros(true_classes.shape), query.new_zeros(num_sampled)
    if options.subtract_log_q:
        true_log_q = logs_of_counts("true_expected_count", true_count, true_log_q, where)
        sampled_log_q = logs_of_counts("sampled_expected_count", sampled_count, sampled_log_q, where)
    offsets = torch.arange(0, len(flat) + 1, num_true, device=flat.device)
    negatives = Negatives(sampled, sampled_log_q, true_log_q.reshape(-1))
    return Operands(query, rows, Ragged(offsets, flat), places[: len(flat)], negatives, places[len(flat) :])


def working_dtype(inputs: Tensor, num_logits: int, product_dtype: torch.dtype | None) -> torch.dtype:
    """float64 for few logits or float64 inputs, else float32 (half precision is only what comes in and goes out)."""
    few = num_logits <= FLOAT64_LOGITS and product_dtype is None
    return torch.float64 if few or inputs.dtype == torch.float64 else torch.float32


def check_inputs(inputs: Tensor, where: str) -> None:
    """InputError unless ``inputs`` is a floating matrix."""
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point() or inputs.dim() != 2:
        got = f"{inputs.dtype} {list(inputs.shape)}" if isinstance(inputs, Tensor) else type(inputs).__name__
        raise InputError(
            "inputs is of the wrong kind", where=where, wanted="a floating tensor [batch_size, dim]", got=got
        )


def _candidates(
    true_classes: Tensor, sizes: tuple[int, int, int], values: Sampled | None, options: Options
) -> tuple[Tensor, Tensor, Tensor]:
    num_sampled, num_classes, num_true = sizes
    if values is None:
        return log_uniform_candidate_sampler(
            true_classes, num_true, num_sampled, True, num_classes, options.seed, options.where
        )
    if not isinstance(values, tuple | list) or len(values) != 3 or not all(isinstance(v, Tensor) for v in values):
        raise InputError(
            "sampled_values is of the wrong kind",
            where=options.where,
            wanted="three tensors (sampled_candidates, true_expected_count, sampled_expected_count)",
            got=type(values).__name__,
        )
    sampled = class_ids("sampled_candidates", values[0], num_classes, options.where)
    if sampled.shape != (num_sampled,):
        raise InputError(
            "sampled_candidates and num_sampled differ",
            where=options.where,
            wanted=f"shape [{num_sampled}]",
            got=f"shape {list(sampled.shape)}",
        )
    return sampled.to(true_classes.device), values[1].to(true_classes.device), values[2].to(true_classes.device)


def _rows(
    weights: Table,
    biases: Table | None,
    inputs: Tensor,
    ids: Tensor,
    dtype: torch.dtype,
    num_classes: int,
    options: Options,
) -> tuple[Tensor, Tensor]:
    """(query, rows of distinct ids) in ``dtype``; the bias is one more column: it takes part in the same products."""
    strategy, where = options.partition_strategy, options.where
    shards = table_rows("weights", weights, num_classes, strategy, where)
    if shards[0].shape[1:] != inputs.shape[1:]:
        raise InputError(
            "weights and inputs differ in their dimension",
            where=where,
            wanted=f"weights [num_classes, {inputs.shape[1]}]",
            got=list(shards[0].shape),
        )
    rows = gather(shards, ids, strategy, options.sparse_grad).to(dtype)
    if biases is None:
        return inputs.to(dtype), rows
    shards = table_rows("biases", biases, num_classes, strategy, where)
    if shards[0].dim() != 1:
        raise InputError("biases has the wrong shape", where=where, wanted="[num_classes]", got=list(shards[0].shape))
    bias = gather(shards, ids, strategy, options.sparse_grad).to(dtype)
    ones = torch.ones(len(inputs), 1, dtype=dtype, device=inputs.device)
    return torch.cat([inputs.to(dtype), ones], 1), torch.cat([rows, bias.unsqueeze(1)], 1)


def compute_sampled_logits(
    weights: Table,
    biases: Table | None,
    labels: Tensor,
    inputs: Tensor,
    num_sampled: int,
    num_classes: int,
    num_true: int = 1,
    sampled_values: Sampled | None = None,
    subtract_log_q: bool = True,
    remove_accidental_hits: bool = False,
    partition_strategy: str = "mod",
    name: str | None = None,
    seed: int | torch.Generator | None = None,
    *,
    sparse_grad: bool = False,
) -> tuple[Tensor, Tensor]:
    """The logits of true and sampled classes, and their targets: what both losses are made of.

    logits[b, t] = inputs_b · weights[labels_bt] + biases[labels_bt] − log true_expected_count_bt, then
    logits[b, T+s] = inputs_b · weights[sampled_s] + biases[sampled_s] − log sampled_expected_count_s.

    Args:
        weights: [num_classes, dim], or a list of shards of it.
        biases: [num_classes], or a list of shards, or None for no bias.
        labels: integers [batch_size, num_true].
        inputs: [batch_size, dim].
        num_sampled: candidates, shared by the batch.
        num_classes: how many classes there are; rows beyond are never read.
        num_true: columns of ``labels``.
        sampled_values: (sampled_candidates, true_expected_count, sampled_expected_count) of a sampler; None draws with
            ``log_uniform_candidate_sampler(…, unique=True)``.
        subtract_log_q: without it the expected counts are not read.
        remove_accidental_hits: logits of candidates that are a true class of the row become the lowest float32 (or the
            lowest number of a half precision).
        partition_strategy: "mod" or "div", the rule of a list of shards. "mod" is this function's default in
            TensorFlow; the two losses have "div".
        name: stands in error messages and in a profiler's record.
        seed: of the default sampler. None follows torch's global generator; an int gives the same candidates at every
            call; a ``torch.Generator`` moves on.
        sparse_grad: gradients of weights and biases as sparse tensors of the rows read, each once.

    Returns:
        (logits, targets), both [batch_size, num_true + num_sampled] in the dtype of ``inputs``; targets are 1/num_true
        in the first num_true columns and 0 in the others.

    Raises:
        InputError: shapes, ids out of range, counts that are not finite and positive.

    Differentiable in weights, biases and inputs. Source: TensorFlow 2.21, ``_compute_sampled_logits``.
    """
    where = name or "compute_sampled_logits"
    options = Options(subtract_log_q, partition_strategy, sparse_grad, seed, where)
    with torch.profiler.record_function(where):
        sizes = (num_sampled, num_classes, num_true)
        parts = operands(weights, biases, labels, inputs, sizes, sampled_values, options)
        true = torch.einsum("bd,btd->bt", parts.query, parts.rows[parts.true_places].view(len(inputs), num_true, -1))
        sampled = parts.query @ parts.rows[parts.sampled_places].T - parts.negatives.log_q
        if remove_accidental_hits:
            hits = find_hits(parts.positives, parts.negatives.ids)
            sampled = sampled.index_put((hits.rows, hits.columns), sampled.new_tensor(-FLT_MAX))
        logits = torch.cat([true - parts.negatives.pos_log_q.view(true.shape), sampled], 1)
        if inputs.dtype.itemsize < 4:
            limits = torch.finfo(inputs.dtype)
            logits = logits.clamp(limits.min, limits.max)
        targets = torch.zeros_like(logits, dtype=inputs.dtype, requires_grad=False)
        targets[:, :num_true] = 1 / num_true
        return logits.to(inputs.dtype), targets
