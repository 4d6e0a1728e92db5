"""The samplers of compat.tf: counts by hand, draws by their law, and what they remember."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from xclass.compat import tf
from xclass.errors import DataError, InputError, XclassError
from xclass.runtime.rng import numpy_generator, torch_generator
from xclass.sampling.distributions import learned as learned_law

WEIGHTS = [3.0, 1.0, 0.0, 2.0, 6.0]
LEAST_P = 1e-4
ONE = torch.zeros(1, 1, dtype=torch.int64)

SAMPLERS: dict[str, Callable] = {
    "uniform": tf.uniform_candidate_sampler,
    "log-uniform": tf.log_uniform_candidate_sampler,
    "learned": lambda *args, **kw: tf.learned_unigram_candidate_sampler(*args, state=learned(args[4]), **kw),
    "fixed": lambda *args, **kw: tf.fixed_unigram_candidate_sampler(*args, unigrams=range(1, 1 + args[4]), **kw),
}


def learned(range_max: int) -> tf.LearnedUnigramState:
    """Class c was seen c times."""
    state = tf.learned_unigram_state(range_max)
    state.update(torch.repeat_interleave(torch.arange(range_max), torch.arange(range_max)))
    return state


def probability(name: str, size: int) -> np.ndarray:
    c = np.arange(size)
    p = {"uniform": np.ones(size), "log-uniform": np.log((c + 2) / (c + 1))}.get(name, 1.0 + c)
    return p / p.sum()


def every(size: int) -> Tensor:
    return torch.arange(size).unsqueeze(0)


@pytest.mark.parametrize("name", SAMPLERS)
def test_counts_with_repeats(name: str) -> None:
    drawn = SAMPLERS[name](every(7), 7, 20, False, 7, seed=0)
    p = probability(name, 7)
    np.testing.assert_allclose(drawn.true_expected_count[0].numpy(), 20 * p, rtol=1e-6)
    np.testing.assert_allclose(drawn.sampled_expected_count.numpy(), 20 * p[drawn.sampled_candidates], rtol=1e-6)
    assert [part.dtype for part in drawn] == [torch.int64, torch.float32, torch.float32]
    assert [tuple(part.shape) for part in drawn] == [(20,), (1, 7), (20,)]


@pytest.mark.parametrize("name", SAMPLERS)
def test_draws_with_repeats_follow_the_probabilities(name: str) -> None:
    drawn = SAMPLERS[name](ONE, 1, 20_000, False, 7, seed=1)
    counts = np.bincount(drawn.sampled_candidates, minlength=7)
    assert stats.chisquare(counts, 20_000 * probability(name, 7)).pvalue > LEAST_P


@pytest.mark.parametrize("name", SAMPLERS)
def test_distinct_draws_come_in_the_order_of_sequential_rejection(name: str) -> None:
    """All ordered triples of 5 classes against p_a · p_b/(1−p_a) · p_c/(1−p_a−p_b)."""
    p, generator = probability(name, 5), torch_generator(0, "order")
    found = [tuple(SAMPLERS[name](ONE, 1, 3, True, 5, seed=generator)[0].tolist()) for _ in range(3000)]
    triples = list(itertools.permutations(range(5), 3))
    expected = [p[a] * p[b] / (1 - p[a]) * p[c] / (1 - p[a] - p[b]) for a, b, c in triples]
    assert stats.chisquare([found.count(t) for t in triples], 3000 * np.array(expected)).pvalue > LEAST_P


@pytest.mark.parametrize("name", SAMPLERS)
def test_counts_of_distinct_draws_are_tensorflows_formula(name: str) -> None:
    """A whole number of draws explains every count; p·S where it is S, even above 1."""
    p, generator = probability(name, 6), torch_generator(0, "formula")
    some = set()
    for _ in range(60):
        drawn = SAMPLERS[name](every(6), 6, 3, True, 6, seed=generator)
        counts = drawn.true_expected_count[0].double().numpy()
        tries = 3 if np.allclose(counts, 3 * p) else round(float(np.log1p(-counts[1]) / np.log1p(-p[1])))
        expected = 3 * p if tries == 3 else 1 - (1 - p) ** tries
        np.testing.assert_allclose(counts, expected, rtol=1e-5)
        np.testing.assert_allclose(drawn.sampled_expected_count, expected[drawn.sampled_candidates], rtol=1e-5)
        some.add(tries)
    assert 3 in some and len(some) > 3


def test_a_count_above_one_without_a_rejection() -> None:
    found = {
        float(tf.fixed_unigram_candidate_sampler(ONE, 1, 2, True, 3, unigrams=[90.0, 5.0, 5.0], seed=s)[1])
        for s in range(30)
    }
    assert max(found) == pytest.approx(1.8)
    assert sorted(found)[0] == pytest.approx(1 - 0.1**3)


def test_hardly_any_weight_still_ends() -> None:
    """TensorFlow draws two thousand million times and aborts the process."""
    weights = [1.0, 1e-30, 1e-60]
    drawn = tf.fixed_unigram_candidate_sampler(every(3), 3, 3, True, 3, unigrams=weights, seed=0)
    assert drawn.sampled_candidates.tolist() == [0, 1, 2]
    assert bool((drawn.sampled_expected_count > 0).all() & (drawn.sampled_expected_count <= 1).all())


def test_more_distinct_classes_than_can_be_drawn() -> None:
    with pytest.raises(InputError, match="range is too small"):
        tf.fixed_unigram_candidate_sampler(ONE, 1, 5, True, 5, unigrams=WEIGHTS)
    found = tf.fixed_unigram_candidate_sampler(ONE, 1, 4, True, 5, unigrams=WEIGHTS)
    assert sorted(found.sampled_candidates.tolist()) == [0, 1, 3, 4]
    for name, sampler in SAMPLERS.items():
        with pytest.raises(InputError, match="range is too small"):
            sampler(ONE, 1, 6, True, 5)
        assert len(sampler(ONE, 1, 6, False, 5)[0]) == 6, name


def test_log_uniform_is_precise_where_differences_of_logs_are_not() -> None:
    classes = torch.tensor([[10**6, 10**9, 10**12, 10**17]])
    found = tf.log_uniform_candidate_sampler(classes, 4, 1, False, 2**62)[1][0]
    expected = [math.log1p(1 / (c + 1)) / math.log1p(2**62) for c in classes[0].tolist()]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)


def test_totals_are_float64() -> None:
    weights = torch.ones(200_001)
    weights[0] = 2.0**24
    found = tf.fixed_unigram_candidate_sampler(every(2), 2, 1, False, 200_001, unigrams=weights)[1][0]
    np.testing.assert_allclose(found.numpy(), np.array([2.0**24, 1.0]) / (2.0**24 + 200_000), rtol=1e-6)


def test_learned_unigram_learns_every_occurrence_after_the_call() -> None:
    state = tf.learned_unigram_state(4)
    labels = torch.tensor([[1, 1], [3, 1]])
    first = tf.learned_unigram_candidate_sampler(labels, 2, 2, False, 4, state=state)
    assert first.true_expected_count.tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert state.counts().tolist() == [1, 4, 1, 2]
    second = tf.learned_unigram_candidate_sampler(labels, 2, 2, False, 4, state=state)
    assert second.true_expected_count.tolist() == [[1.0, 1.0], [0.5, 1.0]]


def test_a_refused_call_teaches_nothing() -> None:
    state = tf.learned_unigram_state(4)
    with pytest.raises(InputError):
        tf.learned_unigram_candidate_sampler(torch.tensor([[1, 4]]), 2, 2, True, 4, state=state)
    with pytest.raises(InputError):
        tf.learned_unigram_candidate_sampler(torch.tensor([[1, 3]]), 2, 5, True, 4, state=state)
    assert state.counts().tolist() == [1, 1, 1, 1]


def test_learned_unigram_continues_from_its_state() -> None:
    first = learned(9)
    second = tf.learned_unigram_state(9)
    second.load_state(first.state())
    labels = every(9)
    for seed in range(5):
        one = tf.learned_unigram_candidate_sampler(labels, 9, 4, True, 9, seed=seed, state=first)
        two = tf.learned_unigram_candidate_sampler(labels, 9, 4, True, 9, seed=seed, state=second)
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert torch.equal(first.counts(), second.counts())


def test_folding_the_labels_seen_changes_no_law_and_is_resumed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learned_law, "FOLD", 40)
    state, resumed = tf.learned_unigram_state(6), tf.learned_unigram_state(6)
    labels = torch.repeat_interleave(torch.arange(6), torch.tensor([0, 30, 9, 0, 3, 8]))
    for part in labels[torch.randperm(50, generator=torch_generator(0, "fold"))].split(7):
        state.update(part)
    assert state.counts().tolist() == [1, 31, 10, 1, 4, 9]
    assert 0 < len(state.state()["log"]) < 40
    resumed.load_state(state.state())
    drawn = [each.draw(20_000, torch_generator(1, "fold")) for each in (state, resumed)]
    assert torch.equal(*drawn) and torch.equal(state.counts(), resumed.counts())
    found = np.bincount(drawn[0], minlength=6)
    assert stats.chisquare(found, 20_000 * np.array([1, 31, 10, 1, 4, 9]) / 56).pvalue > LEAST_P
    np.testing.assert_allclose(state.probability(torch.arange(6)), np.array([1, 31, 10, 1, 4, 9]) / 56)
    with pytest.raises(InputError, match="another catalogue"):
        tf.learned_unigram_state(7).load_state(state.state())


@pytest.mark.parametrize("state", [None, "state", tf.learned_unigram_state(5)])
def test_learned_unigram_needs_its_state(state: object) -> None:
    with pytest.raises(InputError, match="state"):
        tf.learned_unigram_candidate_sampler(ONE, 1, 2, True, 4, state=state)


def fixed_counts(size: int, **given: object) -> list[float]:
    """Probabilities of all classes."""
    return tf.fixed_unigram_candidate_sampler(every(size), size, 1, False, size, **given)[1][0].tolist()


@pytest.mark.parametrize("power", [0.0, 0.5, 0.75, 1.0, 2.0])
@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor])
def test_fixed_unigram_distortion(power: float, kind: Callable) -> None:
    expected = np.array(WEIGHTS) ** power
    np.testing.assert_allclose(fixed_counts(5, unigrams=kind(WEIGHTS), distortion=power), expected / expected.sum(), rtol=1e-6)  # fmt: skip


@pytest.mark.parametrize("reserved", [0, 1, 2, 5])
@pytest.mark.parametrize("num_shards", [1, 2, 3])
def test_fixed_unigram_shards_keep_id_mod_shards(reserved: int, num_shards: int) -> None:
    """Every weight is in exactly one shard, as class id // num_shards."""
    whole = [0.0] * reserved + [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]
    for shard in range(num_shards):
        own = np.array([weight for number, weight in enumerate(whole) if number % num_shards == shard])
        found = fixed_counts(
            len(own), unigrams=whole[reserved:], num_reserved_ids=reserved, num_shards=num_shards, shard=shard
        )
        np.testing.assert_allclose(found, own / own.sum(), rtol=1e-6)


@pytest.mark.parametrize("text", ["a,3\nb,1\n\nc,0\n", "3\r\n1\r\n  \r\n0.0\r\n", "x,9,3\ny,9, 1\nz,9,0"])
def test_fixed_unigram_from_a_file(text: str, tmp_path) -> None:
    path = tmp_path / "vocabulary.csv"
    path.write_bytes(text.encode())
    assert fixed_counts(4, vocab_file=str(path), num_reserved_ids=1) == [0.0, 0.75, 0.25, 0.0]


def test_a_line_without_a_weight_is_named(tmp_path) -> None:
    path = tmp_path / "vocabulary.csv"
    path.write_text("a,3\n\nb,many\n")
    with pytest.raises(DataError, match=r"vocabulary\.csv:3: .*\n.*\n.*'many'"):
        tf.fixed_unigram_state(2, vocab_file=str(path))
    with pytest.raises(DataError, match="can't be read"):
        tf.fixed_unigram_state(2, vocab_file=str(tmp_path / "none.csv"))


def test_a_fixed_unigram_is_built_once() -> None:
    state = tf.fixed_unigram_state(5, unigrams=WEIGHTS, distortion=0.5)
    once = tf.fixed_unigram_candidate_sampler(every(5), 5, 3, True, 5, seed=4, state=state)
    anew = tf.fixed_unigram_candidate_sampler(every(5), 5, 3, True, 5, unigrams=WEIGHTS, distortion=0.5, seed=4)
    assert all(torch.equal(a, b) for a, b in zip(once, anew, strict=True))
    with pytest.raises(InputError, match="both given"):
        tf.fixed_unigram_candidate_sampler(ONE, 1, 1, True, 5, unigrams=WEIGHTS, state=state)
    with pytest.raises(InputError, match="range_max"):
        tf.fixed_unigram_candidate_sampler(ONE, 1, 1, True, 6, state=state)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"unigrams": [1.0, -1.0]}, "weight 1 is invalid"),
        ({"unigrams": [1.0, math.nan]}, "weight 1 is invalid"),
        ({"unigrams": [math.inf, 1.0]}, "weight 0 is invalid"),
        ({"unigrams": [0.0, 0.0]}, "nothing can be drawn"),
        ({"unigrams": [1e-300, 1e300], "distortion": 2.0}, "nothing can be drawn"),
        ({"unigrams": [[1.0, 2.0]]}, "wrong shape"),
        ({"unigrams": [1.0, 2.0, 3.0]}, "range_max"),
        ({}, "vocab_file or from unigrams"),
        ({"unigrams": [1.0, 2.0], "vocab_file": "file"}, "vocab_file or from unigrams"),
        ({"unigrams": [1.0, 2.0], "distortion": math.nan}, "distortion"),
        ({"unigrams": [1.0, 2.0], "num_reserved_ids": -1}, "num_reserved_ids"),
        ({"unigrams": [1.0, 2.0], "num_shards": 0}, "num_shards"),
        ({"unigrams": [1.0, 2.0], "num_shards": 2, "shard": 2}, "shard does not exist"),
    ],
)
def test_weights_that_are_refused(given: dict, message: str) -> None:
    with pytest.raises(XclassError, match=message):
        tf.fixed_unigram_candidate_sampler(ONE, 1, 1, False, 2, **given)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize(
    ("labels", "num_true", "num_sampled", "range_max", "message"),
    [
        (torch.tensor([[8]]), 1, 2, 8, r"ids in \[0, 8\)\n  got: 8"),
        (torch.tensor([[-1]]), 1, 2, 8, r"ids in \[0, 8\)\n  got: -1"),
        (torch.tensor([1]), 1, 2, 8, "matrix of num_true columns"),
        (torch.tensor([[1, 2]]), 3, 2, 8, r"shape \[batch_size, 3\]\n  got: shape \[1, 2\]"),
        (torch.tensor([[1.0]]), 1, 2, 8, "integer tensor"),
        (torch.tensor([[1]]), 0, 2, 8, "num_true is out of range"),
        (torch.tensor([[1]]), 1, 0, 8, "num_sampled is out of range"),
    ],
)
def test_arguments_that_are_refused(name, labels, num_true, num_sampled, range_max, message) -> None:
    with pytest.raises(InputError, match=message):
        SAMPLERS[name](labels, num_true, num_sampled, True, range_max)


@pytest.mark.parametrize("range_max", [0, -1, 2.5])
@pytest.mark.parametrize("sampler", [tf.uniform_candidate_sampler, tf.log_uniform_candidate_sampler])
def test_a_range_that_is_refused(range_max, sampler: Callable) -> None:
    with pytest.raises(InputError, match="range_max is out of range"):
        sampler(ONE, 1, 1, False, range_max)
    with pytest.raises(InputError, match="range_max is out of range"):
        tf.learned_unigram_state(range_max)


def test_all_candidates() -> None:
    drawn = tf.all_candidate_sampler(torch.tensor([[1, 4]]), 2, 6, True)
    assert drawn.sampled_candidates.tolist() == list(range(6))
    assert drawn.true_expected_count.tolist() == [[1.0, 1.0]] and drawn.sampled_expected_count.tolist() == [1.0] * 6
    with pytest.raises(InputError, match=r"ids in \[0, 6\)"):
        tf.all_candidate_sampler(torch.tensor([[6]]), 1, 6, True)


@pytest.mark.parametrize("name", SAMPLERS)
def test_seeds(name: str) -> None:
    """An int repeats, a generator moves on, None follows torch.manual_seed."""

    def draw(seed: object) -> list[int]:
        return SAMPLERS[name](ONE, 1, 30, False, 1000, seed=seed)[0].tolist()

    assert draw(5) == draw(5) != draw(6)
    generator = torch_generator(0, "seeds")
    assert draw(generator) != draw(generator)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        first = draw(None), draw(None)
        torch.manual_seed(3)
        assert (draw(None), draw(None)) == first and first[0] != first[1]
    with pytest.raises(InputError, match="seed is of the wrong kind"):
        draw("5")


def test_an_empty_batch_and_small_integers() -> None:
    drawn = tf.uniform_candidate_sampler(torch.empty(0, 2, dtype=torch.int32), 2, 3, True, 10)
    assert drawn.true_expected_count.shape == (0, 2)


def test_accidental_hits_report_every_copy_and_every_label() -> None:
    labels = torch.tensor([[3, 3], [1, 7], [0, 9]], dtype=torch.int32)
    rows, positions, weights = tf.compute_accidental_hits(labels, torch.tensor([7, 3, 1, 3]), 2)
    assert rows.tolist() == [0, 0, 0, 0, 1, 1]
    assert positions.tolist() == [1, 3, 1, 3, 2, 0]
    assert weights.tolist() == [-torch.finfo(torch.float32).max] * 6
    assert [rows.dtype, positions.dtype, weights.dtype] == [torch.int32, torch.int64, torch.float32]


def test_accidental_hits_against_loops() -> None:
    rng = numpy_generator(0, "hits")
    for _ in range(20):
        labels, sampled = rng.integers(0, 12, (5, 3)), rng.integers(0, 12, 8)
        rows, positions, _ = tf.compute_accidental_hits(torch.tensor(labels), torch.tensor(sampled), 3)
        expected = [(b, s) for b in range(5) for t in range(3) for s in range(8) if labels[b, t] == sampled[s]]
        assert list(zip(rows.tolist(), positions.tolist(), strict=True)) == expected


@pytest.mark.parametrize(
    ("labels", "sampled", "num_true"),
    [
        (torch.zeros(2).long(), torch.zeros(2).long(), 1),
        (torch.zeros(2, 2).long(), torch.zeros(2).long(), 1),
        (torch.zeros(2, 1).long(), torch.zeros(2, 1).long(), 1),
        (torch.zeros(2, 1), torch.zeros(2).long(), 1),
    ],
)
def test_accidental_hits_refuse(labels: Tensor, sampled: Tensor, num_true: int) -> None:
    with pytest.raises(InputError):
        tf.compute_accidental_hits(labels, sampled, num_true)
