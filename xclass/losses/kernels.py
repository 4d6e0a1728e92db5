"""What numba compiles. Imported only where numba is installed, by :mod:`xclass.losses.compiled`.

Loops are written so that they vectorise: 32-bit integers are cast back after every step, and the largest logit is found
on integers that order as the floats do.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import overload

F, I, U = np.float32, np.int32, np.uint32  # noqa: E741
OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}
FAST: dict[str, Any] = {"fastmath": {"nsz", "arcp", "contract", "reassoc"}, **OPTIONS}


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
def ordered(value: Any) -> Any:
    """int32 that order as the float32 do; its own inverse on the bits."""
    bits = F(value).view(np.int32)
    return I(bits ^ I(U(U(I(bits >> I(31))) >> U(1))))


@njit(inline="always")
def exp_of(x: Any) -> Any:
    """e^x for x ≤ 0: 2^n · e^r with |r| ≤ ln 2 / 2 (Cephes' polynomial)."""
    x = x if x > F(-87.0) else F(-87.0)
    n = I(x * F(1.44269504) - F(0.5))
    whole = F(n)
    r = x - whole * F(0.69314718)
    p = F(1.9875691500e-4)
    p = p * r + F(1.3981999507e-3)
    p = p * r + F(8.3334519073e-3)
    p = p * r + F(4.1665795894e-2)
    p = p * r + F(1.6666665459e-1)
    p = p * r + F(5.0000001201e-1)
    return (p * r * r + r + F(1.0)) * I(I(n + I(127)) << I(23)).view(np.float32)


@njit(**FAST)
def softmax_rows(logits: Any, log_q: Any, value: Any, total: Any) -> None:
    """e^{x − top} in place; value log Σ e^x, total Σ e^{x − top}."""
    rows, columns = logits.shape
    x = np.empty(columns, np.float32)
    for b in range(rows):
        q = log_q[b if len(log_q) > 1 else 0]
        highest = I(-2147483647)
        for j in range(columns):
            v = read(logits[b, j]) - q[j]
            x[j] = v
            i = ordered(v)
            highest = i if i > highest else highest
        top = I(highest ^ I(U(U(I(highest >> I(31))) >> U(1)))).view(np.float32)
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

    With t = e^−|x|: softplus = max(x, 0) + log1p(t), σ = (1 or t) / (1 + t). log1p(t) = 2·artanh(t / (2 + t)), a series
    in s² ≤ 1/9; one division gives both 1/(1 + t) and 1/(2 + t).
    """
    rows, columns = logits.shape
    for b in range(rows):
        q, move = log_q[b if len(log_q) > 1 else 0], shift[b]
        soft, sigma = F(0.0), F(0.0)
        for j in range(columns):
            x = read(logits[b, j]) - q[j] - move
            t = exp_of(-abs(x))
            inverse = F(1.0) / ((F(1.0) + t) * (F(2.0) + t))
            s = t * inverse * (F(1.0) + t)
            w = s * s
            p = F(0.13429305)
            p = p * w + F(0.14112602)
            p = p * w + F(0.2000437)
            p = p * w + F(0.33333309)
            log1p = F(2.0) * (s + s * w * p)
            g = (F(1.0) if x >= F(0.0) else t) * inverse * (F(2.0) + t)
            soft += (x if x > F(0.0) else F(0.0)) + log1p
            sigma += g
            logits[b, j] = written(g, logits[b, j])
        value[b] = soft
        total[b] = sigma
