"""What a sampler has learned, carried over to a catalogue that has grown and is numbered anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from xclass.sampling.in_batch import InBatch
from xclass.sampling.interface import Sampler
from xclass.sampling.learned import LearnedUnigram
from xclass.sampling.mixture import Mixture
from xclass.sampling.per_query import HardNegatives
from xclass.sampling.target import TargetSampling

State = dict[str, Tensor]


class Renumbered(NamedTuple):
    """state: for ``load_state`` of the new sampler. restarted: the samplers that could not go on, by class name."""

    state: State
    restarted: list[str]


def renumbered(sampler: Sampler, state: State, numbers: Tensor) -> Renumbered:
    """The state of a sampler over fewer items as one of ``sampler``, over more.

    What is kept by item or as item numbers moves to the new numbers; new items begin as at the start of a run. Hard
    negatives are not carried over: they are mined anew before the first epoch. Streaming frequencies in hashed buckets
    start anew, since an item's bucket follows from its number.

    Args:
        sampler: of the grown catalogue and the same configuration, without a state yet.
        state: what ``state()`` gave over the old catalogue.
        numbers: int64 (old N,), the new number of each old item.

    Cost: O(N + state).
    """
    if isinstance(sampler, Mixture):
        return _mixture(sampler, state, numbers)
    if not state:
        return Renumbered({}, [])
    carry = next((carry for kind, carry in CARRIED.items() if isinstance(sampler, kind)), None)
    carried = None if carry is None else carry(sampler, state, numbers)
    return Renumbered(sampler.state(), [type(sampler).__name__]) if carried is None else Renumbered(carried, [])


def _mixture(sampler: Mixture, state: State, numbers: Tensor) -> Renumbered:
    whole, restarted = State(), list[str]()
    for place, part in enumerate(sampler.parts):
        own = {key.removeprefix(f"{place}."): value for key, value in state.items() if key.startswith(f"{place}.")}
        carried = renumbered(part, own, numbers)
        whole |= {f"{place}.{key}": value for key, value in carried.state.items()}
        restarted += carried.restarted
    return Renumbered(whole, restarted)


def _learned(sampler: LearnedUnigram, state: State, numbers: Tensor) -> State:
    """Labels and counts move; the calibration, which depends on N, is made anew at the next draw."""
    fresh = sampler.state()
    carried = {**state, "log": numbers[state["log"].long()].to(fresh["log"].dtype), "calibration": fresh["calibration"]}
    for per_item, start in (("grown", 0), ("folded", 1)):
        if per_item in state:
            new = torch.full((sampler.num_items,), start, dtype=state[per_item].dtype)
            carried[per_item] = new.index_copy_(0, numbers, state[per_item])
    return carried


def _streaming(sampler: InBatch, state: State, numbers: Tensor) -> State | None:
    """Each item's gap moves, where every item has a bucket of its own."""
    if not sampler.has_own_buckets:
        return None
    fresh = {key: value.clone() for key, value in sampler.state().items()}
    for key in ("last", "gap"):
        fresh[key][0, numbers] = state[key][0, : len(numbers)]
    return {**fresh, "batch": state["batch"]}


def _target(sampler: TargetSampling, state: State, numbers: Tensor) -> State:
    """The targets of both parts, by their new numbers."""
    return {key: numbers[value] for key, value in state.items()}


def _mined_anew(sampler: HardNegatives, state: State, numbers: Tensor) -> State:
    """Empty lists."""
    return sampler.state()


# Kind → its state at the new numbers, or None where it can't be carried over.
CARRIED: dict[type, Callable[[Any, State, Tensor], State | None]] = {
    LearnedUnigram: _learned,
    InBatch: _streaming,
    TargetSampling: _target,
    HardNegatives: _mined_anew,
}
