"""What numba compiles. Imported only where numba is installed, by :mod:`xclass.losses._dispatch`.

Loops are written so that they vectorise: numba widens 32-bit integers, so they are cast back after every step.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import overload

from xclass.runtime.jit_bfloat16 import FAST, F, U

I = np.int32  # noqa: E741


def read(cell):  # type: ignore[no-untyped-def]  # numba compares signatures with those of the overloads
    """A cell as float32."""
    raise NotImplementedError


def written(value, like):  # type: ignore[no-untyped-def]
    """A float32 as a cell of the type of ``like``: bfloat16 is rounded to nearest."""
    raise NotImplementedError


@overload(read, inline="always")
def _read(cell):  # type: ignore[no-untyped-def]
    if cell == types.uint16:
        return lambda cell: U(U(cell) << U(16)).view(np.float32)
    return lambda cell: F(cell)  # noqa: PLW0108


@overload(written, inline="always")
def _written(value, like):  # type: ignore[no-untyped-def]
    if like == types.uint16:

        def as_bfloat16(value, like):  # type: ignore[no-untyped-def]
            return np.uint16(U(F(value).view(np.uint32) + U(0x8000)) >> U(16))

        return as_bfloat16
    return lambda value, like: value


@njit(inline="always")
def exp_of(x: Any) -> Any:
    """e^x for x ≤ 0, exactly 0 below −87.7: 2^n · e^r, e^r by the polynomial of least relative error, 6e-8."""
    x = x if x > F(-87.9) else F(-87.9)
    n = I(x * F(1.44269504) - F(0.5))
    r = x - F(n) * F(0.69314718)
    p = F(0.00824845) * r + F(0.04191192)
    p = p * r + F(0.16668265)
    p = p * r + F(0.49998938)
    p = p * r + F(0.9999995)
    p = p * r + F(1.00000006)
    return p * I(I(n + I(127)) << I(23)).view(np.float32)


@njit(inline="always")
def log1p_of(t: Any) -> Any:
    """log(1 + t) for 0 ≤ t ≤ 1: t times the polynomial of least relative error, 2e-7."""
    p = F(-0.00853225) * t + F(0.04409353)
    p = p * t + F(-0.10773499)
    p = p * t + F(0.17753116)
    p = p * t + F(-0.24500321)
    p = p * t + F(0.33276857)
    p = p * t + F(-0.49997557)
    return t * (p * t + F(0.99999983))


@njit(**FAST)
def softmax_rows(logits: Any, log_q: Any, value: Any, total: Any) -> None:
    """e^{x − top} in place; value log Σ e^x, total Σ e^{x − top}.

    A maximum of floats does not vectorise, one of integers does: the bits of the largest float are the largest of all
    when it is positive, and the smallest when all are negative.
    """
    rows, columns = logits.shape
    x = np.empty(columns, np.float32)
    for b in range(rows):
        q = log_q[b if len(log_q) > 1 else 0]
        largest, smallest = I(-2147483648), I(2147483647)
        for j in range(columns):
            v = read(logits[b, j]) - q[j]
            x[j] = v
            bits = F(v).view(np.int32)
            largest = bits if bits > largest else largest
            smallest = bits if bits < smallest else smallest
        if largest < I(0):
            largest = smallest
        top = I(largest).view(np.float32)
        s = F(0.0)
        for j in range(columns):
            e = exp_of(x[j] - top)
            s += e
            logits[b, j] = written(e, logits[b, j])
        total[b] = s
        value[b] = F(np.log(np.float64(s))) + top


@njit(**FAST)
def logistic_rows(logits: Any, log_q: Any, shift: Any, value: Any, total: Any) -> None:
    """σ(x) in place; value Σ softplus(x), total Σ σ(x).

    With t = e^−|x|: softplus = max(x, 0) + log1p(t), σ = (1 or t) / (1 + t).
    """
    rows, columns = logits.shape
    for b in range(rows):
        q, move = log_q[b if len(log_q) > 1 else 0], shift[b]
        soft, sigma = F(0.0), F(0.0)
        for j in range(columns):
            x = read(logits[b, j]) - q[j] - move
            t = exp_of(-abs(x))
            g = (F(1.0) if x >= F(0.0) else t) / (F(1.0) + t)
            soft += (x if x > F(0.0) else F(0.0)) + log1p_of(t)
            sigma += g
            logits[b, j] = written(g, logits[b, j])
        value[b] = soft
        total[b] = sigma
