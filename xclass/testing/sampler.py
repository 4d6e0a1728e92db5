"""Conformance suite of the sampler seam: what every sampler must do, whatever its distribution."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from xclass.errors import InputError
from xclass.runtime.rng import torch_generator
from xclass.sampling import Sampler
from xclass.types import Negatives, Ragged

DRAWS = 2500


def check_sampler(
    make: Callable[[], Sampler], positives: Ragged, query_ids: Tensor | None = None, tolerance: float = 0.0
) -> None:
    """Run every check; an AssertionError says which property fails.

    Args:
        make: makes a fresh sampler over a small catalogue (N ≤ 100).
        positives: a batch that may be given to it.
        query_ids: (B,) the batch's query numbers, for samplers that go by them.
        tolerance: by how much an expected count may differ from the mean count, beyond chance: 0 for samplers whose
            counts are exact; the calibrated counts of samples without repeats are exact on the whole only.
    """
    case = _Case(make, positives, query_ids)
    check_shapes(case)
    check_same_seed_same_sample(case)
    check_positives_are_left_alone(case)
    check_counts_match_draws(case, tolerance)
    check_partition_function_is_unbiased(case, tolerance)
    check_state_goes_on(case)
    check_refusals(case)


@dataclass
class _Case:
    make: Callable[[], Sampler]
    positives: Ragged
    query_ids: Tensor | None

    def draw(self, sampler: Sampler, seed: int) -> Negatives:
        return sampler.sample(self.positives, torch_generator(seed, "conformance"), self.query_ids)

    @functools.cached_property
    def many(self) -> list[Negatives]:
        """Draws without learning in between, so that all have the same law."""
        sampler, generator = self.make(), torch_generator(2, "conformance")
        return [sampler.negatives(self.positives, generator, self.query_ids) for _ in range(DRAWS)]


def check_shapes(case: _Case) -> None:
    """Ids int64 in range, log_q of the same shape, one pos_log_q for each positive, everything finite."""
    sampler = case.make()
    ids, log_q, pos_log_q = case.draw(sampler, 0)
    assert ids.dtype == torch.int64 and ids.shape == log_q.shape
    assert ids.dim() == 1 or len(ids) == len(case.positives)
    assert int(ids.min()) >= (0 if ids.dim() == 1 else -1) and int(ids.max()) < sampler.num_items
    assert pos_log_q.shape == case.positives.values.shape
    assert log_q.dtype == pos_log_q.dtype == torch.float32
    assert bool(torch.isfinite(log_q).all()) and bool(torch.isfinite(pos_log_q).all())


def check_same_seed_same_sample(case: _Case) -> None:
    """The sample depends on the generator and on what was learned, and on nothing else."""
    first, second = (case.draw(case.make(), 5) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def check_positives_are_left_alone(case: _Case) -> None:
    """A sampler does not change its input."""
    before = case.positives.values.clone()
    case.draw(case.make(), 0)
    assert torch.equal(before, case.positives.values)


def check_counts_match_draws(case: _Case, tolerance: float) -> None:
    """exp(log_q) is the mean number of times an item is in the sample, item by item, within six standard errors.

    For candidates of each query's own, query by query.
    """
    sampler = case.make()
    drawn = torch.stack([_counts(sample.ids, sampler.num_items) for sample in case.many])
    counts, squares = drawn.sum(0), (drawn**2).sum(0)
    mean = counts / DRAWS
    error = ((squares / DRAWS - mean**2).clamp(min=0) / DRAWS).sqrt()
    every = torch.arange(sampler.num_items)
    if counts.dim() == 2:
        every = every.expand(len(counts), -1)
    expected = case.make().log_expected_count(every, case.positives, case.query_ids).exp()
    worst = ((mean - expected).abs() - 6 * error - tolerance)[counts > 0]
    assert float(worst.max()) <= 2.0 / DRAWS, f"drawn {mean}, expected {expected}"


def check_partition_function_is_unbiased(case: _Case, tolerance: float) -> None:
    """E[Σ over the sample of exp(score − log_q)] = Σ over the items that can be drawn of exp(score)."""
    sampler = case.make()
    scores = torch.randn(sampler.num_items, generator=torch_generator(1, "conformance"), dtype=torch.float64)
    estimates, reachable = [], None
    for sample in case.many:
        terms = torch.where(sample.ids >= 0, (scores[sample.ids.clamp(min=0)] - sample.log_q.double()).exp(), 0.0)
        estimates.append(terms.sum(-1))
        once = _counts(sample.ids, sampler.num_items) > 0
        reachable = once if reachable is None else reachable | once
    assert reachable is not None
    values = torch.stack(estimates)
    error, mean = values.std(0) / DRAWS**0.5, values.mean(0)
    gap = (mean - (scores.exp() * reachable).sum(-1)).abs()
    assert bool((gap <= 6 * error + (1e-6 + tolerance) * mean).all()), f"off by {gap}, standard error {error}"


def check_state_goes_on(case: _Case) -> None:
    """What was learned, given to a fresh sampler, goes on bit for bit."""
    one, other = case.make(), case.make()
    for seed in range(3):
        case.draw(one, seed)
    other.load_state({key: value.clone() for key, value in one.state().items()})
    for seed in range(3, 6):
        pair = case.draw(one, seed), case.draw(other, seed)
        assert all(torch.equal(a, b) for a, b in zip(*pair, strict=True))


def check_refusals(case: _Case) -> None:
    """A positive that is no item is refused by name of the argument."""
    for wrong in (-1, case.make().num_items):
        values = case.positives.values.clone()
        values[0] = wrong
        try:
            dataclasses.replace(case, positives=Ragged(case.positives.offsets, values)).draw(case.make(), 0)
        except InputError as error:
            assert "positive" in str(error)
        else:
            raise AssertionError(f"accepted the item {wrong}")


def _counts(ids: Tensor, num_items: int) -> Tensor:
    """float64 (N,) or (B, N): how often each item is in the sample; −1 is none."""
    rows = ids.reshape(-1, ids.shape[-1])
    counts = torch.zeros(len(rows), num_items + 1, dtype=torch.float64)
    counts.scatter_add_(1, torch.where(rows < 0, num_items, rows), torch.ones(rows.shape, dtype=torch.float64))
    return counts[:, :num_items].reshape(*ids.shape[:-1], num_items)
