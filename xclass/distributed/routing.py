"""Which rows of a step lie where: their numbers go to the ranks that hold them, before any row is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from xclass.distributed.all_to_all import Exchange
from xclass.distributed.placement import Turns
from xclass.distributed.process_group import Group
from xclass.embeddings import plan_rows
from xclass.runtime.jit import compiles


class Route(NamedTuple):
    """How the rows of one pull travel.

    ids: (U,) what was asked for here. order: (U,) where they stand, sorted by owner; places: (U,) its inverse.
    sends, receives: how many rows each rank is asked for, and asks of this one. asked: the rows of this shard that each
    rank asks for, by rank. unique, positions: the distinct ones among them, and where each stands there.
    """

    ids: Tensor
    order: Tensor
    places: Tensor
    sends: list[int]
    receives: list[int]
    asked: Tensor
    unique: Tensor
    positions: Tensor


class Cut(NamedTuple):
    """Ids by owner. rows: (U,) their numbers in its shard, by rank. order, places: see Route. counts: (R,) by rank."""

    rows: Tensor
    order: Tensor
    places: Tensor
    counts: Tensor


def plan_routes(wanted: Sequence[Tensor], turns: Sequence[Turns], group: Group, beside: bool = False) -> list[Route]:
    """Of the distinct ids that each of several tables is asked for; collective, two exchanges for all of them.

    turns: of each table, which ranks hold it.
    beside: from another thread than everything else; these have an order of their own.
    """
    what = "a plan" if beside else "a pull"
    cuts = [cut(ids, each, group.size) for ids, each in zip(wanted, turns, strict=True)]
    each = [1] * group.size
    asked_RT = group.exchange(torch.stack([found.counts for found in cuts], 1), each, each, what, beside)
    all_receives = asked_RT.T.tolist()
    begun: list[tuple[list[int], Exchange]] = []
    for found, receives in zip(cuts, all_receives, strict=True):
        sends = found.counts.tolist()
        begun.append((sends, group.begin_exchange(found.rows, sends, receives, what, beside)))
    return [
        _route(ids, found, sends, receives, exchange.wait())
        for ids, found, receives, (sends, exchange) in zip(wanted, cuts, all_receives, begun, strict=True)
    ]


def cut(ids: Tensor, turns: Turns, size: int) -> Cut:
    """By the ranks that hold them, of ``size`` ranks. Cost O(U) where compiled, else a sort."""
    if ids.device.type == "cpu" and compiles():
        return _compiled_cut(ids, turns, size)
    owner, order = torch.sort(turns.owners(ids), stable=True)
    places = torch.empty_like(order)
    places[order] = torch.arange(len(ids), device=ids.device)
    return Cut(turns.places(ids).index_select(0, order), order, places, torch.bincount(owner, minlength=size))


def _compiled_cut(ids: Tensor, turns: Turns, size: int) -> Cut:
    from xclass.distributed import _numba

    counts = torch.zeros(size, dtype=torch.int64)
    found = Cut(torch.empty_like(ids), torch.empty_like(ids), torch.empty_like(ids), counts)
    filled = [each.numpy() for each in (counts, found.rows, found.order, found.places)]
    _numba.by_owner(ids.numpy(), np.array(turns.holders), *filled)
    return found


def _route(ids: Tensor, found: Cut, sends: list[int], receives: list[int], asked: Tensor) -> Route:
    plan = plan_rows({"all": asked})
    return Route(ids, found.order, found.places, sends, receives, asked, plan.unique, plan.positions["all"])
