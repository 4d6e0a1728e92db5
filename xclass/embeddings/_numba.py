"""What numba compiles for tables. Imported only where numba is installed, by :mod:`xclass.embeddings._dispatch`.

Rows lie anywhere in memory, so a pass spends its time waiting for them: each is asked for ``AHEAD`` rows before its
turn. bfloat16 comes as its bits, uint16. numba widens 32-bit integers, so they are cast back after every operation.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import overload

from xclass.runtime.jit_bfloat16 import FAST, LINE_BYTES, OPTIONS, F, U, fetch, fetch_row, read

GOLDEN = np.uint32(0x9E3779B9)
AHEAD = 8
SGD, ADAGRAD, RMSPROP, ADAM = 0, 1, 2, 3
KINDS = {"sgd": SGD, "adagrad": ADAGRAD, "rmsprop": RMSPROP, "adam": ADAM}


def written(value, like, noise):  # type: ignore[no-untyped-def]
    """A float32 as a cell of the type of ``like``; bfloat16 is rounded up when its lost bits exceed the noise."""
    raise NotImplementedError


@overload(written)
def _written(value, like, noise):  # type: ignore[no-untyped-def]
    if like == types.uint16:

        def as_bfloat16(value, like, noise):  # type: ignore[no-untyped-def]
            bits = F(value).view(np.uint32)
            finite = U(bits & U(0x7F800000)) != U(0x7F800000)
            not_a_number = U(bits & U(0x7FFFFFFF)) > U(0x7F800000)
            up = U(bits + U(mixed(noise) >> U(16)))
            kept = U(bits | U(0x00400000)) if not_a_number else bits
            return np.uint16(U(up if finite else kept) >> U(16))

        return as_bfloat16
    return lambda value, like, noise: value


@njit(**OPTIONS)
def mixed(x: Any) -> Any:
    """32 well-mixed bits of 32 bits: the function of :func:`xclass.embeddings.hashing.mixed`."""
    x = U(U(x ^ U(x >> U(16))) * U(0x7FEB352D))
    x = U(U(x ^ U(x >> U(15))) * U(0x846CA68B))
    return U(x ^ U(x >> U(16)))


@njit(**OPTIONS)
def row_noise(row: Any, keys: Any) -> Any:
    """32 bits that depend on the row and the step."""
    return mixed(U(mixed(U(U(row) ^ keys[0])) ^ U(U(row >> 32) + keys[1])))


@njit(inline="always")
def sum_of_squares(grads: Any, u: Any) -> Any:
    """Σ_d grads[u, d]², float32. No view of the row: making one counts references, which costs as much as the sum."""
    total = F(0.0)
    for d in range(grads.shape[1]):
        total += grads[u, d] * grads[u, d]
    return total


@njit(**OPTIONS)
def decay_due(decayed: Any, row: Any, now: float) -> Any:
    """e^(now − decayed[row]), and the row has had it; 1 without weight decay."""
    if len(decayed) == 0 or decayed[row] == now:
        return F(1.0)
    factor = F(math.exp(now - decayed[row]))
    decayed[row] = now
    return factor


@njit(**FAST)
def gather(weight: Any, ids: Any, decayed: Any, decay: float, rows: Any) -> None:
    """rows[u] = weight[ids[u]] · e^(decay − decayed[ids[u]]); without ``decayed`` as it is."""
    dim, step = weight.shape[1], max(LINE_BYTES // weight.itemsize, 1)
    for u in range(len(ids)):
        if u + AHEAD < len(ids):
            fetch_row(weight, ids[u + AHEAD], step)
            if len(decayed) > 0:
                fetch(decayed, ids[u + AHEAD], 0)
        r = ids[u]
        if len(decayed) > 0 and decayed[r] != decay:
            factor = F(math.exp(decay - decayed[r]))
            for d in range(dim):
                rows[u, d] = read(weight[r, d]) * factor
        else:
            for d in range(dim):
                rows[u, d] = read(weight[r, d])


@njit(**FAST)
def push(  # noqa: C901  calls with this many arrays cost more than a row
    weight: Any, squares: Any, updates: Any, mean: Any, decayed: Any, ids: Any, grads: Any, numbers: Any, keys: Any
) -> None:
    """Decay, clip, step, round, for each of ``ids``; the plain form is :func:`xclass.embeddings.row_ops.push`.

    Args:
        weight: (N, D).
        squares, updates, mean: the optimiser's state, (N,), (N,), (N, D); those it has not have no rows.
        decayed: (N,) the decay that each row has had, or no rows.
        numbers: kind, lr, β₁, β₂, eps, the largest norm of a gradient or 0, the decay with this step's.
        keys: two uint32 numbers of this step, for rounding.
    """
    kind, lr, beta1, beta2, eps, clip, decay_now = (
        int(numbers[0]), F(numbers[1]), F(numbers[2]), F(numbers[3]), F(numbers[4]), F(numbers[5]), numbers[6]
    )  # fmt: skip
    dim, step = weight.shape[1], max(LINE_BYTES // weight.itemsize, 1)
    log1, log2 = math.log(numbers[2]), math.log(numbers[3])
    for u in range(len(ids)):
        if u + AHEAD < len(ids):
            coming = ids[u + AHEAD]
            fetch_row(weight, coming, step)
            if len(squares) > 0:
                fetch(squares, coming, 0)
            if len(updates) > 0:
                fetch(updates, coming, 0)
            if len(mean) > 0:
                fetch_row(mean, coming, LINE_BYTES // 4)
            if len(decayed) > 0:
                fetch(decayed, coming, 0)
        r = ids[u]
        total = sum_of_squares(grads, u)
        shrink = F(1.0)
        if clip > F(0.0) and total > clip * clip:
            shrink = clip / F(math.sqrt(total))
            total = clip * clip
        factor = decay_due(decayed, r, decay_now)
        scale = lr
        if kind == ADAGRAD:
            squares[r] += total / F(dim)
            scale = lr / (F(math.sqrt(squares[r])) + eps)
        elif kind != SGD:
            updates[r] += F(1.0)
            squares[r] = beta2 * squares[r] + (F(1.0) - beta2) * (total / F(dim))
            left2 = math.exp(log2 * updates[r])
            scale = lr / (F(math.sqrt(squares[r] / F(1.0 - left2))) + eps)
        noise = row_noise(r, keys)
        if kind == ADAM:
            scale /= F(1.0 - math.exp(log1 * updates[r]))
            for d in range(dim):
                m = beta1 * mean[r, d] + (F(1.0) - beta1) * (shrink * grads[u, d])
                mean[r, d] = m
                x = read(weight[r, d]) * factor - scale * m
                weight[r, d] = written(x, weight[r, d], U(noise + U(U(d) * GOLDEN)))
        else:
            scale *= shrink
            for d in range(dim):
                x = read(weight[r, d]) * factor - scale * grads[u, d]
                weight[r, d] = written(x, weight[r, d], U(noise + U(U(d) * GOLDEN)))


@njit(**FAST)
def settle(weight: Any, decayed: Any, first: int, decay: float, keys: Any) -> None:
    """weight[r] ← weight[r] · e^(decay − decayed[r]), rounded; ``first``: the number of row 0 in the whole table."""
    dim = weight.shape[1]
    for r in range(len(weight)):
        if decayed[r] == decay:
            continue
        factor = F(math.exp(decay - decayed[r]))
        decayed[r] = decay
        noise = row_noise(first + r, keys)
        for d in range(dim):
            weight[r, d] = written(read(weight[r, d]) * factor, weight[r, d], U(noise + U(U(d) * GOLDEN)))


@njit(**OPTIONS)
def draw(weight: Any, first: int, values: Any, keys: Any) -> None:
    """Each cell becomes one of the 65,536 ``values``; ``first``: the number of row 0 in the whole table.

    64 bits of a row and the place in it are mixed into 32, which choose two neighbouring cells.
    """
    dim, low, high = weight.shape[1], U(0xFFFF), U(16)
    for r in range(len(weight)):
        one, two = row_noise(first + r, keys), row_noise(first + r, keys[2:])
        for pair in range(dim // 2):
            bits = mixed(U(mixed(U(one + U(U(pair) * GOLDEN))) ^ two))
            weight[r, 2 * pair] = values[U(bits & low)]
            weight[r, 2 * pair + 1] = values[U(bits >> high)]
        if dim % 2 == 1:
            weight[r, dim - 1] = values[U(mixed(U(mixed(U(one + U(U(dim // 2) * GOLDEN))) ^ two)) & low)]
