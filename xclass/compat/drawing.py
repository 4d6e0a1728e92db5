"""Draws and expected counts by TensorFlow's rule: single draws, one after the other, until enough of them differ."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from xclass.errors import InputError
from xclass.rng import torch_generator

MAX_TRIES = 1 << 22  # of single draws; what is then still missing is drawn among the unseen classes


class Sampled(NamedTuple):
    """What a candidate sampler returns.

    sampled_candidates: int64 [num_sampled].
    true_expected_count: float32 [batch_size, num_true].
    sampled_expected_count: float32 [num_sampled].
    """

    sampled_candidates: Tensor
    true_expected_count: Tensor
    sampled_expected_count: Tensor


class Base(Protocol):
    """A distribution over classes."""

    @property
    def range_max(self) -> int:
        """Number of classes."""
        ...

    @property
    def num_drawable(self) -> int:
        """How many of them have a positive probability."""
        ...

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """int64 (count,): independent draws."""
        ...

    def probability(self, ids: Tensor) -> Tensor:
        """float64, the shape of ``ids``."""
        ...


def sample(base: Base, true_classes: Tensor, num_sampled: int, unique: bool, generator: torch.Generator) -> Sampled:
    """Candidates with TensorFlow's expected counts (float64 inside, float32 in what is returned)."""
    drawn = base.draw(num_sampled, generator) if not unique else None
    ids, tries = first_distinct(base, num_sampled, generator) if drawn is None else (drawn, float(num_sampled))
    true_count = expected_count(base.probability(true_classes.cpu()), num_sampled, tries)
    count = expected_count(base.probability(ids), num_sampled, tries)
    device = true_classes.device
    return Sampled(ids.to(device), true_count.float().to(device), count.float().to(device))


def expected_count(probability: Tensor, num_sampled: int, tries: float) -> Tensor:
    """TensorFlow's formula: p·S where no draw was rejected, else 1 − (1 − p)^tries.

    It holds with ``unique=True`` as well, so that a count may then exceed 1.
    """
    if tries == num_sampled:
        return probability * num_sampled
    return -torch.expm1(tries * torch.log1p(-probability))


def first_distinct(base: Base, num_sampled: int, generator: torch.Generator) -> tuple[Tensor, float]:
    """(the first ``num_sampled`` distinct classes in order of their first draw, how many draws that took).

    Past ``MAX_TRIES`` draws the rest comes from :func:`_finish`, which has the same law and ends for any weights.
    """
    seen = torch.empty(0, dtype=torch.int64)
    tries, size = 0, first_block(num_sampled)
    while tries < MAX_TRIES:
        fresh = base.draw(size, generator)
        ids, first = _first_occurrences(torch.cat([seen, fresh]))
        if len(ids) >= num_sampled:
            last = int(first[num_sampled - 1])
            return ids[:num_sampled], float(tries + last + 1 - len(seen))
        tries, seen, size = tries + size, ids, 2 * size
    return _finish(base, seen, float(tries), num_sampled, generator)


def first_block(num_sampled: int) -> int:
    """How many draws to begin with: repeats are few where classes are many."""
    return num_sampled + num_sampled // 8 + 16


def _first_occurrences(ids: Tensor) -> tuple[Tensor, Tensor]:
    """(distinct values in order of first occurrence, those positions)."""
    ordered, order = torch.sort(ids, stable=True)
    is_first = torch.ones_like(ordered, dtype=torch.bool)
    is_first[1:] = ordered[1:] != ordered[:-1]
    positions = order[is_first].sort().values
    return ids[positions], positions


def _finish(
    base: Base, seen: Tensor, tries: float, num_sampled: int, generator: torch.Generator
) -> tuple[Tensor, float]:
    """Continue without rejection: the order in which unseen classes come first, and the failed draws in between.

    Unseen classes come in the order of independent Exp(p) times; before each one, the number of draws that hit a class
    seen already is geometric in the mass unseen. Cost O(N log N), once.
    """
    p = base.probability(torch.arange(base.range_max)).index_fill(0, seen, 0.0)
    times = torch.empty_like(p).exponential_(generator=generator) / p
    missing = num_sampled - len(seen)
    order = torch.topk(times, missing, largest=False).indices
    left = _unseen_mass(p, order)
    u = 1 - torch.rand(missing, dtype=torch.float64, generator=generator)
    between = torch.where(left >= 1, 1.0, torch.ceil(u.log() / torch.log1p(-left)).clamp(min=1))
    return torch.cat([seen, order]), tries + float(between.sum())


def _unseen_mass(p: Tensor, order: Tensor) -> Tensor:
    """The mass unseen before each class of ``order``, added up from its small end so that it never reaches 0."""
    rest = p.index_fill(0, order, 0.0).sum()
    return p[order].flip(0).cumsum(0).flip(0) + rest


def generator_of(seed: int | torch.Generator | None, where: str) -> torch.Generator:
    """None: torch's global generator (``torch.manual_seed``). An int: a fresh one, the same for the same int."""
    if seed is None:
        return torch.default_generator
    if isinstance(seed, torch.Generator):
        if seed.device.type != "cpu":
            raise InputError("candidates are drawn on the CPU", where=where, wanted="a CPU generator", got=seed.device)
        return seed
    return torch_generator(seed, "compat.tf")
