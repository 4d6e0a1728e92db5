"""TensorFlow's faults, run: what docs/tensorflow.md says of it is so, and what it says of ours too."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from peers import tensorflow_side as theirs

from xclass.compat import tf as ours
from xclass.errors import InputError
from xclass.runtime.rng import numpy_generator

tf = theirs.load()
N, D, B, S = 12, 4, 3, 5


@pytest.fixture
def problem() -> dict[str, np.ndarray]:
    rng = numpy_generator(0, "faults")
    return {
        "weights": rng.standard_normal((N, D)).astype(np.float32),
        "biases": rng.standard_normal(N).astype(np.float32),
        "labels": np.array([[1], [2], [3]]),
        "inputs": rng.standard_normal((B, D)).astype(np.float32),
    }


def arguments(problem: dict[str, np.ndarray]) -> list[torch.Tensor]:
    return [torch.tensor(value) for value in problem.values()]


def values(sampled: list[int], dtype: type = np.float32) -> tuple[np.ndarray, ...]:
    return np.array(sampled), np.full((B, 1), 0.5, dtype), np.full(len(sampled), 0.5, dtype)


def tensors(given: tuple[np.ndarray, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(torch.tensor(value) for value in given)


def test_of_repeated_candidates_theirs_masks_one(problem) -> None:
    _, positions, _ = tf.nn.compute_accidental_hits(problem["labels"], [1, 7, 1, 1, 8], 1)
    assert positions.numpy().tolist() == [3]
    _, mine, _ = ours.compute_accidental_hits(torch.tensor(problem["labels"]), torch.tensor([1, 7, 1, 1, 8]), 1)
    assert mine.tolist() == [0, 2, 3]
    given = values([1, 7, 1, 1, 8])
    reference = tf.nn.sampled_softmax_loss(*problem.values(), S, N, sampled_values=given).numpy()
    found = ours.sampled_softmax_loss(*arguments(problem), S, N, sampled_values=tensors(given))
    clean = values([7, 8])
    without = ours.sampled_softmax_loss(*arguments(problem), 2, N, sampled_values=tensors(clean))
    assert abs(float(found[0] - without[0])) < 1e-6  # row 0: no copy of its class counts
    assert reference[0] > float(found[0]) + 0.01


@pytest.mark.parametrize("name", ["nce_loss", "sampled_softmax_loss"])
@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_in_half_precision_a_hit_makes_theirs_nan(problem, name: str, half: str) -> None:
    given = values([1, 7, 8, 9, 10])
    low = [tf.cast(problem[key], half) for key in ("weights", "biases", "inputs")]
    counts = [tf.cast(count, half) for count in given[1:]]
    call = getattr(tf.nn, name)
    reference = call(
        *low[:2], problem["labels"], low[2], S, N, sampled_values=(given[0], *counts), remove_accidental_hits=True
    )
    assert np.isnan(tf.cast(reference, "float32").numpy()).tolist() == [True, False, False]
    dtype = getattr(torch, half)
    weights, biases, labels, inputs = arguments(problem)
    mine = getattr(ours, name)(
        weights.to(dtype), biases.to(dtype), labels, inputs.to(dtype), S, N,
        sampled_values=tensors(given), remove_accidental_hits=True,
    )  # fmt: skip
    exact = getattr(ours, name)(
        weights, biases, labels, inputs, S, N, sampled_values=tensors(given), remove_accidental_hits=True
    )
    assert mine.dtype == dtype
    torch.testing.assert_close(mine.float(), exact, rtol=0.05, atol=0.05)


def test_float64_inputs_with_the_default_sampler(problem) -> None:
    double = {key: value.astype(np.float64) if key != "labels" else value for key, value in problem.items()}
    with pytest.raises(tf.errors.InvalidArgumentError, match="expected to be a double"):
        tf.nn.sampled_softmax_loss(*double.values(), S, N)
    assert ours.sampled_softmax_loss(*arguments(double), S, N, seed=0).dtype == torch.float64


def test_a_wrong_num_sampled(problem) -> None:
    given = values([7, 8, 9])
    reference = tf.nn.nce_loss(*problem.values(), 11, N, sampled_values=given).numpy()
    np.testing.assert_array_equal(reference, tf.nn.nce_loss(*problem.values(), 3, N, sampled_values=given).numpy())
    with pytest.raises(InputError, match="num_sampled"):
        ours.nce_loss(*arguments(problem), 11, N, sampled_values=tensors(given))


def test_labels_that_are_not_integers(problem) -> None:
    problem["labels"] = problem["labels"].astype(np.float32)
    tf.nn.nce_loss(*problem.values(), 3, N, sampled_values=values([7, 8, 9]))
    with pytest.raises(InputError, match="integer tensor"):
        ours.nce_loss(*arguments(problem), 3, N, sampled_values=tensors(values([7, 8, 9])))


def test_a_count_of_zero(problem) -> None:
    given = values([7, 8, 9])
    given[1][1] = 0
    reference = tf.nn.sampled_softmax_loss(*problem.values(), 3, N, sampled_values=given).numpy()
    assert np.isnan(reference).tolist() == [False, True, False]
    with pytest.raises(InputError, match="true_expected_count"):
        ours.sampled_softmax_loss(*arguments(problem), 3, N, sampled_values=tensors(given))
    found = ours.sampled_softmax_loss(*arguments(problem), 3, N, sampled_values=tensors(given), subtract_log_q=False)
    assert bool(torch.isfinite(found).all())


def test_shards_of_other_sizes(problem) -> None:
    cuts = [problem["weights"][:5], problem["weights"][5:6], problem["weights"][6:]]
    given = values([0, 4, 7])
    whole = tf.nn.nce_loss(*problem.values(), 3, N, sampled_values=given).numpy()
    try:
        found = tf.nn.nce_loss(cuts, *list(problem.values())[1:], 3, N, sampled_values=given).numpy()
    except tf.errors.InvalidArgumentError:
        found = None  # a row beyond its shard; else, other rows
    assert found is None or np.abs(found - whole).max() > 1e-3
    with pytest.raises(InputError, match="can't hold the classes"):
        ours.nce_loss([torch.tensor(cut) for cut in cuts], *arguments(problem)[1:], 3, N, sampled_values=tensors(given))


def test_no_biases(problem) -> None:
    given = values([7, 8, 9])
    with pytest.raises(ValueError, match="params"):
        tf.nn.nce_loss(problem["weights"], None, problem["labels"], problem["inputs"], 3, N, sampled_values=given)
    problem["biases"] = np.zeros(N, np.float32)
    reference = tf.nn.nce_loss(*problem.values(), 3, N, sampled_values=given).numpy()
    weights, _, labels, inputs = arguments(problem)
    found = ours.nce_loss(weights, None, labels, inputs, 3, N, sampled_values=tensors(given))
    np.testing.assert_allclose(found.numpy(), reference, rtol=1e-6)


def test_shards_with_reserved_ids() -> None:
    """Id = reserved + position in the list. Theirs puts positions 1, 3, 5 into both shards, 0, 2, 4 into none."""
    weights = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]  # ids 1 … 6 after one reserved id
    every = np.arange(3).reshape(1, 3)
    tf.random.set_seed(0)
    first = tf.random.fixed_unigram_candidate_sampler(
        np.arange(4).reshape(1, 4), 4, 1, False, 4, unigrams=weights, num_reserved_ids=1, num_shards=2, shard=0
    )
    second = tf.random.fixed_unigram_candidate_sampler(
        every, 3, 1, False, 3, unigrams=weights, num_reserved_ids=1, num_shards=2, shard=1
    )
    np.testing.assert_allclose(first[1].numpy()[0], np.array([0, 2, 8, 32]) / 42, rtol=1e-6)
    np.testing.assert_allclose(second[1].numpy()[0], np.array([2, 8, 32]) / 42, rtol=1e-6)
    given = {"unigrams": weights, "num_reserved_ids": 1, "num_shards": 2}
    mine = [
        ours.fixed_unigram_candidate_sampler(torch.arange(size).reshape(1, -1), size, 1, False, size, shard=s, **given)
        for s, size in ((0, 4), (1, 3))
    ]
    np.testing.assert_allclose(mine[0][1].numpy()[0], np.array([0, 2, 8, 32]) / 42, rtol=1e-6)  # ids 0, 2, 4, 6
    np.testing.assert_allclose(mine[1][1].numpy()[0], np.array([1, 4, 16]) / 21, rtol=1e-6)  # ids 1, 3, 5


def test_totals_in_float32() -> None:
    """2²⁴ + 2 classes of weight 1: a float32 total stops growing; a smaller case of it with one large weight first."""
    weights = [2.0**24] + [1.0] * 1000
    reference = tf.random.fixed_unigram_candidate_sampler([[0]], 1, 1, False, 1001, unigrams=weights)
    mine = ours.fixed_unigram_candidate_sampler(torch.tensor([[0]]), 1, 1, False, 1001, unigrams=weights)
    assert float(reference[1][0, 0]) == 1.0  # the other thousand weigh nothing
    assert float(mine[1][0, 0]) == pytest.approx(2**24 / (2**24 + 1000), rel=1e-7)


def test_weights_that_are_none() -> None:
    reference = tf.random.fixed_unigram_candidate_sampler([[1]], 1, 1, False, 2, unigrams=[3.0, -1.0])
    assert float(reference[1][0, 0]) < 0
    with pytest.raises(InputError, match="weight 1 is invalid"):
        ours.fixed_unigram_candidate_sampler(torch.tensor([[1]]), 1, 1, False, 2, unigrams=[3.0, -1.0])


def test_log_uniform_far_out() -> None:
    far = 10**17
    reference = tf.random.log_uniform_candidate_sampler([[far]], 1, 1, False, 2**62)
    mine = ours.log_uniform_candidate_sampler(torch.tensor([[far]]), 1, 1, False, 2**62)
    assert float(reference[1][0, 0]) == 0.0
    assert float(mine[1][0, 0]) == pytest.approx(1e-17 / np.log(2.0**62), rel=1e-6)


def test_two_million_draws_repeat_in_theirs() -> None:
    labels, size = [[0]], 2**21
    tf.random.set_seed(0)
    first, second = (
        tf.random.uniform_candidate_sampler(labels, 1, size, False, 10**6, seed=1)[0].numpy() for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)
    generator = torch.Generator().manual_seed(0)
    mine = [ours.uniform_candidate_sampler(torch.tensor(labels), 1, size, False, 10**6, generator)[0] for _ in range(2)]
    assert not torch.equal(*mine)


def test_their_learned_unigram_forgets_at_a_retrace() -> None:
    @tf.function
    def count(labels):
        return tf.random.learned_unigram_candidate_sampler(labels, 1, 2, False, 4, seed=3)[1]

    for _ in range(50):
        count(tf.constant([[1]], tf.int64))
    learned = float(count(tf.constant([[1]], tf.int64))[0, 0])
    fresh = float(count(tf.constant([[1], [1]], tf.int64))[0, 0])  # a batch of another size
    assert learned > 1.5 and fresh == 0.5
    state = ours.learned_unigram_state(4)
    for rows in [1] * 51 + [2]:
        mine = ours.learned_unigram_candidate_sampler(torch.ones(rows, 1).long(), 1, 2, False, 4, state=state)
    assert float(mine[1][0, 0]) == pytest.approx(2 * 52 / 55)


def test_an_int_seed_moves_on_in_theirs_and_repeats_in_ours() -> None:
    tf.random.set_seed(0)
    reference = [tf.random.uniform_candidate_sampler([[0]], 1, 50, False, 10**6, seed=1)[0].numpy() for _ in range(2)]
    assert not np.array_equal(*reference)
    labels = torch.tensor([[0]])
    mine = [ours.uniform_candidate_sampler(labels, 1, 50, False, 10**6, seed=1)[0] for _ in range(2)]
    assert torch.equal(*mine)


@pytest.mark.parametrize(
    ("labels", "num_true", "num_sampled", "unique", "range_max"),
    [
        ([[1]], 1, 9, True, 8),  # more distinct classes than there are
        ([[8]], 1, 2, True, 8),  # out of range
        ([[-1]], 1, 2, True, 8),
        ([1, 2], 2, 2, True, 8),  # not a matrix
        ([[1, 2, 3]], 2, 2, True, 8),  # other columns than num_true
        ([[1]], 1, 0, True, 8),
        ([[1]], 1, 2, True, 0),
    ],
)
@pytest.mark.parametrize("name", ["uniform", "log_uniform", "learned_unigram"])
def test_both_refuse(labels, num_true, num_sampled, unique, range_max, name) -> None:
    call = f"{name}_candidate_sampler"
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError)):
        getattr(tf.random, call)(labels, num_true, num_sampled, unique, range_max)
    with pytest.raises(InputError):
        state = {"state": ours.learned_unigram_state(range_max)} if name == "learned_unigram" else {}
        getattr(ours, call)(torch.tensor(labels), num_true, num_sampled, unique, range_max, **state)
