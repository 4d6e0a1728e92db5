"""Laws, samples without repeats, calibration: against plain code and exact sums."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from scipy import stats

from xclass.errors import DataError, InputError
from xclass.runtime.rng import torch_generator
from xclass.sampling import Drawn, FixedUnigram, LearnedUnigram, LogUniform, StreamingFrequency, Uniform
from xclass.sampling.distributions import learned as learned_module
from xclass.sampling.distributions import without_replacement
from xclass.sampling.distributions.decayed import DecayedLaw
from xclass.sampling.distributions.expected_counts import calibrated_tries, expected_distinct
from xclass.sampling.distributions.fixed import (
    LogUniformLaw,
    UniformLaw,
    WeightedLaw,
    alias_table,
    packed,
    packed_table,
    unpacked,
)
from xclass.sampling.distributions.learned import LearnedLaw
from xclass.sampling.distributions.without_replacement import draw_distinct, first_occurrences
from xclass.sampling.unigram import read_weights
from xclass.types import Ragged

NOTHING = Ragged.from_lists([])


def taught(window=0, decay=0.0):
    law = DecayedLaw(12, decay) if decay else LearnedLaw(12, window)
    for labels in ([0, 0, 1, 7], [3], [0, 7, 7, 7, 2, 11]):
        law.update(torch.tensor(labels))
    return law


LAWS = {
    "uniform": lambda: UniformLaw(12),
    "log-uniform": lambda: LogUniformLaw(12),
    "weighted": lambda: WeightedLaw(torch.tensor([5.0, 0.0, 0.1, 3.0, 1e-7, 2.0, 2.0, 0.0, 1.0, 9.0]).double()),
    "learned": taught,
    "learned window": lambda: taught(window=5),
    "learned decay": lambda: taught(decay=0.6),
}


@pytest.mark.parametrize("name", LAWS)
def test_draws_follow_the_law(name):
    law = LAWS[name]()
    p = law.probability(torch.arange(law.num_items))
    assert float(p.sum()) == pytest.approx(1.0, abs=1e-12)
    drawn = torch.bincount(law.draw(40_000, torch_generator(0, "test")), minlength=law.num_items)
    usual = p > 1e-4
    assert int(drawn[p == 0].sum()) == 0
    expected = p[usual] / p[usual].sum() * drawn[usual].sum()
    assert stats.chisquare(drawn[usual].numpy(), expected.numpy()).pvalue > 1e-4


@pytest.mark.parametrize("name", LAWS)
def test_bins_sum_as_the_law_does(name):
    law = LAWS[name]()
    p = law.probability(torch.arange(law.num_items))
    for tries in (1.0, 3.7, 40.0):
        exact = float((1 - (1 - p) ** tries).sum())
        assert expected_distinct(law.bins(), tries) == pytest.approx(exact, rel=2e-3)


def test_bins_of_large_laws():
    law = LogUniformLaw(3_000_000)
    p = law.probability(torch.arange(law.num_items))
    assert len(law.bins().number) < 10_000
    for tries in (100.0, 2e4, 3e6):
        assert expected_distinct(law.bins(), tries) == pytest.approx(float((1 - (1 - p) ** tries).sum()), rel=1e-5)
    weights = torch.rand(300_000, generator=torch_generator(0, "test"), dtype=torch.float64) ** 4
    weighted = WeightedLaw(weights)
    p = weights / weights.sum()
    for tries in (100.0, 2e4, 1e6):
        assert expected_distinct(weighted.bins(), tries) == pytest.approx(float((1 - (1 - p) ** tries).sum()), rel=1e-4)


def test_the_alias_table_adds_up_to_the_weights():
    generator = torch_generator(0, "test")
    for trial in range(60):
        weights = torch.rand(trial % 13 + 1, generator=generator, dtype=torch.float64) ** (trial % 5)
        weights[torch.rand(len(weights), generator=generator) < 0.2] = 0
        weights[0] += 0.1
        share, other = alias_table(weights, float(weights.sum()))
        mass = (
            torch.zeros(len(weights), dtype=torch.float64).scatter_add_(0, other, 1 - share.double()) + share.double()
        )
        torch.testing.assert_close(mass / len(weights), weights / weights.sum(), rtol=1e-5, atol=1e-7)


def test_the_alias_table_is_the_same_compiled():
    generator = torch_generator(1, "test")
    for size in (1, 2, 3, 50, 1000):
        for power in (0, 1, 6):
            weights = torch.rand(size, generator=generator, dtype=torch.float64) ** power
            weights[1::3] = 0
            plain, compiled = (
                packed(*alias_table(weights, float(weights.sum()))),
                packed_table(weights, float(weights.sum())),
            )
            (share, other), (own_share, own_other) = unpacked(plain), unpacked(compiled)
            assert torch.equal(share, own_share)
            assert torch.equal(other[share < 1], own_other[share < 1])


def test_first_occurrences_plain_and_compiled():
    generator = torch_generator(0, "test")
    for size, span in ((1, 1), (40, 7), (3000, 900), (3000, 10**12)):
        ids = torch.randint(span, (size,), generator=generator)
        expected = list(dict.fromkeys(ids.tolist()))
        for limit in (1, 5, size):
            for function in (first_occurrences, without_replacement._plain_first, without_replacement._compiled_first):
                values, places = function(ids, limit)
                assert values.tolist() == expected[:limit]
                assert ids[places].tolist() == values.tolist() and bool((places.diff() > 0).all())


def rejection(p, size):
    """Every ordered sample of ``size`` different items with its probability."""
    for order in itertools.permutations([i for i, value in enumerate(p) if value > 0], size):
        probability, left = 1.0, 1.0
        for item in order:
            probability *= p[item] / left
            left -= p[item]
        yield order, probability


@pytest.mark.parametrize("max_tries", [without_replacement.MAX_TRIES, 0])
def test_samples_without_repeats_have_the_law_of_rejection(monkeypatch, max_tries):
    """Also from the part that draws without rejecting, which takes over after very many tries."""
    monkeypatch.setattr(without_replacement, "MAX_TRIES", max_tries)
    p = [0.6, 0.25, 0.1, 0.05]
    law, generator = WeightedLaw(torch.tensor(p).double()), torch_generator(0, "test")
    samples = [draw_distinct(law, 2, generator, 3.0) for _ in range(6000)]
    seen = Counter(tuple(sample.ids.tolist()) for sample in samples)
    pairs = dict(rejection(p, 2))
    assert stats.chisquare([seen[pair] for pair in pairs], [6000 * value for value in pairs.values()]).pvalue > 1e-4
    tries = sum(value * (1 + 1 / (1 - p[pair[0]])) for pair, value in pairs.items())
    assert sum(sample.tries for sample in samples) / 6000 == pytest.approx(tries, rel=0.03)


def test_a_very_uneven_law_ends():
    law = WeightedLaw(torch.tensor([1.0, 1e-12, 1e-13]).double())
    sample = draw_distinct(law, 3, torch_generator(0, "test"), 4.0)
    assert sorted(sample.ids.tolist()) == [0, 1, 2] and sample.tries > 1e9


@pytest.mark.parametrize("name", LAWS)
def test_calibrated_counts_add_up_to_the_sample(name):
    law = LAWS[name]()
    for size in (1, 3, 6):
        sampler = Drawn(law, size, replacement=False)
        total = float(sampler.expected_count(torch.arange(law.num_items)).sum())
        assert total == pytest.approx(size, rel=2e-3 if "learned" in name else 1e-3)
    everything = Drawn(law, law.num_drawable, replacement=False)
    drawable = law.probability(torch.arange(law.num_items)) > 0
    assert torch.equal(everything.expected_count(torch.arange(law.num_items)), drawable.double())
    assert (
        sorted(everything.draw(NOTHING, torch_generator(0, "test")).tolist()) == drawable.nonzero().flatten().tolist()
    )


@pytest.mark.parametrize(
    ("law", "size"),
    [
        (LogUniformLaw(10), 4),
        (LogUniformLaw(50), 4),
        (LogUniformLaw(50), 25),
        (WeightedLaw((torch.arange(40) + 1.0).reciprocal().double()), 3),
        (WeightedLaw((torch.arange(40) + 1.0).reciprocal().double()), 12),
    ],
)
def test_calibrated_counts_have_less_bias_than_tensorflows(law, size):
    every, draws = torch.arange(law.num_items), 3000
    calibrated, tensorflow = (Drawn(law, size, False, counts) for counts in ("calibrated", "tensorflow"))
    inside, formula = (torch.zeros(law.num_items, dtype=torch.float64) for _ in range(2))
    weighed = {"calibrated": 0.0, "tensorflow": 0.0}
    generator = torch_generator(0, "test")
    for _ in range(draws):
        ids = tensorflow.draw(NOTHING, generator)
        inside[ids] += 1 / draws
        formula += tensorflow.expected_count(every) / draws
        weighed["tensorflow"] += float((1 / tensorflow.expected_count(ids)).sum()) / draws
        weighed["calibrated"] += float((1 / calibrated.expected_count(ids)).sum()) / draws
    ours = float((calibrated.expected_count(every) - inside).abs().max())
    assert ours <= float((formula - inside).abs().max()) + 0.01
    assert ours <= 0.04
    off = {name: abs(value / law.num_items - 1) for name, value in weighed.items()}
    assert off["calibrated"] <= off["tensorflow"] + 0.01


def test_tensorflows_counts():
    """p·K where nothing was rejected, else 1 − (1 − p)^tries, with the tries of that draw."""
    sampler, generator = LogUniform(30, 5, replacement=False, counts="tensorflow"), torch_generator(0, "test")
    p = LogUniformLaw(30).probability(torch.arange(30))
    seen = set()
    for _ in range(40):
        state = generator.get_state()
        ids = sampler.draw(NOTHING, generator)
        again = torch.Generator()
        again.set_state(state)
        singles = sampler.law.draw(60, again).tolist()
        tries = next(n for n in range(61) if len(set(singles[:n])) == 5)
        assert list(dict.fromkeys(singles))[:5] == ids.tolist()
        expected = 5 * p if tries == 5 else 1 - (1 - p) ** tries
        torch.testing.assert_close(sampler.expected_count(torch.arange(30)), expected, rtol=1e-12, atol=0)
        seen.add(tries == 5)
    assert seen == {True, False}


def test_calibration_is_right_at_a_hundred_million_items():
    sampler = LogUniform(100_000_000, 8192, replacement=False)
    sample = sampler.sample(Ragged.from_lists([[0, 99_999_999]]), torch_generator(0, "test"))
    assert len(sample.ids.unique()) == 8192
    rare = float(sample.pos_log_q[1])
    p = math.log1p(1 / 1e8) / math.log1p(1e8)
    assert rare == pytest.approx(math.log(-math.expm1(sampler._tries * math.log1p(-p))), abs=1e-5)
    edges = np.concatenate([np.arange(2000), np.geomspace(2000, 1e8, 400_000)])
    mass = np.log1p(np.diff(edges) / (edges[:-1] + 1)) / math.log1p(1e8)
    number = np.diff(edges)
    assert float((number * -np.expm1(sampler._tries * np.log1p(-mass / number))).sum()) == pytest.approx(8192, rel=1e-6)
    assert len(Uniform(100_000_000, 8192, replacement=False).draw(NOTHING, torch_generator(0, "test")).unique()) == 8192


def test_learned_counts_are_exact():
    law, counts = LearnedLaw(5), [1, 1, 1, 1, 1]
    for labels in ([0, 0, 4], [], [2, 0, 0, 0]):
        law.update(torch.tensor(labels, dtype=torch.int64))
        for label in labels:
            counts[label] += 1
    assert law.counts().tolist() == counts
    expected = torch.tensor(counts).double() / sum(counts)
    torch.testing.assert_close(law.probability(torch.arange(5)), expected, rtol=1e-15, atol=0)


@pytest.mark.parametrize("compiled", [True, False])
def test_a_window_forgets(monkeypatch, compiled):
    monkeypatch.setattr(learned_module, "compiles", lambda: compiled)
    law, stream, generator = LearnedLaw(6, window=7), [], torch_generator(0, "test")
    for size in (3, 2, 1, 4, 7, 9, 0, 30, 2, 6):
        labels = torch.randint(6, (size,), generator=generator)
        law.update(labels)
        stream = (stream + labels.tolist())[-7:]
        assert (law.counts() - 1).tolist() == [stream.count(i) for i in range(6)]
        assert law.num_remembered == len(stream)
        numbers, total = law.bins().number, float((law.bins().number * law.bins().probability).sum())
        assert float(numbers.sum()) == 6 and total == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("replacement", [True, False])
def test_a_long_stream_is_folded(monkeypatch, replacement):
    """Folded or not: the same counts, the same law, the same draws after a state was given on."""
    monkeypatch.setattr(learned_module, "FOLD", 40)
    monkeypatch.setattr(learned_module, "FOLD_SHARE", 1)
    generator, counts = torch_generator(0, "test"), torch.ones(30, dtype=torch.int64)
    sampler = LearnedUnigram(30, 6, replacement)
    for step in range(25):
        labels = (torch.rand(7, generator=generator) ** 3 * 30).long()
        sampler.update(labels)
        counts += torch.bincount(labels, minlength=30)
        assert torch.equal(sampler.law.counts(), counts)
        assert sampler.law.num_logged <= 40 and sampler.law.total == int(counts.sum())
        other = LearnedUnigram(30, 6, replacement)
        other.load_state({key: value.clone() for key, value in sampler.state().items()})
        seeds = torch_generator(step, "draw"), torch_generator(step, "draw")
        assert torch.equal(sampler.draw(NOTHING, seeds[0]), other.draw(NOTHING, seeds[1]))
    assert sampler.law.num_folded > 100
    drawn = torch.bincount(sampler.law.draw(30_000, generator), minlength=30)
    assert stats.chisquare(drawn.numpy(), (counts / counts.sum() * 30_000).numpy()).pvalue > 1e-4


def test_decay_weighs_by_age():
    law = DecayedLaw(4, 0.5)
    for labels in ([0, 0, 1], [], [2]):
        law.update(torch.tensor(labels, dtype=torch.int64))
    weights = torch.tensor([1 + 2 * 0.25, 1 + 0.25, 1 + 1.0, 1.0]).double()
    torch.testing.assert_close(law.probability(torch.arange(4)), weights / weights.sum(), rtol=1e-12, atol=0)


def test_decay_goes_on_for_ever():
    """Scaled back and cut many times, the weights stay what the formula says."""
    law, generator = DecayedLaw(5, 0.2), torch_generator(0, "test")
    history = []
    for _ in range(400):
        labels = torch.randint(5, (3,), generator=generator)
        law.update(labels)
        history.append(labels)
    weights = torch.ones(5, dtype=torch.float64)
    for age, labels in enumerate(reversed(history)):
        weights.scatter_add_(0, labels, torch.full((3,), 0.2**age, dtype=torch.float64))
    torch.testing.assert_close(law.probability(torch.arange(5)), weights / weights.sum(), rtol=1e-10, atol=0)
    assert len(law.state()["log"]) < 3 * 60


def test_learning_is_after_the_draw():
    sampler = LearnedUnigram(4, 8)
    first = sampler.sample(Ragged.from_lists([[2, 2]]), torch_generator(0, "test"))
    torch.testing.assert_close(first.pos_log_q.exp(), torch.full((2,), 2.0))
    second = sampler.sample(Ragged.from_lists([[2]]), torch_generator(0, "test"))
    torch.testing.assert_close(second.pos_log_q.exp(), torch.tensor([8 * 3 / 6]))


def test_streaming_frequency_finds_the_rates():
    """Items that come every 1, 2, 5 batches, one twice a batch, one never."""
    flow = StreamingFrequency(5, learning_rate=0.1, expected_count=0.01)
    for batch in range(1, 400):
        flow.update(torch.tensor([0] * 2 + [1] + [2] * (batch % 2 == 0) + [3] * (batch % 5 == 0)))
    rates = flow.log_expected_count(torch.arange(5)).exp()
    torch.testing.assert_close(rates, torch.tensor([2.0, 1.0, 0.5, 0.2, 0.01]).double(), rtol=0.01, atol=0)


def test_more_hashes_repair_collisions():
    generator = torch_generator(0, "test")
    p = 1 / (torch.arange(300) + 1.0)
    errors = []
    for hashes in (1, 4):
        flow = StreamingFrequency(300, 0.02, hashes, num_buckets=150, expected_count=0.05)
        for _ in range(1500):
            flow.update(torch.multinomial(p, 16, replacement=True, generator=generator))
        rate = 16 * p / p.sum()
        errors.append(float((flow.log_expected_count(torch.arange(100, 200)) - rate[100:200].log()).abs().mean()))
    assert errors[1] < 0.7 * errors[0]


def test_unigram_from_files_reserved_ids_and_shards(tmp_path):
    path = tmp_path / "weights.txt"
    path.write_bytes(b"a,4\r\n\r\nb,x,1\n 9 \n16\n")
    assert read_weights(path).tolist() == [4, 1, 9, 16]
    every = torch.arange(6)
    whole = FixedUnigram(path, 1, power=0.5, num_reserved_ids=2).expected_count(every)
    torch.testing.assert_close(whole, torch.tensor([0, 0, 0.2, 0.1, 0.3, 0.4]).double())
    for shard in range(2):
        part = FixedUnigram(path, 1, power=0.5, num_reserved_ids=2, num_shards=2, shard=shard)
        own = whole[shard::2]
        torch.testing.assert_close(part.expected_count(every[:3]), own / own.sum())
    assert FixedUnigram([2, 0, 2], 1, power=0.0).expected_count(torch.arange(3)).tolist() == [0.5, 0, 0.5]


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: Uniform(5, 6, replacement=False), "more different items"),
        (lambda: FixedUnigram([1.0, 0.0, 2.0], 3, replacement=False), "num_sampled ≤ 2"),
        (lambda: Uniform(5, 2, counts="exact"), "counts is unknown"),
        (lambda: FixedUnigram([1.0], 1, num_shards=2, shard=2), "no such shard"),
        (lambda: FixedUnigram([1.0], 1, num_reserved_ids=-1), "num_reserved_ids"),
        (lambda: FixedUnigram([1.0], 1, power=math.nan), "power or smoothing"),
        (lambda: LearnedUnigram(5, 2, window=3, decay=0.5), "do not go together"),
        (lambda: LearnedUnigram(5, 2, window=-1), "window"),
        (lambda: LearnedUnigram(5, 2, decay=1.5), "decay"),
        (lambda: LearnedUnigram(5, 2).update(torch.tensor([5])), "0 to 4"),
        (lambda: LearnedUnigram(5, 2).update(torch.tensor([1.0])), "int64"),
        (lambda: StreamingFrequency(5, learning_rate=0.0), "learning_rate"),
    ],
)
def test_bad_input_is_refused(act, message):
    with pytest.raises(InputError, match=message):
        act()


def test_files_of_weights_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match="can't be read"):
        FixedUnigram(tmp_path / "none.txt", 1)
    (tmp_path / "bad.txt").write_text("1\nx,two\n")
    with pytest.raises(DataError, match=r"bad.txt:2"):
        FixedUnigram(tmp_path / "bad.txt", 1)
    (tmp_path / "negative.txt").write_text("1\n-2\n")
    with pytest.raises(InputError, match="item 1"):
        FixedUnigram(tmp_path / "negative.txt", 1)


def test_tries_of_the_calibration():
    assert calibrated_tries(UniformLaw(10).bins(), 5) == pytest.approx(math.log(0.5) / math.log(0.9), rel=1e-9)
    assert math.isinf(calibrated_tries(UniformLaw(10).bins(), 10))
