"""The plain passes over the touched rows: any device, any optimiser. In one loop: :mod:`xclass.embeddings._dispatch`.

A push is w ← round(step(w · e^(decay − decay of the row so far), g · min(1, clip/‖g‖)))  for each touched row.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from xclass.embeddings.hashing import Keys
from xclass.embeddings.interface import RowOptimizer
from xclass.embeddings.rounding import round_stochastically


class Stored(NamedTuple):
    """The tensors of a table, all on one device.

    weight: (N, D). state: the optimiser's. decayed: float64 (N,), Σ log(1 − lr·wd) up to where each row has had it, or
    None without weight decay.
    """

    weight: Tensor
    state: dict[str, Tensor]
    decayed: Tensor | None


class Step(NamedTuple):
    """What a push has beside ids and gradients.

    clip: the largest norm of a row's gradient; 0 for none. decay: Σ log(1 − lr·wd) with this step's. keys: for the
    rounding of bfloat16 rows.
    """

    lr: float
    clip: float
    decay: float
    keys: Keys


def pull(stored: Stored, ids: Tensor, decay: float) -> Tensor:
    """(U, D) float32 copy of the rows ``ids``, with the decay due so far."""
    rows = stored.weight.index_select(0, ids).float()
    return rows if stored.decayed is None else decayed(rows, stored.decayed.index_select(0, ids), decay)


def push(stored: Stored, optimizer: RowOptimizer, ids: Tensor, grads: Tensor, step: Step) -> None:
    """One step of the rows ``ids``, in place."""
    rows = pull(stored, ids, step.decay)
    if stored.decayed is not None:
        stored.decayed.index_fill_(0, ids, step.decay)
    state = {name: values.index_select(0, ids) for name, values in stored.state.items()}
    optimizer.step(rows, state, clipped(grads, step.clip), step.lr)
    stored.weight.index_copy_(0, ids, as_stored(rows, ids, step.keys, stored.weight.dtype))
    for name, values in state.items():
        stored.state[name].index_copy_(0, ids, values)


def decayed(rows: Tensor, until: Tensor, decay: float) -> Tensor:
    """Rows times e^(decay − until); ``until``: float64 (U,), the decay that they have had."""
    return rows * torch.exp(decay - until).float().unsqueeze(1)


def clipped(grads: Tensor, clip: float) -> Tensor:
    """Rows of a norm above ``clip`` scaled to it; 0 leaves all."""
    if clip == 0.0:
        return grads
    norms = torch.linalg.vector_norm(grads, dim=1, keepdim=True)
    return torch.where(norms > clip, grads * (clip / norms), grads)


def as_stored(rows: Tensor, ids: Tensor, keys: Keys, dtype: torch.dtype) -> Tensor:
    """float32 rows in the type they are stored in."""
    return round_stochastically(rows, ids, keys) if dtype == torch.bfloat16 else rows


def settle(stored: Stored, first: int, decay: float, keys: Keys) -> None:
    """The decay that is due, written into all rows; ``first``: the number of the first one in the table."""
    assert stored.decayed is not None
    ids = torch.arange(first, first + len(stored.weight), device=stored.weight.device)
    rows = decayed(stored.weight.float(), stored.decayed, decay)
    stored.weight.copy_(as_stored(rows, ids, keys, stored.weight.dtype))
    stored.decayed.fill_(decay)
