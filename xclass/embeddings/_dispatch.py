"""Pull and push compiled by numba, for rows in main memory: one pass over the touched rows, on as many threads as pay.

Each row is changed by one thread and depends on nothing but itself, so that the bits are the same whatever the threads.
Without numba :func:`fits` is false and :mod:`xclass.embeddings.row_ops` serves.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xclass.embeddings.hashing import Keys
from xclass.embeddings.interface import RowOptimizer
from xclass.embeddings.row_ops import Step, Stored
from xclass.errors import InputError
from xclass.runtime.jit import compiles
from xclass.runtime.threads import in_parts

CELLS_PER_THREAD = 1 << 17  # fewer are done before another thread is awake
DTYPES = (torch.float32, torch.bfloat16)
CPU = torch.device("cpu")
NOTHING = {1: np.zeros(0, np.float32), 2: np.zeros((0, 0), np.float32), 8: np.zeros(0, np.float64)}


def fits(stored: Stored, optimizer: RowOptimizer | None) -> bool:
    """Whether the compiled passes take these tensors."""
    kept = [stored.weight, *stored.state.values()]
    return (
        all(tensor.device.type == "cpu" and tensor.is_contiguous() for tensor in kept)
        and stored.weight.dtype in DTYPES
        and (optimizer is None or optimizer.compiled() is not None)
        and compiles()
    )


def pull(stored: Stored, ids: Tensor, decay: float, out: Tensor) -> None:
    """:func:`xclass.embeddings.row_ops.pull` into ``out``, float32 (U, D)."""
    _check(ids, stored.weight)
    weight, until, chosen, rows = _array(stored.weight), _until(stored), _array(ids), _array(out)
    gather = _kernels().gather
    _in_parts(
        lambda start, stop: gather(weight, chosen[start:stop], until, decay, rows[start:stop]), ids, stored.weight
    )


def push(stored: Stored, optimizer: RowOptimizer, ids: Tensor, grads: Tensor, step: Step) -> None:
    """:func:`xclass.embeddings.row_ops.push`."""
    _check(ids, stored.weight)
    kernels = _kernels()
    kind, *numbers = optimizer.compiled() or ("", 0.0, 0.0, 0.0)
    settings = np.array([kernels.KINDS[kind], step.lr, *numbers, step.clip, step.decay])
    keys = np.array(step.keys, np.uint32)
    state = [_state(stored.state, names) for names in (("sum_of_squares", "mean_of_squares"), ("updates",), ("mean",))]
    weight, until, chosen, given = _array(stored.weight), _until(stored), _array(ids), _array(grads.float())

    def part(start: int, stop: int) -> None:
        kernels.push(weight, *state, until, chosen[start:stop], given[start:stop], settings, keys)

    _in_parts(part, ids, stored.weight)


def settle(stored: Stored, first: int, decay: float, keys: Keys) -> None:
    """:func:`xclass.embeddings.row_ops.settle`."""
    weight, until, settling = _array(stored.weight), _until(stored), _kernels().settle
    numbers = np.array(keys, np.uint32)

    def part(start: int, stop: int) -> None:
        settling(weight[start:stop], until[start:stop], first + start, decay, numbers)

    in_parts(part, len(weight), stored.weight.numel() // CELLS_PER_THREAD, CPU)


def draw(weight: Tensor, first: int, values: Tensor, keys: tuple[Keys, Keys]) -> None:
    """:func:`xclass.embeddings.init.draw`, and the values it names written into ``weight``."""
    cells, chosen, numbers, drawing = _array(weight), _array(values), np.array(keys, np.uint32).ravel(), _kernels().draw

    def part(start: int, stop: int) -> None:
        drawing(cells[start:stop], first + start, chosen, numbers)

    in_parts(part, len(weight), weight.numel() // CELLS_PER_THREAD, CPU)


def _in_parts(work: Any, ids: Tensor, weight: Tensor) -> None:
    in_parts(work, len(ids), len(ids) * weight.shape[1] // CELLS_PER_THREAD, CPU)


def _check(ids: Tensor, weight: Tensor) -> None:
    """The loops do not look: an id out of range would read and write other memory."""
    if not len(ids):
        return
    low, high = torch.aminmax(ids)
    if int(low) < 0 or int(high) >= len(weight):
        raise InputError("there is no such row", wanted=f"0 … {len(weight) - 1}", got=f"{int(low)} … {int(high)}")


def _array(tensor: Tensor) -> Any:
    """The same memory; bfloat16 as its bits."""
    tensor = tensor.detach().contiguous()
    return tensor.view(torch.uint16).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()


def _until(stored: Stored) -> Any:
    return NOTHING[8] if stored.decayed is None else stored.decayed.numpy()


def _state(state: dict[str, Tensor], names: tuple[str, ...]) -> Any:
    for name in names:
        if name in state:
            return state[name].numpy()
    return NOTHING[2 if names == ("mean",) else 1]


@functools.cache
def _kernels() -> Any:
    """Compiled on first use, by element type."""
    from xclass.embeddings import _numba

    return _numba
