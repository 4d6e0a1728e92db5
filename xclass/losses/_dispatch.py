"""The row passes compiled by numba, for CPU tensors of float32 and bfloat16.

One thread, no Python lock held: the blocked kernel runs several at once. e^x is a polynomial, log1p a series
(:mod:`xclass.losses._numba` says how exact). Without numba :func:`fits` is false and the plain passes serve.
"""

from __future__ import annotations

import functools
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from xclass.losses.interface import Loss
from xclass.losses.logistic import finish_logistic
from xclass.losses.softmax import finish_sampled_softmax
from xclass.runtime.jit import compiles

DTYPES = (torch.float32, torch.bfloat16)


def fits(logits: Tensor, log_q: Tensor | None) -> bool:
    """Whether the compiled passes take these logits."""
    return (
        logits.device.type == "cpu"
        and logits.dtype in DTYPES
        and logits.is_contiguous()
        and (log_q is None or log_q.dtype == torch.float32)
        and compiles()
    )


class RowSwitches(NamedTuple):
    """What a compiled loop over whole rows must know of a loss whose positives stand alone.

    kind: 0 softmax, 1 logistic. power: of the denominator. switches: positive in the denominator, corrected, β.
    """

    kind: int
    power: float
    switches: tuple[float, float, float]


def row_switches(loss: Loss) -> RowSwitches | None:
    """The switches of a loss as a compiled loop takes them; None for one that it can't do."""
    finish, given = (loss.finish.func, loss.finish.keywords) if isinstance(loss.finish, partial) else (loss.finish, {})
    if loss.per_pair or given.get("positives", "separate") != "separate":
        return None
    if finish is finish_sampled_softmax:
        switches = float(given.get("positive_in_denominator", True)), float(given.get("corrected", False)), 1.0
        return RowSwitches(0, float(given.get("denominator_power", 1.0)), switches)
    if finish is finish_logistic and given.get("normalise", True):
        return RowSwitches(1, 1.0, (1.0, 0.0, float(given.get("positive_power", 1.0))))
    return None


def softmax_rows(logits: Tensor, log_q: Tensor | None) -> tuple[Tensor, Tensor]:
    """Value and total of :func:`xclass.losses.rows.softmax_rows`; cells in place."""
    value, total = torch.empty(len(logits)), torch.empty(len(logits))
    _kernels()[0](_bits(logits), _matrix(log_q, logits), value.numpy(), total.numpy())
    return value, total


def logistic_rows(logits: Tensor, log_q: Tensor | None, shift: Tensor | None) -> tuple[Tensor, Tensor]:
    """Value and total of :func:`xclass.losses.rows.logistic_rows`; cells in place."""
    value, total = torch.empty(len(logits)), torch.empty(len(logits))
    shifts = torch.zeros(len(logits)) if shift is None else shift.contiguous()
    _kernels()[1](_bits(logits), _matrix(log_q, logits), shifts.numpy(), value.numpy(), total.numpy())
    return value, total


def _bits(logits: Tensor) -> Any:
    """float32 as it is, bfloat16 as uint16."""
    return logits.view(torch.uint16).numpy() if logits.dtype == torch.bfloat16 else logits.numpy()


def _matrix(log_q: Tensor | None, logits: Tensor) -> Any:
    """(1, K) or (B, K) float32."""
    if log_q is None:
        return np.zeros((1, logits.shape[1]), np.float32)
    return (log_q if log_q.dim() == 2 else log_q.unsqueeze(0)).contiguous().numpy()


@functools.cache
def _kernels() -> tuple[Any, Any]:
    """Compiled on first use, by element type."""
    from xclass.losses import _numba

    return _numba.softmax_rows, _numba.logistic_rows
