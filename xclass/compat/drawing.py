"""Draws and expected counts by TensorFlow's rule: single draws, one after the other, until enough of them differ."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from xclass.errors import InputError
from xclass.runtime.rng import torch_generator
from xclass.sampling.distributions.expected_counts import tensorflow_count
from xclass.sampling.distributions.fixed import Law
from xclass.sampling.distributions.without_replacement import draw_distinct


class Sampled(NamedTuple):
    """What a candidate sampler returns.

    sampled_candidates: int64 [num_sampled].
    true_expected_count: float32 [batch_size, num_true].
    sampled_expected_count: float32 [num_sampled].
    """

    sampled_candidates: Tensor
    true_expected_count: Tensor
    sampled_expected_count: Tensor


def sample(law: Law, true_classes: Tensor, num_sampled: int, unique: bool, generator: torch.Generator) -> Sampled:
    """Candidates with TensorFlow's expected counts (float64 inside, float32 in what is returned)."""
    if unique:
        ids, tries = draw_distinct(law, num_sampled, generator, 1.1 * num_sampled)
    else:
        ids, tries = law.draw(num_sampled, generator), float(num_sampled)
    true_count = tensorflow_count(law.probability(true_classes.cpu()), num_sampled, tries)
    count = tensorflow_count(law.probability(ids), num_sampled, tries)
    device = true_classes.device
    return Sampled(ids.to(device), true_count.float().to(device), count.float().to(device))


def generator_of(seed: int | torch.Generator | None, where: str) -> torch.Generator:
    """None: torch's global generator (``torch.manual_seed``). An int: a fresh one, the same for the same int."""
    if seed is None:
        return torch.default_generator
    if isinstance(seed, torch.Generator):
        if seed.device.type != "cpu":
            raise InputError("candidates are drawn on the CPU", where=where, wanted="a CPU generator", got=seed.device)
        return seed
    return torch_generator(seed, "compat.tf")
