"""Which rows of a step lie where: their numbers go to the ranks that hold them, before any row is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from xclass.engine.exchange import Exchange
from xclass.engine.group import Group
from xclass.engine.placing import Turns
from xclass.tables import plan_rows


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
    """Ids by owner: sorted, where each stood, how many each rank holds."""

    ids: Tensor
    order: Tensor
    counts: Tensor


def plan_routes(wanted: Sequence[Tensor], turns: Sequence[Turns], group: Group, beside: bool = False) -> list[Route]:
    """Of the distinct ids that each of several tables is asked for; collective, two exchanges for all of them.

    turns: of each table, which ranks hold it.
    beside: from another thread than everything else; these have an order of their own.
    """
    what = "a plan" if beside else "a pull"
    cuts = [_cut(ids, each, group.size) for ids, each in zip(wanted, turns, strict=True)]
    each = [1] * group.size
    asked_RT = group.exchange(torch.stack([cut.counts for cut in cuts], 1), each, each, what, beside)
    all_receives = asked_RT.T.tolist()
    begun: list[tuple[list[int], Exchange]] = []
    for cut, receives, held in zip(cuts, all_receives, turns, strict=True):
        rows, sends = held.places(cut.ids), cut.counts.tolist()
        begun.append((sends, group.begin_exchange(rows, sends, receives, what, beside)))
    return [
        _route(ids, cut, sends, receives, exchange.wait())
        for ids, cut, receives, (sends, exchange) in zip(wanted, cuts, all_receives, begun, strict=True)
    ]


def _cut(ids: Tensor, turns: Turns, size: int) -> Cut:
    owner, order = torch.sort(turns.owners(ids), stable=True)
    return Cut(ids.index_select(0, order), order, torch.bincount(owner, minlength=size))


def _route(ids: Tensor, cut: Cut, sends: list[int], receives: list[int], asked: Tensor) -> Route:
    places = torch.empty_like(cut.order)
    places[cut.order] = torch.arange(len(ids), device=ids.device)
    plan = plan_rows({"all": asked})
    return Route(ids, cut.order, places, sends, receives, asked, plan.unique, plan.positions["all"])
