"""The two losses beside TensorFlow: values and all gradients of random problems.

XCLASS_COMPARISON_CASES=10000 runs ten thousand of them.
"""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pytest
import torch
from peers import cases
from peers import tensorflow_side as theirs

from xclass.compat import tf as ours
from xclass.runtime.rng import numpy_generator

tf = theirs.load()
CASES = int(os.environ.get("XCLASS_COMPARISON_CASES", "300"))
BAR = 1e-6  # of the largest magnitude in the tensor compared


def failures(case: cases.Case, sparse_grad: bool = False) -> list[str]:
    """What differs by more than the bar.

    Where TensorFlow's own rounding exceeds the bar (its float32 answer against its float64 answer), ours must be nearer
    to the float64 answer than TensorFlow's float32 is. (A gradient below 1e-9 is rounding; the true one is then 0.)
    """
    mine, reference = cases.answer(case, sparse_grad), theirs.answer(case)
    wrong = []
    for name, value in mine.items():
        if cases.distance(value, reference[name]) > BAR:
            exact = theirs.answer(case.astype(np.float64))[name]
            own, rounding = (cases.distance(found, exact, floor=1e-9) for found in (value, reference[name]))
            if own > BAR or own > rounding:
                wrong.append(f"{case.loss} {name}: {cases.distance(value, reference[name]):.2e}")
    return wrong


@pytest.mark.parametrize("part", range(10))
def test_random_cases(part: int) -> None:
    numbers = range(part, CASES, 10)
    wrong = [(n, found) for n in numbers if (found := failures(cases.random_case(0, n), sparse_grad=n % 3 == 0))]
    assert wrong == []


def test_the_cases_cover_what_they_should() -> None:
    """Every switch is on and off, num_true goes from 1 to 64, and hits, repeats and both kinds of shards occur."""
    drawn = [cases.random_case(0, number) for number in range(300)]
    assert {case.labels.shape[1] for case in drawn} >= {1, 2, 3, 4, 5, 64}
    for name in ("remove_accidental_hits", "subtract_log_q", "strategy", "loss"):
        assert len({getattr(case, name) for case in drawn}) == 2, name
    assert any(np.isin(case.labels, case.sampled).any() and case.remove_accidental_hits for case in drawn)
    assert any(len(set(case.sampled.tolist())) < len(case.sampled) for case in drawn)
    sharded = [case for case in drawn if case.weight_shards > 1]
    assert {case.strategy for case in sharded} == {"mod", "div"}
    assert {case.true_count.shape == case.labels.shape for case in drawn} == {True, False}


def test_in_float64_both_agree_to_the_last_digits() -> None:
    for number in range(0, 120, 2):
        case = cases.random_case(1, number).astype(np.float64)
        mine, reference = cases.answer(case), theirs.answer(case)
        assert max(cases.distance(mine[name], reference[name]) for name in mine) < 1e-12, number


@pytest.mark.parametrize("loss", cases.LOSSES)
@pytest.mark.parametrize(("batch", "num_true", "num_sampled"), [(256, 5, 4096), (64, 64, 2048), (1024, 1, 300)])
def test_larger_problems(loss: str, batch: int, num_true: int, num_sampled: int) -> None:
    """Above the number of logits that are computed in float64."""
    rng = numpy_generator(0, "larger", batch)
    num_classes, dim = 20_000, 64
    case = cases.Case(
        loss=loss,
        weights=(rng.standard_normal((num_classes, dim)) / 8).astype(np.float32),
        biases=(rng.standard_normal(num_classes) / 4).astype(np.float32),
        labels=rng.integers(0, num_classes, (batch, num_true)),
        inputs=rng.standard_normal((batch, dim)).astype(np.float32),
        sampled=rng.permutation(num_classes)[:num_sampled],
        true_count=rng.uniform(0.01, 1, (batch, num_true)).astype(np.float32),
        sampled_count=rng.uniform(0.01, 1, num_sampled).astype(np.float32),
        upstream=np.full(batch, 1 / batch, np.float32),
        remove_accidental_hits=True,
    )
    assert failures(case) == []


def test_sampled_logits() -> None:
    for number in range(60):
        case = dataclasses.replace(cases.random_case(2, number), weight_shards=1, bias_shards=1)
        expected = theirs.sampled_logits(tf, case, case.weights, case.biases, tf.constant(case.inputs))
        found = ours.compute_sampled_logits(
            torch.tensor(case.weights),
            torch.tensor(case.biases),
            torch.tensor(case.labels),
            torch.tensor(case.inputs),
            len(case.sampled),
            len(case.weights),
            case.labels.shape[1],
            tuple(torch.tensor(value) for value in (case.sampled, case.true_count, case.sampled_count)),
            case.subtract_log_q,
            case.remove_accidental_hits,
        )
        masked = expected[0].numpy() < -1e38
        np.testing.assert_array_equal(found[0].numpy() < -1e38, masked)
        np.testing.assert_array_equal(found[0].numpy()[masked], expected[0].numpy()[masked])
        assert cases.distance(np.where(masked, 0, found[0]), np.where(masked, 0, expected[0])) < BAR
        np.testing.assert_array_equal(found[1].numpy(), expected[1].numpy())


def test_accidental_hits_of_distinct_candidates() -> None:
    rng = numpy_generator(0, "hits")
    for _ in range(50):
        num_true, num_sampled = int(rng.integers(1, 6)), int(rng.integers(1, 40))
        labels, sampled = rng.integers(0, 60, (7, num_true)), rng.permutation(60)[:num_sampled]
        expected = tf.nn.compute_accidental_hits(labels, sampled, num_true)
        found = ours.compute_accidental_hits(torch.tensor(labels), torch.tensor(sampled), num_true)
        for mine, reference in zip(found, expected, strict=True):
            assert str(mine.dtype).removeprefix("torch.") == reference.dtype.name
            np.testing.assert_array_equal(mine.numpy(), reference.numpy())


def test_all_candidates_give_the_full_softmax() -> None:
    case = cases.random_case(3, 0)
    labels = case.labels[:, :1]
    values = ours.all_candidate_sampler(torch.tensor(labels), 1, len(case.weights), True)
    found = ours.sampled_softmax_loss(
        *map(torch.tensor, (case.weights, case.biases, labels, case.inputs)),
        len(case.weights),
        len(case.weights),
        sampled_values=values,
    )
    logits = tf.linalg.matmul(case.inputs, case.weights, transpose_b=True) + case.biases
    expected = tf.nn.sparse_softmax_cross_entropy_with_logits(labels[:, 0], logits)
    assert cases.distance(found.numpy(), expected.numpy()) < BAR
