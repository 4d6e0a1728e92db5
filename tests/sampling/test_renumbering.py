"""What samplers have learned, at the new numbers of a catalogue that has grown."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from xclass.runtime.rng import torch_generator
from xclass.sampling import Known, Sampler, SamplerConfig, build_sampler
from xclass.sampling.distributions import learned as learned_law_module
from xclass.sampling.learned import LearnedUnigram
from xclass.sampling.renumbering import renumbered
from xclass.types import Ragged

OLD, NEW = 30, 44
NUMBERS = torch.randperm(NEW, generator=torch_generator(3, "numbers"))[:OLD]  # new number of each old item

LEARNING: list[dict[str, Any]] = [
    {"kind": "learned-unigram", "num_sampled": 12},
    {"kind": "learned-unigram", "num_sampled": 12, "replacement": False},
    {"kind": "learned-unigram", "num_sampled": 12, "window": 50},
    {"kind": "learned-unigram", "num_sampled": 12, "window": 5000},
    {"kind": "learned-unigram", "num_sampled": 12, "decay": 0.9, "replacement": False},
    {"kind": "in-batch", "frequency": "streaming"},
    {"kind": "in-batch", "frequency": "streaming", "frequency_buckets": 100},
    {"kind": "target", "num_sampled": 20},
    {
        "kind": "mixture",
        "parts": [
            {"kind": "uniform"},
            {"kind": "target", "num_sampled": 9},
            {"kind": "learned-unigram", "num_sampled": 5},
        ],
    },
]


def made(config: dict[str, Any], items: int) -> Sampler:
    counts = torch.arange(items, 0, -1)
    return build_sampler(SamplerConfig.model_validate(config), Known(10, items, counts))


def batches(count: int) -> list[Tensor]:
    draw = torch_generator(1, "batches")
    return [(torch.rand(20, generator=draw) ** 2 * OLD).long() for _ in range(count)]


def ragged(values: Tensor) -> Ragged:
    return Ragged(torch.arange(len(values) + 1), values)


def taught(config: dict[str, Any], count: int = 12) -> Sampler:
    sampler = made(config, OLD)
    for batch in batches(count):
        sampler.learn(ragged(batch))
    return sampler


def carried(config: dict[str, Any], old: Sampler) -> tuple[Sampler, list[str]]:
    sampler = made(config, NEW)
    state, restarted = renumbered(sampler, old.state(), NUMBERS)
    sampler.load_state(state)
    return sampler, restarted


@pytest.mark.parametrize("config", LEARNING, ids=str)
def test_it_equals_a_sampler_that_saw_the_same_under_the_new_numbers(config: dict[str, Any]) -> None:
    sampler, restarted = carried(config, taught(config))
    assert restarted == []
    same = made(config, NEW)
    for batch in batches(12):
        same.learn(ragged(NUMBERS[batch]))
    probe, every = ragged(NUMBERS[batches(13)[-1]]), torch.arange(NEW)
    for step in range(3):
        first = sampler.sample(probe, torch_generator(step, "draw"))
        second = same.sample(probe, torch_generator(step, "draw"))
        assert torch.equal(first.ids, second.ids)
        torch.testing.assert_close(first.log_q, second.log_q, rtol=2e-3, atol=2e-3)
        torch.testing.assert_close(
            sampler.log_expected_count(every, probe), same.log_expected_count(every, probe), rtol=2e-3, atol=2e-3
        )


def test_labels_that_were_folded_move_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learned_law_module, "FOLD", 1)
    config = {"kind": "learned-unigram", "num_sampled": 12}
    old = taught(config, 40)
    assert isinstance(old, LearnedUnigram) and "folded" in old.state()
    sampler, _ = carried(config, old)
    assert isinstance(sampler, LearnedUnigram)
    counts, was = sampler.law.counts(), old.law.counts()  # type: ignore[union-attr]
    assert torch.equal(counts[NUMBERS], was) and int(counts.sum()) == int(was.sum()) + NEW - OLD
    assert sampler.law.num_seen == old.law.num_seen == 800


@pytest.mark.parametrize(
    "config",
    [
        {"kind": "in-batch", "frequency": "streaming", "frequency_buckets": 16},
        {"kind": "in-batch", "frequency": "streaming", "frequency_hashes": 2},
        {"kind": "in-batch", "frequency": "streaming", "frequency_buckets": 40},  # enough for the old items only
    ],
    ids=str,
)
def test_hashed_frequencies_begin_anew_and_say_so(config: dict[str, Any]) -> None:
    sampler, restarted = carried(config, taught(config))
    assert restarted == ["InBatch"]
    fresh = made(config, NEW)
    assert all(torch.equal(value, fresh.state()[key]) for key, value in sampler.state().items())


def test_hard_negatives_are_left_to_be_mined() -> None:
    config = {"kind": "hard", "num_sampled": 4}
    old = made(config, OLD)
    old.mined(Ragged.from_lists([[1, 2]] * 10), Ragged.from_lists([[]] * 10))  # type: ignore[attr-defined]
    sampler, restarted = carried(config, old)
    assert restarted == [] and not len(sampler.state()["values"])


@pytest.mark.parametrize("kind", ["uniform", "log-uniform", "fixed-unigram", "all", "in-batch"])
def test_samplers_without_a_state_have_none_to_carry(kind: str) -> None:
    sampler = made({"kind": kind}, NEW)
    assert renumbered(sampler, made({"kind": kind}, OLD).state(), NUMBERS) == ({}, [])
