"""The candidate samplers beside TensorFlow: counts to the last digits, draws by their law."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
from peers import tensorflow_side as theirs
from scipy import stats

from xclass.compat import tf as ours
from xclass.sampling.distributions.expected_counts import tensorflow_count as expected_count

tf = theirs.load()
DRAWS = 1500
LEAST_P = 1e-4  # of a test of one law; the seeds are fixed
WEIGHTS = [30.0, 1.0, 0.0, 7.5, 7.5, 2.0, 0.25, 12.0, 3.0, 3.0, 1.0, 19.0]


class Sampler(NamedTuple):
    """The same sampler twice; ``probability`` is its law, by hand."""

    theirs: Callable
    ours: Callable
    probability: np.ndarray
    extra: dict


def zipf(count: int) -> np.ndarray:
    c = np.arange(count, dtype=np.float64)
    return np.log1p(1 / (c + 1)) / np.log(count + 1)


def powered(weights: list[float], power: float, reserved: int = 0) -> np.ndarray:
    with np.errstate(divide="ignore"):
        p = np.concatenate([np.zeros(reserved), np.array(weights) ** power])
    return p / p.sum()


SAMPLERS = {
    "uniform": Sampler(tf.random.uniform_candidate_sampler, ours.uniform_candidate_sampler, np.full(30, 1 / 30), {}),
    "log-uniform": Sampler(tf.random.log_uniform_candidate_sampler, ours.log_uniform_candidate_sampler, zipf(25), {}),
    "fixed": Sampler(
        tf.random.fixed_unigram_candidate_sampler,
        ours.fixed_unigram_candidate_sampler,
        powered(WEIGHTS, 1.0),
        {"unigrams": WEIGHTS},
    ),
    "fixed, distorted, reserved": Sampler(
        tf.random.fixed_unigram_candidate_sampler,
        ours.fixed_unigram_candidate_sampler,
        powered(WEIGHTS, 0.75, 2),
        {"unigrams": WEIGHTS, "distortion": 0.75, "num_reserved_ids": 2},
    ),
    "fixed, power 0": Sampler(
        tf.random.fixed_unigram_candidate_sampler,
        ours.fixed_unigram_candidate_sampler,
        powered(WEIGHTS, 0.0),
        {"unigrams": WEIGHTS, "distortion": 0.0},
    ),
    "fixed, shard": Sampler(
        tf.random.fixed_unigram_candidate_sampler,
        ours.fixed_unigram_candidate_sampler,
        powered(WEIGHTS[1::3], 1.0),
        {"unigrams": WEIGHTS, "num_shards": 3, "shard": 1},
    ),
}
# name, num_sampled, unique
CONFIGURATIONS = [
    ("uniform", 8, True), ("uniform", 40, False), ("uniform", 30, True),
    ("log-uniform", 4, True), ("log-uniform", 12, True), ("log-uniform", 6, False),
    ("fixed", 3, True), ("fixed", 8, True), ("fixed", 5, False),
    ("fixed, distorted, reserved", 4, True), ("fixed, power 0", 4, True), ("fixed, shard", 2, True),
]  # fmt: skip


def draw(sampler: Sampler, num_sampled: int, unique: bool) -> tuple[list, list]:
    """``DRAWS`` calls of TensorFlow's and of ours, with every class as a true class."""
    classes = len(sampler.probability)
    every = np.arange(classes).reshape(1, -1)
    sizes = (classes, num_sampled, unique, classes)
    tf.random.set_seed(1)
    reference = [sampler.theirs(every, *sizes, seed=5, **sampler.extra) for _ in range(DRAWS)]
    reference = [tuple(value.numpy() for value in call) for call in reference]
    generator = torch.Generator().manual_seed(3)
    mine = [sampler.ours(torch.tensor(every), *sizes, seed=generator, **sampler.extra) for _ in range(DRAWS)]
    return reference, [tuple(value.numpy() for value in call) for call in mine]


def tries_of(probability: np.ndarray, call: tuple, num_sampled: int) -> int:
    """How many single draws a call needed, found from the counts that it reported."""
    count = call[1][0].astype(np.float64)
    if np.allclose(count, probability * num_sampled, rtol=1e-6, atol=0):
        return num_sampled
    best = np.argmin(np.abs(count - 0.5))
    return round(np.log1p(-count[best]) / np.log1p(-probability[best]))


@pytest.fixture(scope="module", params=CONFIGURATIONS, ids=lambda c: f"{c[0]} {c[1]} {'unique' if c[2] else ''}")
def drawn(request: pytest.FixtureRequest) -> tuple[Sampler, int, bool, list, list]:
    name, num_sampled, unique = request.param
    return SAMPLERS[name], num_sampled, unique, *draw(SAMPLERS[name], num_sampled, unique)


def test_counts_are_tensorflows_for_the_number_of_draws_it_needed(drawn) -> None:
    sampler, num_sampled, _, reference, mine = drawn
    p = sampler.probability
    for calls in (reference, mine):
        for ids, true_count, count in calls:
            tries = tries_of(p, (ids, true_count, count), num_sampled)
            expected = expected_count(torch.from_numpy(p), num_sampled, float(tries)).numpy()
            np.testing.assert_allclose(true_count[0], expected, rtol=1e-6)
            np.testing.assert_allclose(count, expected[ids], rtol=1e-6)


def test_shapes_and_dtypes(drawn) -> None:
    *_, reference, mine = drawn
    for first, second in zip(reference[0], mine[0], strict=True):
        assert first.shape == second.shape and first.dtype == second.dtype


def test_draws_have_one_law(drawn) -> None:
    """First candidate, last candidate, and every class's presence in the sample."""
    sampler, _, unique, reference, mine = drawn
    classes = len(sampler.probability)
    for position in (0, -1):
        counted = [np.bincount([call[0][position] for call in calls], minlength=classes) for calls in (reference, mine)]
        assert same_law(*counted) > LEAST_P
    present = [sum(np.bincount(np.unique(call[0]), minlength=classes) for call in calls) for calls in (reference, mine)]
    share = sum(present) / (2 * DRAWS)
    spread = np.sqrt(np.maximum(share * (1 - share), 1e-12) * 2 / DRAWS)
    assert (np.abs(present[0] - present[1]) / DRAWS / spread).max() < 4.5
    if unique:
        assert all(len(np.unique(call[0])) == len(call[0]) for call in mine)


def test_the_number_of_draws_has_one_law(drawn) -> None:
    sampler, num_sampled, unique, reference, mine = drawn
    tries = [[tries_of(sampler.probability, call, num_sampled) for call in calls] for calls in (reference, mine)]
    if not unique:
        assert set(tries[0] + tries[1]) == {num_sampled}
        return
    most = int(np.quantile(tries[0], 0.95)) + 1
    assert same_law(*(np.bincount(np.minimum(found, most)) for found in tries)) > LEAST_P


def same_law(first: np.ndarray, second: np.ndarray) -> float:
    """P value of a χ² test; rare cells are joined."""
    size = max(len(first), len(second))
    first, second = (np.pad(counts, (0, size - len(counts))) for counts in (first, second))
    rare = first + second < 20
    cells = [np.append(counts[~rare], counts[rare].sum()) for counts in (first, second)]
    table = np.array(cells)[:, (cells[0] + cells[1]) > 0]
    return 1.0 if table.shape[1] < 2 else float(stats.chi2_contingency(table).pvalue)


def test_learned_unigram_learns_the_same() -> None:
    """Fed with the same labels, the counts are the same at every step, and so is the law of the draws."""
    state = ours.learned_unigram_state(20)
    generator = torch.Generator().manual_seed(2)
    rng = np.random.Generator(np.random.Philox(7))
    tf.random.set_seed(4)
    counted = np.zeros((2, 20), int)
    for _ in range(DRAWS):
        labels = np.minimum(rng.geometric(0.2, (3, 2)), 20) - 1
        reference = tf.random.learned_unigram_candidate_sampler(labels, 2, 6, False, 20, seed=9)
        mine = ours.learned_unigram_candidate_sampler(torch.tensor(labels), 2, 6, False, 20, generator, state=state)
        np.testing.assert_allclose(mine[1].numpy(), reference[1].numpy(), rtol=1e-6)
        for row, call in enumerate((reference, mine)):
            counted[row] += np.bincount(call[0].numpy(), minlength=20)
    assert same_law(*counted) > LEAST_P


def test_all_candidates() -> None:
    labels = np.array([[1, 4], [0, 0]])
    reference = tf.random.all_candidate_sampler(labels, 2, 6, True)
    mine = ours.all_candidate_sampler(torch.tensor(labels), 2, 6, True)
    for first, second in zip(reference, mine, strict=True):
        np.testing.assert_array_equal(first.numpy(), second.numpy())


@pytest.mark.parametrize("content", ["a,3\nb,1\n\nc,2.5\n", "3\n1\n2.5", "x,y,3\r\n z , 1 \r\nw,2.5e0\r\n"])
def test_vocabulary_files(content: str, tmp_path) -> None:
    path = tmp_path / "vocabulary.txt"
    path.write_bytes(content.encode())
    every = np.arange(4).reshape(1, 4)
    reference = tf.random.fixed_unigram_candidate_sampler(
        every, 4, 5, False, 4, vocab_file=str(path), num_reserved_ids=1
    )
    mine = ours.fixed_unigram_candidate_sampler(
        torch.tensor(every), 4, 5, False, 4, vocab_file=str(path), num_reserved_ids=1
    )
    np.testing.assert_allclose(mine[1].numpy(), reference[1].numpy(), rtol=1e-6)
