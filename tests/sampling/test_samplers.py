"""Every sampler: conformance; each distribution against its formula; large catalogues; bad input."""

import math

import pytest
import torch

from xclass.errors import InputError
from xclass.runtime.rng import torch_generator
from xclass.sampling import (
    SAMPLERS,
    AllItems,
    FixedUnigram,
    GivenCandidates,
    HardNegatives,
    InBatch,
    LearnedUnigram,
    LogUniform,
    Mixture,
    TargetSampling,
    Uniform,
)
from xclass.sampling.config import DRAWN, Known, SamplerConfig, build_sampler
from xclass.testing.sampler import check_sampler
from xclass.types import Ragged

COUNTS = torch.tensor([9, 5, 3, 1, 1, 0])
BATCH = Ragged.from_lists([[0, 3], [], [5, 1, 1]])
QUERIES = torch.tensor([2, 0, 1])
LISTS = Ragged.from_lists([[1, 2, 4], [], [5, 0, 2, 3]])


def hard():
    sampler = HardNegatives(3, 6)
    sampler.mined(LISTS, Ragged.from_lists([[4], [], [0]]))
    return sampler


def taught(**switches):
    sampler = LearnedUnigram(6, switches.pop("num_sampled", 4), **switches)
    for labels in ([0, 0, 0, 1], [0, 2, 1, 5, 0, 0], [3]):
        sampler.update(torch.tensor(labels))
    return sampler


MAKERS = {
    "uniform": lambda: Uniform(6, 4),
    "log-uniform": lambda: LogUniform(6, 4),
    "fixed-unigram": lambda: FixedUnigram(COUNTS, 4, power=0.75),
    "uniform, per query": lambda: Uniform(6, 4, per_query=True),
    "log-uniform, per query": lambda: LogUniform(6, 4, per_query=True),
    "fixed-unigram, per query": lambda: FixedUnigram(COUNTS, 4, power=0.75, per_query=True),
    "learned-unigram, per query": lambda: taught(per_query=True),
    "mixture of shared and per query": lambda: Mixture([Uniform(6, 2), FixedUnigram(COUNTS, 3, per_query=True)]),
    "learned-unigram": taught,
    "learned-unigram window": lambda: taught(window=5),
    "learned-unigram decay": lambda: taught(decay=0.5),
    "mixture": lambda: Mixture([Uniform(6, 2), FixedUnigram(COUNTS, 3), LogUniform(6, 1)]),
    "mixture with hard": lambda: Mixture([hard(), Uniform(6, 2), LearnedUnigram(6, 2)]),
    "target": lambda: TargetSampling(6, 3),
    "given": lambda: GivenCandidates(LISTS, 6),
    "given, two of each": lambda: GivenCandidates(LISTS, 6, num_sampled=2),
    "hard": hard,
    "all": lambda: AllItems(6),
}
DISTINCT = {
    "uniform": lambda **k: Uniform(6, 4, False, **k),
    "log-uniform": lambda **k: LogUniform(30, 6, False, **k),
    "fixed-unigram": lambda **k: FixedUnigram([9, 5, 3, 1, 1, 0, 2, 4], 4, 1.0, 0.0, False, **k),
    "learned-unigram": lambda **k: taught(replacement=False, **k),
    "learned-unigram window": lambda **k: taught(replacement=False, window=5, **k),
    "learned-unigram decay": lambda **k: taught(replacement=False, decay=0.5, **k),
}


def test_every_registered_sampler_is_tested():
    assert {name for name in MAKERS if name in SAMPLERS} | {"in-batch", "adaptive"} == set(SAMPLERS)
    assert {name for name in DISTINCT if name in SAMPLERS} == set(DRAWN)


@pytest.mark.parametrize("name", MAKERS)
def test_conformance(name):
    check_sampler(MAKERS[name], BATCH, QUERIES)


@pytest.mark.parametrize("name", DISTINCT)
def test_conformance_without_replacement(name):
    """The calibrated counts are off by what a fixed number of tries leaves: a few hundredths in so small catalogues."""
    check_sampler(DISTINCT[name], BATCH, QUERIES, tolerance=0.0 if name == "uniform" else 0.05)


def test_in_batch_over_batches_drawn_from_the_counts():
    """Its randomness is the batch's: over batches of pairs drawn by count, the mean number of times is exp(log_q)."""
    sampler = InBatch(COUNTS)
    generator = torch_generator(0, "test")
    seen = torch.zeros(6, dtype=torch.float64)
    for _ in range(3000):
        batch = torch.multinomial(COUNTS.double(), 4, replacement=True, generator=generator)
        sample = sampler.sample(Ragged(torch.arange(5), batch), generator)
        assert torch.equal(sample.ids, batch)
        seen += torch.bincount(sample.ids, minlength=6)
    drawn = COUNTS > 0
    expected = sampler.log_expected_count(torch.arange(6), Ragged(torch.arange(5), batch)).exp()
    torch.testing.assert_close((seen / 3000)[drawn], expected[drawn], rtol=0.12, atol=0.0)
    assert bool(torch.isfinite(sampler.sample(BATCH, generator).pos_log_q).all())


def test_targets_of_a_part_are_as_frequent_as_their_log_q_says():
    """Over a stream of pairs drawn by count, from its first batch on, when fewer than K targets are known."""
    counts = (1000.0 / torch.arange(1, 61)).long()
    generator, sampler = torch_generator(0, "test"), TargetSampling(60, 25, counts)
    seen, expected = torch.zeros(60, dtype=torch.float64), torch.zeros(60, dtype=torch.float64)
    for _ in range(1000):
        batch = torch.multinomial(counts.double(), 6, replacement=True, generator=generator)
        lists = Ragged(torch.arange(7), batch)
        expected += sampler.log_expected_count(torch.arange(60), lists).exp()
        drawn = sampler.sample(lists, generator)
        seen += torch.bincount(drawn.ids, minlength=60)
        torch.testing.assert_close(float(expected.sum()), float(seen.sum()), rtol=1e-6, atol=0)
    bands, wanted = seen.view(-1, 10).mean(1) / 1000, expected.view(-1, 10).mean(1) / 1000  # batches overlap: noisy
    torch.testing.assert_close(bands, wanted, rtol=0.0, atol=0.04)
    assert float(wanted[0]) > 0.75 and float(wanted[-1]) < 0.3
    with pytest.raises(InputError, match="other items"):
        TargetSampling(7, 3, counts)


def test_log_uniform_formula():
    log_q = LogUniform(10, 3).log_expected_count(torch.arange(10), BATCH)
    expected = [math.log(3 * math.log((c + 2) / (c + 1)) / math.log(11)) for c in range(10)]
    torch.testing.assert_close(log_q, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)
    assert float((log_q.exp() / 3).sum()) == pytest.approx(1.0, abs=1e-12)


def test_log_uniform_keeps_its_precision_in_a_huge_catalogue():
    ids = torch.tensor([10**12])
    log_q = float(LogUniform(10**13, 1).log_expected_count(ids, BATCH))
    assert log_q == pytest.approx(-math.log(1e12 + 1.5) - math.log(math.log(1e13)), abs=1e-10)


def test_unigram_formula_and_powers():
    weights = torch.tensor([4.0, 1.0, 0.0])
    assert FixedUnigram(weights, 2, power=0.5).log_expected_count(
        torch.tensor([0, 1]), BATCH
    ).exp().tolist() == pytest.approx([4 / 3, 2 / 3])
    flat = FixedUnigram(weights, 2, power=0.0).log_expected_count(torch.tensor([0, 1]), BATCH)
    assert flat.exp().tolist() == pytest.approx([1.0, 1.0])


def test_an_item_of_weight_zero_is_never_drawn_and_finite_as_a_positive():
    sampler = FixedUnigram(torch.tensor([0.0, 2.0, 0.0, 1.0, 0.0]), 500)
    sample = sampler.sample(Ragged.from_lists([[0, 2, 4]]), torch_generator(0, "test"))
    assert set(sample.ids.tolist()) == {1, 3}
    assert bool(torch.isfinite(sample.pos_log_q).all())


def test_unigram_totals_are_exact_beyond_float32():
    """A float32 running total stops growing at 2^24 ones."""
    sampler = FixedUnigram(torch.ones(20_000_000), 8)
    last = sampler.log_expected_count(torch.tensor([19_999_999]), BATCH)
    assert float(last) == pytest.approx(math.log(8 / 20_000_000), abs=1e-9)
    draws = FixedUnigram(torch.ones(20_000_000), 4000).draw(BATCH, torch_generator(0, "test"))
    assert float(draws.double().mean()) == pytest.approx(1e7, rel=0.03) and len(draws.unique()) > 3990


def test_a_mixture_adds_expected_counts():
    parts = [Uniform(6, 2), LogUniform(6, 3)]
    ids = torch.arange(6)
    total = sum(part.log_expected_count(ids, BATCH).exp() for part in parts)
    torch.testing.assert_close(Mixture(parts).log_expected_count(ids, BATCH).exp(), total, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "kind", ["uniform", "log-uniform", "fixed-unigram", "learned-unigram", "in-batch", "target", "hard", "all"]
)
def test_configuration_builds_each(kind):
    sampler = build_sampler(SamplerConfig(kind=kind, num_sampled=3), Known(9, 6, COUNTS))
    assert type(sampler) is SAMPLERS[kind]
    mixed = build_sampler(SamplerConfig(kind="mixture", parts=(SamplerConfig(kind=kind),)), Known(9, 6, COUNTS))
    assert type(mixed) is Mixture


@pytest.mark.parametrize(
    "make",
    [
        lambda: Uniform(0, 3),
        lambda: Uniform(5, 0),
        lambda: Uniform(5, 2.0),
        lambda: Uniform(5, 2, replacement=False, per_query=True),
        lambda: FixedUnigram(torch.tensor([1.0, -1.0]), 2),
        lambda: FixedUnigram(torch.tensor([1.0, float("nan")]), 2),
        lambda: FixedUnigram(torch.zeros(3), 2),
        lambda: FixedUnigram(torch.ones(2, 2), 2),
        lambda: Mixture([Uniform(5, 1), Uniform(6, 1)]),
        lambda: Mixture([]),
        lambda: InBatch(torch.tensor([1, -1])),
    ],
)
def test_bad_input_is_refused(make):
    with pytest.raises(InputError, match="wanted"):
        make()
