"""Conformance suite of the sampler seam: what every sampler must do, whatever its distribution."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from xclass.rng import torch_generator
from xclass.sampling import Sampler
from xclass.types import Negatives, Ragged

DRAWS = 2500


def check_sampler(make: Callable[[], Sampler], positives: Ragged) -> None:
    """Run every check; an AssertionError says which property fails.

    Args:
        make: makes a fresh sampler over a small catalogue (N ≤ 100).
        positives: a batch that may be given to it.
    """
    check_shapes(make(), positives)
    check_same_seed_same_sample(make, positives)
    check_positives_are_left_alone(make(), positives)
    check_counts_match_draws(make(), positives)
    check_partition_function_is_unbiased(make(), positives)


def check_shapes(sampler: Sampler, positives: Ragged) -> None:
    """Ids int64 in range, log_q of the same shape, one pos_log_q for each positive, everything finite."""
    ids, log_q, pos_log_q = sampler.sample(positives, torch_generator(0, "conformance"))
    assert ids.dtype == torch.int64 and ids.shape == log_q.shape
    assert int(ids.min()) >= 0 and int(ids.max()) < sampler.num_items
    assert pos_log_q.shape == positives.values.shape
    assert log_q.dtype == pos_log_q.dtype == torch.float32
    assert bool(torch.isfinite(log_q).all()) and bool(torch.isfinite(pos_log_q).all())


def check_same_seed_same_sample(make: Callable[[], Sampler], positives: Ragged) -> None:
    """The sample depends on the generator and on nothing else."""
    first = make().sample(positives, torch_generator(5, "conformance"))
    second = make().sample(positives, torch_generator(5, "conformance"))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def check_positives_are_left_alone(sampler: Sampler, positives: Ragged) -> None:
    """A sampler does not change its input."""
    before = positives.values.clone()
    sampler.sample(positives, torch_generator(0, "conformance"))
    assert torch.equal(before, positives.values)


def check_counts_match_draws(sampler: Sampler, positives: Ragged) -> None:
    """exp(log_q) is the mean number of times an item is in the sample, item by item, within six standard errors."""
    counts = torch.zeros(sampler.num_items, dtype=torch.float64)
    squares = torch.zeros_like(counts)
    for sample in _samples(sampler, positives):
        once = torch.bincount(sample.ids.flatten(), minlength=sampler.num_items).double()
        counts += once
        squares += once**2
    mean = counts / DRAWS
    error = ((squares / DRAWS - mean**2).clamp(min=0) / DRAWS).sqrt()
    expected = sampler.log_expected_count(torch.arange(sampler.num_items), positives).exp()
    drawn = counts > 0
    worst = ((mean - expected).abs() - 6 * error)[drawn]
    assert float(worst.max()) <= 2.0 / DRAWS, f"item {int(worst.argmax())}: drawn {mean}, expected {expected}"


def check_partition_function_is_unbiased(sampler: Sampler, positives: Ragged) -> None:
    """E[Σ over the sample of exp(score − log_q)] = Σ over the items that can be drawn of exp(score)."""
    scores = torch.randn(sampler.num_items, generator=torch_generator(1, "conformance"), dtype=torch.float64)
    reachable = torch.zeros(sampler.num_items, dtype=torch.bool)
    estimates = []
    for sample in _samples(sampler, positives):
        reachable[sample.ids.flatten()] = True
        estimates.append((scores[sample.ids] - sample.log_q.double()).exp().sum())
    values = torch.stack(estimates)
    error = float(values.std()) / DRAWS**0.5
    gap = abs(float(values.mean()) - float(scores[reachable].exp().sum()))
    assert gap <= 6 * error + 1e-6 * float(values.mean()), f"off by {gap}, standard error {error}"


def _samples(sampler: Sampler, positives: Ragged) -> Iterator[Negatives]:
    generator = torch_generator(2, "conformance")
    for _ in range(DRAWS):
        yield sampler.sample(positives, generator)
