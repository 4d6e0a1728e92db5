"""Samples without repeats: single draws, one after the other, until enough of them differ."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from xclass.runtime.jit import compiles
from xclass.sampling.distributions.fixed import Law

MAX_TRIES = 1 << 24  # of single draws; what is then still missing is drawn among the unseen items
HOPELESS = 4  # expected draws per item that can be drawn, from which on one pass over all items is cheaper


class Distinct(NamedTuple):
    """ids: int64 (K,), in order of their first draw. tries: how many single draws that took."""

    ids: Tensor
    tries: float


def draw_distinct(law: Law, num_sampled: int, generator: torch.Generator, expected_tries: float) -> Distinct:
    """The law of drawing one by one and rejecting repeats, from draws in blocks.

    Args:
        law: at least ``num_sampled`` items must be drawable.
        num_sampled: K.
        generator: decides the draws.
        expected_tries: how many draws it takes on average; decides the size of the first block.

    Cost O(tries). Where that is more than a few times the number of items, and past ``MAX_TRIES`` single draws, the
    rest comes from one pass over all items, which has the same law and ends for any weights.
    """
    seen, tries = torch.empty(0, dtype=torch.int64), 0
    if expected_tries > HOPELESS * law.num_drawable + (1 << 12):
        return _finish(law, seen, 0.0, num_sampled, generator)
    size = int(min(expected_tries + 3 * expected_tries**0.5, 4.0 * num_sampled)) + 8
    while tries < MAX_TRIES:
        drawn = law.draw(size, generator)
        ids, places = first_occurrences(torch.cat([seen, drawn]) if len(seen) else drawn, num_sampled)
        if len(ids) == num_sampled:
            return Distinct(ids, float(tries + int(places[-1]) + 1 - len(seen)))
        seen, tries, size = ids, tries + size, min(2 * size, 1 << 20)
    return _finish(law, seen, float(tries), num_sampled, generator)


def first_occurrences(ids: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """(distinct values in order of first occurrence, where that is), at most ``limit`` of them."""
    if compiles():
        return _compiled_first(ids, limit)
    return _plain_first(ids, limit)


def _plain_first(ids: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    ordered, order = torch.sort(ids, stable=True)
    is_first = torch.ones_like(ordered, dtype=torch.bool)
    is_first[1:] = ordered[1:] != ordered[:-1]
    places = order[is_first].sort().values[:limit]
    return ids.index_select(0, places), places


def _compiled_first(ids: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    limit = min(limit, len(ids))
    values, places = torch.empty(limit, dtype=torch.int64), torch.empty(limit, dtype=torch.int64)
    table = np.zeros(1 << max((2 * limit - 1).bit_length(), 1), np.int32)
    found = _kernel()(ids.numpy(), values.numpy(), places.numpy(), table)
    return values[:found], places[:found]


@functools.cache
def _kernel() -> Any:
    from xclass.sampling import _numba

    return _numba.first_occurrences


def _finish(law: Law, seen: Tensor, tries: float, num_sampled: int, generator: torch.Generator) -> Distinct:
    """Without rejection: the order in which unseen items come first, and the failed draws in between.

    Unseen items come in the order of independent Exp(p) times; before each one the number of draws that hit an item
    seen already is geometric in the mass unseen. Cost O(N), once.
    """
    p = law.probability(torch.arange(law.num_items)).index_fill(0, seen, 0.0)
    times = torch.empty_like(p).exponential_(generator=generator) / p
    missing = num_sampled - len(seen)
    order = torch.topk(times, missing, largest=False).indices
    rest = p.index_fill(0, order, 0.0).sum()
    unseen = p[order].flip(0).cumsum(0).flip(0) + rest
    u = 1 - torch.rand(missing, dtype=torch.float64, generator=generator)
    between = torch.where(unseen >= 1, 1.0, torch.ceil(u.log() / torch.log1p(-unseen)).clamp(min=1))
    return Distinct(torch.cat([seen, order]), tries + float(between.sum()))
