"""TensorFlow's answer to a :class:`comparison.cases.Case`."""

from __future__ import annotations

import os
import types
import warnings

import numpy as np
import pytest
from peers.cases import Case, cut, joined


def load() -> types.ModuleType:
    """TensorFlow, or the test is skipped."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("tensorflow", reason="TensorFlow is not installed: nothing to compare with")


def answer(case: Case) -> dict[str, np.ndarray]:
    """TensorFlow's loss and gradients, in the dtype of the case; duplicate rows of a gradient are added in float64."""
    tf = load()
    weights = [tf.constant(part) for part in cut(case.weights, case.weight_shards, case.strategy)]
    biases = [tf.constant(part) for part in cut(case.biases, case.bias_shards, case.strategy)]
    inputs = tf.constant(case.inputs)
    with tf.GradientTape() as tape:
        tape.watch([*weights, *biases, inputs])
        value = _loss(tf, case, weights, biases, inputs)
        total = tf.reduce_sum(value * case.upstream)
    found = tape.gradient(total, [*weights, *biases, inputs])
    tables = [_dense(gradient, table) for gradient, table in zip(found[:-1], [*weights, *biases], strict=True)]
    return {
        "value": value.numpy(),
        "weights": joined(tables[: len(weights)], case.strategy),
        "biases": joined(tables[len(weights) :], case.strategy),
        "inputs": found[-1].numpy(),
    }


def _loss(tf, case: Case, weights: list, biases: list, inputs):
    sizes = (len(case.sampled), len(case.weights), case.labels.shape[1])
    values = (case.sampled, case.true_count, case.sampled_count)
    rows = (weights if len(weights) > 1 else weights[0], biases if len(biases) > 1 else biases[0])
    if case.subtract_log_q:
        loss = getattr(tf.compat.v1.nn, case.loss)
        return loss(
            *rows, case.labels, inputs, *sizes, values, case.remove_accidental_hits, partition_strategy=case.strategy
        )
    logits, targets = sampled_logits(tf, case, *rows, inputs)
    if case.loss == "nce_loss":
        return tf.reduce_sum(tf.nn.sigmoid_cross_entropy_with_logits(labels=targets, logits=logits), 1)
    return tf.nn.softmax_cross_entropy_with_logits(labels=targets, logits=logits)


def sampled_logits(tf, case: Case, weights, biases, inputs):
    """The private helper behind both losses."""
    from tensorflow.python.ops import nn_impl

    return nn_impl._compute_sampled_logits(
        weights,
        biases,
        case.labels,
        inputs,
        len(case.sampled),
        len(case.weights),
        case.labels.shape[1],
        (case.sampled, case.true_count, case.sampled_count),
        case.subtract_log_q,
        case.remove_accidental_hits,
        case.strategy,
    )


def _dense(gradient, table) -> np.ndarray:
    whole = np.zeros(tuple(table.shape), np.float64)
    if gradient is None:  # a shard that no class was read from
        return whole
    if not hasattr(gradient, "indices"):
        return gradient.numpy().astype(np.float64)
    np.add.at(whole, gradient.indices.numpy(), gradient.values.numpy().astype(np.float64))
    return whole
