"""What numba compiles for a block of rows. Imported only where numba is installed, inside functions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from xclass.losses._numba import exp_of, log1p_of, read, written
from xclass.runtime.jit_bfloat16 import FAST, F

I = np.int32  # noqa: E741
LOWEST, HIGHEST = np.finfo(np.float32).min, np.finfo(np.float32).max
SOFTMAX, LOGISTIC = 0, 1


@njit(inline="always")
def softmax_row(cells: Any, b: Any, log_q: Any, own: Any, x: Any) -> tuple[Any, Any]:
    """(log Σ e^x, Σ e^{x − top}) with x = cells_b − log_q_own; the cells become e^{x − top}.

    Of floats as integers the largest is the largest when one is positive, and the smallest when none is.
    """
    largest, smallest = I(-2147483648), I(2147483647)
    for j in range(cells.shape[1]):
        v = read(cells[b, j]) - log_q[own, j]
        x[j] = v
        bits = F(v).view(np.int32)
        largest = bits if bits > largest else largest
        smallest = bits if bits < smallest else smallest
    top = I(smallest if largest < I(0) else largest).view(np.float32)
    total = F(0.0)
    for j in range(cells.shape[1]):
        e = exp_of(x[j] - top)
        total += e
        cells[b, j] = written(e, cells[b, j])
    return F(np.log(np.float64(total))) + top, total


@njit(inline="always")
def logistic_row(cells: Any, b: Any, log_q: Any, own: Any) -> Any:
    """Σ softplus(x) with x = cells_b − log_q_own; the cells become σ(x)."""
    soft = F(0.0)
    for j in range(cells.shape[1]):
        x = read(cells[b, j]) - log_q[own, j]
        t = exp_of(-abs(x))
        soft += (x if x > F(0.0) else F(0.0)) + log1p_of(t)
        cells[b, j] = written((F(1.0) if x >= F(0.0) else t) / (F(1.0) + t), cells[b, j])
    return soft


@njit(inline="always")
def sigmoid(x: Any) -> Any:
    """σ(x)."""
    t = exp_of(-abs(x))
    return (F(1.0) if x >= F(0.0) else t) / (F(1.0) + t)


@njit(inline="always")
def softplus(x: Any) -> Any:
    """log(1 + e^x)."""
    return (x if x > F(0.0) else F(0.0)) + log1p_of(exp_of(-abs(x)))


@njit(inline="always")
def score(query: Any, r: Any, items: Any, row: Any) -> Any:
    """⟨query_r, item_row⟩."""
    total = F(0.0)
    for d in range(query.shape[1]):
        total += query[r, d] * items[row, d]
    return total


@njit(inline="always")
def add_to(out: Any, r: Any, items: Any, row: Any, factor: Any) -> None:
    """out_r += factor · item_row."""
    for d in range(out.shape[1]):
        out[r, d] += factor * items[row, d]


@njit(inline="always")
def positive(kind: Any, switches: Any, gap: Any, share: Any, is_alive: Any) -> tuple[Any, Any, Any]:
    """(loss, −gradient, part of the scale) of one positive.

    softmax: gap = log S_b − pos_p; logistic: gap = −pos_p. switches: the positive is in the denominator, corrected, β.
    """
    if kind == LOGISTIC:
        return share * switches[2] * softplus(gap), share * switches[2] * sigmoid(gap), share
    gap = min(max(gap, LOWEST), HIGHEST)
    if switches[0] == F(0.0):
        pull = share if is_alive else F(0.0)
        return pull * gap, pull, pull
    pull = share * sigmoid(gap)
    return (pull * gap if switches[1] != F(0.0) else share * softplus(gap)), pull, pull


@njit(**FAST)
def finish_rows(
    kind: Any, switches: Any, power: Any, low: Any, cells: Any, query: Any, items: Any, pos_rows: Any, offsets: Any,
    share: Any, pos_log_q: Any, log_q: Any, columns: Any, first_hit: Any, weights: Any, mask: Any,
    loss: Any, pos_grad: Any, out: Any, scale: Any,
) -> None:  # fmt: skip
    """Rows low, low + 1, … of a block: logits become cells; loss, gradients of positives, and scale are filled in.

    The plain form is the sequence of passes in :mod:`xclass.losses.fused.row_blocks`. Arrays of no rows stand for None.
    """
    x = np.empty(cells.shape[1], np.float32)
    for b in range(cells.shape[0]):
        r = low + b
        for h in range(first_hit[r], first_hit[r + 1]):
            cells[b, columns[h]] = mask
        is_alive = first_hit[r + 1] - first_hit[r] < cells.shape[1]
        value, total, sum_of_pulls, row_loss = F(0.0), F(1.0), F(0.0), F(0.0)
        own = r if len(log_q) > 1 else 0
        if kind == SOFTMAX:
            value, total = softmax_row(cells, b, log_q, own, x)
            value = max(value * power, LOWEST) if is_alive else LOWEST
            total = total if is_alive else F(1.0)
        else:
            value = logistic_row(cells, b, log_q, own)
        weight = weights[r] if len(weights) > 0 else F(1.0)
        for d in range(out.shape[1]):
            out[r, d] = F(0.0)
        for p in range(offsets[r], offsets[r + 1]):
            gap = -score(query, r, items, pos_rows[p])
            if len(pos_log_q) > 0:
                gap += pos_log_q[p]
            if kind == SOFTMAX:
                gap += value
            each, pull, part = positive(kind, switches, gap, share[p], is_alive)
            row_loss += each
            sum_of_pulls += part
            pos_grad[p] = -pull * weight
            add_to(out, r, items, pos_rows[p], pos_grad[p])
        if kind == LOGISTIC:
            row_loss += sum_of_pulls * value
        loss[r] = row_loss * weight
        scale[b] = sum_of_pulls * weight * (power / total if kind == SOFTMAX else F(1.0))


@njit(**FAST)
def combine(low: Any, product: Any, scale: Any, query: Any, out: Any, back: Any) -> None:
    """out_r += scale_b · product_b, and back_b = scale_b · query_r in the type of the products."""
    for b in range(len(scale)):
        by = scale[b]
        for d in range(query.shape[1]):
            out[low + b, d] += by * read(product[b, d])
            back[b, d] = written(by * query[low + b, d], back[b, d])
