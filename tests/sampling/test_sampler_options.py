"""Options of the samplers: each reaches its sampler from a configuration, and what does not fit is refused."""

import math

import pytest
import torch

from xclass.config import build_config
from xclass.errors import ConfigError, InputError
from xclass.runtime.rng import torch_generator
from xclass.sampling import (
    FixedUnigram,
    GivenCandidates,
    HardNegatives,
    LogUniform,
    Mixture,
    StreamingFrequency,
    Uniform,
)
from xclass.sampling.config import Known, SamplerConfig, build_sampler
from xclass.sampling.distributions import fixed
from xclass.training.run_config import RunConfig
from xclass.types import Ragged

COUNTS = torch.tensor([9, 5, 3, 1, 1, 0])
EVERY = torch.arange(6)
NOTHING = Ragged.from_lists([])


def built(**keys):
    return build_sampler(SamplerConfig(**keys), Known(3, 6, COUNTS))


def counts_of(sampler):
    return sampler.log_expected_count(EVERY, NOTHING).exp()


@pytest.mark.parametrize(
    ("keys", "weights"),
    [
        ({}, (COUNTS + 1.0) ** 0.75),
        ({"power": 1.0}, COUNTS + 1.0),
        ({"power": 1.0, "smoothing": 0.0}, COUNTS),
        ({"power": 0.0, "smoothing": 0.0}, torch.tensor([1.0, 1, 1, 1, 1, 0])),
        ({"power": 1.0, "num_reserved_ids": 2}, torch.tensor([0.0, 0, 4, 2, 2, 1])),
        ({"power": 1.0, "num_shards": 2, "shard": 1}, torch.tensor([0.0, 6, 0, 2, 0, 1])),
        ({"power": 1.0, "num_shards": 4, "shard": 3, "num_reserved_ids": 1}, torch.tensor([0.0, 0, 0, 2, 0, 0])),
    ],
)
def test_fixed_unigram_by_train_counts(keys, weights):
    sampler = built(kind="fixed-unigram", num_sampled=3, **keys)
    weights = weights.double()
    torch.testing.assert_close(counts_of(sampler), 3 * weights / weights.sum(), rtol=1e-6, atol=0)
    drawn = sampler.law.draw(2000, torch_generator(0, "test"))
    assert set(drawn.tolist()) == set(weights.nonzero().squeeze(1).tolist())


def test_fixed_unigram_by_a_file(tmp_path):
    path = tmp_path / "weights.csv"
    path.write_text("\n".join(f"item {i},{i}" for i in range(1, 6)))
    keys = {"kind": "fixed-unigram", "num_sampled": 2, "file": str(path), "power": 1.0}
    sampler = built(**keys, num_reserved_ids=1)
    torch.testing.assert_close(counts_of(sampler), torch.tensor([0, 1, 2, 3, 4, 5]).double() * 2 / 15)
    with pytest.raises(ConfigError, match="wanted: 6 weights"):
        built(**keys)


def test_shards_together_are_the_whole():
    whole = FixedUnigram(COUNTS, 1, smoothing=1.0)
    mass = torch.zeros(6, dtype=torch.float64)
    for shard in range(3):
        part = FixedUnigram(COUNTS, 1, smoothing=1.0, num_shards=3, shard=shard, local_ids=False)
        local = FixedUnigram(COUNTS, 1, smoothing=1.0, num_shards=3, shard=shard)
        own = (COUNTS[shard::3] + 1).sum() / (COUNTS + 1).sum()
        torch.testing.assert_close(counts_of(part)[shard::3], local.expected_count(torch.arange(2)))
        mass += own * counts_of(part)
    torch.testing.assert_close(mass, counts_of(whole))


def test_a_shard_without_repeats():
    sampler = FixedUnigram(torch.ones(40), 9, num_shards=4, shard=2, local_ids=False, replacement=False)
    sample = sampler.sample(Ragged.from_lists([[2, 3]]), torch_generator(0, "test"))
    assert len(sample.ids.unique()) == 9 and bool((sample.ids % 4 == 2).all())
    assert float(sample.pos_log_q[0].exp()) == pytest.approx(0.9, rel=1e-5)
    with pytest.raises(InputError, match="num_sampled ≤ 10"):
        FixedUnigram(torch.ones(40), 11, num_shards=4, shard=2, local_ids=False, replacement=False)


@pytest.mark.parametrize("compiled", [True, False])
def test_a_table_is_the_same_compiled_or_not(monkeypatch, compiled):
    """And so are the draws: what numba adds is speed."""
    weights = torch.rand(500, generator=torch_generator(0, "test"), dtype=torch.float64) ** 3
    expected = fixed.WeightedLaw(weights).draw(3000, torch_generator(1, "test"))
    if not compiled:
        monkeypatch.setattr(fixed, "compiles", lambda: False)
    assert torch.equal(fixed.WeightedLaw(weights).draw(3000, torch_generator(1, "test")), expected)


def test_in_batch_without_repeats():
    """Over batches drawn by count, an item is there as often as its count says."""
    sampler, generator = built(kind="in-batch", replacement=False), torch_generator(0, "test")
    seen = torch.zeros(6, dtype=torch.float64)
    for _ in range(3000):
        batch = torch.multinomial(COUNTS.double(), 4, replacement=True, generator=generator)
        positives = Ragged(torch.arange(5), batch)
        sample = sampler.sample(positives, generator)
        assert sample.ids.tolist() == list(dict.fromkeys(batch.tolist()))
        seen[sample.ids] += 1 / 3000
    exact = 1 - (1 - COUNTS / 19.0) ** 4
    expected = sampler.log_expected_count(EVERY, positives).exp()
    torch.testing.assert_close(expected[:5], exact[:5].double(), rtol=1e-6, atol=0)
    torch.testing.assert_close(seen, exact.double(), rtol=0, atol=0.035)


def test_in_batch_streaming_reaches_its_options():
    sampler = built(
        kind="in-batch", frequency="streaming", frequency_rate=0.2, frequency_hashes=3, frequency_buckets=4, frequency_start=0.5
    )  # fmt: skip
    flow = sampler._streaming
    assert isinstance(flow, StreamingFrequency)
    assert (flow.learning_rate, flow.num_hashes, flow.num_buckets) == (0.2, 3, 4)
    assert counts_of(sampler).tolist() == pytest.approx([0.5] * 6)


@pytest.mark.parametrize("sampled", [0, 2])
def test_a_mixture_s_cells_are_the_sum_of_its_parts(sampled):
    """Cell by cell: the shared columns are computed once, and changed where a list holds the item."""
    lists = Ragged.from_lists([[1, 2, 4], [], [5, 0, 2, 3]])
    hard = HardNegatives(3, 6)
    hard.mined(Ragged.from_lists([[3], [2, 1], [0]]), Ragged.from_lists([[], [1], []]))
    parts = [LogUniform(6, 3), GivenCandidates(lists, 6, sampled), Uniform(6, 4), hard]
    mixture, queries = Mixture([parts[0], Mixture(parts[1:])]), torch.tensor([2, 2, 0, 1])
    positives = Ragged.from_lists([[0], [5, 1], [], [4]])
    for seed in range(5):
        ids, log_q, pos_log_q = mixture.sample(positives, torch_generator(seed, "test"), queries)
        assert bool((ids[:, :7] == ids[0, :7]).all())
        for row, query in enumerate(queries.tolist()):
            for item, found in zip(ids[row].tolist(), log_q[row].tolist(), strict=True):
                expected = 0.0 if item < 0 else math.log(_count(item, query, sampled, lists, hard.candidates))
                assert found == pytest.approx(expected, abs=1e-6)
        owners = queries[positives.rows()].tolist()
        for item, query, found in zip(positives.values.tolist(), owners, pos_log_q.tolist(), strict=True):
            assert found == pytest.approx(math.log(_count(item, query, sampled, lists, hard.candidates)), abs=1e-6)


def _count(item, query, sampled, lists, mined):
    shared = 3 * math.log((item + 2) / (item + 1)) / math.log(7) + 4 / 6
    row = lists.to_lists()[query]
    given = (min(sampled / len(row), 1) if sampled else 1) if item in row else 0
    return shared + given + (item in mined.to_lists()[query])


def test_log_uniform_wants_falling_frequencies():
    with pytest.raises(ConfigError, match="falling frequency") as caught:
        build_sampler(SamplerConfig(kind="log-uniform"), Known(3, 3, torch.tensor([5, 2, 3])))
    assert "item 2 with 3 train pairs after 2" in str(caught.value) and "wanted" in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"kind": "uniform", "power": 1.0}, "power is not a key"),
        ({"kind": "log-uniform", "window": 5}, "window is not a key"),
        ({"kind": "all", "replacement": False}, "replacement is not a key"),
        ({"kind": "in-batch", "counts": "tensorflow"}, "counts is not a key"),
        ({"kind": "uniform", "counts": "tensorflow"}, "replacement = false"),
        ({"kind": "in-batch", "frequency_rate": 0.5}, 'frequency = "streaming"'),
        ({"kind": "learned-unigram", "window": 5, "decay": 0.5}, "do not go together"),
        ({"kind": "uniform", "smoothing": 2.0}, "smoothing is not a key"),
        ({"kind": "fixed-unigram", "num_shards": 2, "shard": 2}, "below num_shards"),
        ({"kind": "fixed-unigram", "num_sampled": 0}, "at least 1"),
        ({"kind": "given"}, "needs file"),
        ({"kind": "hard", "file": "x.csv"}, "file is not a key"),
        ({"kind": "uniform", "parts": [{"kind": "uniform"}]}, "parts are for"),
        ({"kind": "mixture", "parts": [{"kind": "uniform", "decay": 0.5}]}, "decay is not a key"),
        ({"kind": "learned-unigram", "counts": "exact"}, "'calibrated' or 'tensorflow'"),
    ],
)
def test_what_does_not_fit_is_refused(keys, message):
    with pytest.raises(ConfigError) as caught:
        build_config(RunConfig, {"sampler": keys})
    assert message in str(caught.value)


def test_more_than_can_be_drawn_is_refused_when_it_is_built():
    for kind in ("uniform", "log-uniform", "fixed-unigram", "learned-unigram"):
        with pytest.raises(InputError, match="num_sampled ≤ 6"):
            built(kind=kind, num_sampled=7, replacement=False)
    with pytest.raises(InputError, match="num_sampled ≤ 5"):
        built(kind="fixed-unigram", num_sampled=6, replacement=False, smoothing=0.0)
