"""Parity with TensorFlow 2.21 without TensorFlow: its answers were written once by tests/peers/make_vectors.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from peers import cases

from xclass.compat import tf
from xclass.sampling.distributions.expected_counts import tensorflow_count as expected_count

VECTORS = Path(__file__).parent / "tensorflow_vectors.npz"
FIXED = [30.0, 1.0, 0.0, 7.5, 7.5, 2.0, 0.25, 12.0, 3.0, 3.0, 1.0, 19.0]
SAMPLERS = {
    "uniform": (tf.uniform_candidate_sampler, {}),
    "log_uniform": (tf.log_uniform_candidate_sampler, {}),
    "fixed_unigram": (tf.fixed_unigram_candidate_sampler, {"unigrams": FIXED}),
    "fixed_unigram_distorted": (
        tf.fixed_unigram_candidate_sampler,
        {"unigrams": FIXED, "distortion": 0.75, "num_reserved_ids": 2},
    ),
}


@pytest.fixture(scope="module")
def vectors() -> dict[str, np.ndarray]:
    with np.load(VECTORS, allow_pickle=False) as stored:
        return dict(stored)


def case_of(vectors: dict[str, np.ndarray], number: int) -> tuple[cases.Case, dict[str, np.ndarray]]:
    mine = {key.split("/", 2)[2]: value for key, value in vectors.items() if key.startswith(f"loss/{number}/")}
    answer = {key.removeprefix("answer/"): value for key, value in mine.items() if key.startswith("answer/")}
    fields = {key: value if value.ndim else value.item() for key, value in mine.items() if "/" not in key}
    return cases.Case(**fields), answer


def test_values_and_gradients(vectors: dict[str, np.ndarray]) -> None:
    numbers = {int(key.split("/")[1]) for key in vectors if key.startswith("loss/")}
    assert len(numbers) == 96
    seen = set()
    for number in numbers:
        case, answer = case_of(vectors, number)
        seen.add((case.loss, case.labels.shape[1] > 1, case.remove_accidental_hits, case.subtract_log_q))
        for sparse_grad in (False, True):
            for name, value in cases.answer(case, sparse_grad).items():
                assert cases.distance(value, answer[name]) <= 1e-6, (number, name)
    assert len(seen) == 16


@pytest.mark.parametrize("name", SAMPLERS)
def test_counts(vectors: dict[str, np.ndarray], name: str) -> None:
    """Ours for the number of draws that theirs needed; that number is read from one of the counts."""
    call, extra = SAMPLERS[name]
    for number in range(4):
        ids, true_count, count = (vectors[f"sampler/{name}/{number}/{part}"] for part in ("ids", "true_count", "count"))
        classes = true_count.shape[1]
        every = torch.arange(classes).unsqueeze(0)
        one = call(every, classes, 1, False, classes, **extra)  # one draw: the counts are the probabilities
        p = one.true_expected_count.double()
        tries = 7.0
        if number > 0 and not np.allclose(true_count, 7 * p.numpy(), rtol=1e-6):
            best = int(np.argmin(np.abs(true_count[0] - 0.5)))
            tries = float(np.round(np.log1p(-np.float64(true_count[0, best])) / np.log1p(-float(p[0, best]))))
        found = expected_count(p, 7, tries).numpy()
        np.testing.assert_allclose(found, true_count, rtol=1e-6)
        np.testing.assert_allclose(found[0, ids], count, rtol=1e-6)


def test_the_vectors_are_of_the_release_that_is_named(vectors: dict[str, np.ndarray]) -> None:
    assert str(vectors["tensorflow"]).startswith("2.21.")
