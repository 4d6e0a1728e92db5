"""Compiled loops of the scorers. Imported inside functions only; :mod:`xclass.scorers.reference` gives the same."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from xclass.runtime.jit_bfloat16 import FAST, OPTIONS, F
from xclass.scorers.reference import LANES


@njit(**OPTIONS)
def descend_lanes(  # noqa: C901  one loop, cut nowhere
    offsets: Any, features: Any, values: Any, curvature: Any, signs: Any, orders: Any, half: Any, bias: Any,
    tolerance: Any, w: Any, alpha: Any,
) -> int:  # fmt: skip
    """Dual coordinate descent for LANES items over all documents; the number of passes.

    Args:
        curvature: float32 (n,), Q_ii + D_ii of each document.
        signs: float32 (n, LANES), +1 for a document with the item, else −1.
        orders: int32 (passes, n).
        half: 1 / (2 C).
        w: float32 (V + 1, LANES), zeros; the weights, the last row that of the bias.
        alpha: float32 (n, LANES), zeros.
    """
    dim, zero, one = len(w) - 1, F(0), F(1)
    z = np.zeros(LANES, F)
    for turn in range(len(orders)):
        worst = zero
        for place in range(orders.shape[1]):
            i = orders[turn, place]
            start, stop = offsets[i], offsets[i + 1]
            for c in range(LANES):
                z[c] = w[dim, c] * bias
            for j in range(start, stop):
                x, f = values[j], features[j]
                for c in range(LANES):
                    z[c] += x * w[f, c]
            largest, step = zero, one / curvature[i]
            for c in range(LANES):
                a, y = alpha[i, c], signs[i, c]
                new = max(a - (y * z[c] - one + half * a) * step, zero)
                z[c] = (new - a) * y
                alpha[i, c] = new
                largest = max(largest, abs(z[c]))
            if largest == zero:
                continue
            worst = max(worst, largest * curvature[i])
            for c in range(LANES):
                w[dim, c] += z[c] * bias
            for j in range(start, stop):
                x, f = values[j], features[j]
                for c in range(LANES):
                    w[f, c] += x * z[c]
        if worst < tolerance:
            return turn + 1
    return len(orders)


@njit(inline="always")
def descend_list(
    offsets: Any, features: Any, values: Any, curvature: Any, rows: Any, positives: int, steps: Any, half: Any,
    bias: Any, tolerance: Any, w: Any, alpha: Any,
) -> int:  # fmt: skip
    """The same for one item over the documents ``rows``, of which the first ``positives`` have it. ``w`` is (V + 1,).

    Pass t visits places 0, s, 2s, … modulo the number of rows, s the first of ``steps`` from t on that is coprime.
    """
    dim, zero, one, n = len(w) - 1, F(0), F(1), len(rows)
    alpha[:n] = 0
    for turn in range(len(steps)):
        worst, at, stride = zero, 0, stride_of(steps, turn, n)
        for _ in range(n):
            at = (at + stride) % n
            i = rows[at]
            y = one if at < positives else -one
            z = w[dim] * bias
            for j in range(offsets[i], offsets[i + 1]):
                z += values[j] * w[features[j]]
            a = alpha[at]
            new = max(a - (y * z - one + half * a) / curvature[i], zero)
            if new == a:
                continue
            step = (new - a) * y
            alpha[at] = new
            worst = max(worst, abs(step) * curvature[i])
            w[dim] += step * bias
            for j in range(offsets[i], offsets[i + 1]):
                w[features[j]] += step * values[j]
        if worst < tolerance:
            return turn + 1
    return len(steps)


@njit(**OPTIONS)
def stride_of(steps: Any, turn: int, n: int) -> int:
    """The first prime of ``steps`` from ``turn`` on (round and round) that does not divide n; 1 if all do."""
    for more in range(len(steps)):
        prime = steps[(turn + more) % len(steps)]
        if n % prime:
            return prime
    return 1


@njit(**FAST)
def descend_lists(  # noqa: C901
    low: int, high: int, documents: Any, lists: Any, steps: Any, half: Any, bias: Any, tolerance: Any, prune: Any,
    most: int, out_features: Any, out_values: Any, out_bias: Any, counts: Any,
) -> None:  # fmt: skip
    """Items ``low … high − 1``, each over its own list; at most ``most`` weights of at least ``prune`` are kept.

    Args:
        documents: offsets, features, values, curvature, number of features.
        lists: offsets of the items' lists, documents in them, how many of an item's come first and have it.
        out_features, out_values, out_bias, counts: (high − low, most), …, filled; features rising.
    """
    offsets, features, values, curvature, dim = documents
    list_offsets, rows, positives = lists
    longest = 0
    for item in range(low, high):
        longest = max(longest, list_offsets[item + 1] - list_offsets[item])
    w, alpha = np.zeros(dim + 1, F), np.zeros(longest, F)
    touched, kept, is_touched = np.empty(dim, np.int32), np.empty(dim, F), np.zeros(dim, np.bool_)
    for item in range(low, high):
        own = rows[list_offsets[item] : list_offsets[item + 1]]
        counts[item - low] = 0
        if not positives[item] or not len(own):
            continue
        descend_list(offsets, features, values, curvature, own, positives[item], steps, half, bias, tolerance, w, alpha)
        number = larger = 0
        for i in own:
            for j in range(offsets[i], offsets[i + 1]):
                f = features[j]
                if not is_touched[f]:
                    is_touched[f] = True
                    touched[number] = f
                    number += 1
                    if abs(w[f]) >= prune and w[f] != 0:
                        kept[larger] = abs(w[f])
                        larger += 1
        cut = prune
        if larger > most:
            cut = np.sort(kept[:larger])[larger - most]
        out_bias[item - low] = w[dim] * bias
        place = 0
        for f in np.sort(touched[:number]):
            if place < most and abs(w[f]) >= cut and w[f] != 0:
                out_features[item - low, place], out_values[item - low, place] = f, w[f]
                place += 1
            w[f] = 0
            is_touched[f] = False
        counts[item - low] = place
        w[dim] = 0


@njit(**OPTIONS)
def before(score: Any, number: Any, other: Any, other_number: Any) -> bool:
    """Whether the first comes before the second: a higher score, or the same and a lower number."""
    return score > other or (score == other and number < other_number)


@njit(**OPTIONS)
def keep_best(number: Any, score: Any, size: int, numbers: Any, scores: Any) -> int:
    """Put into a heap of the best, the worst of them first; its size afterwards."""
    if size == len(numbers):
        if not before(score, number, scores[0], numbers[0]):
            return size
        place = 0
        while True:
            child = 2 * place + 1
            if child >= size:
                break
            if child + 1 < size and before(scores[child], numbers[child], scores[child + 1], numbers[child + 1]):
                child += 1
            if not before(score, number, scores[child], numbers[child]):
                break
            scores[place], numbers[place] = scores[child], numbers[child]
            place = child
        scores[place], numbers[place] = score, number
        return size
    place = size
    while place > 0 and before(scores[(place - 1) // 2], numbers[(place - 1) // 2], score, number):
        scores[place], numbers[place] = scores[(place - 1) // 2], numbers[(place - 1) // 2]
        place = (place - 1) // 2
    scores[place], numbers[place] = score, number
    return size + 1


@njit(**OPTIONS)
def best_products(
    low: int, high: int, offsets: Any, features: Any, values: Any, postings: Any, bias: Any, allowed: Any, own: Any,
    numbers: Any, scores: Any, counts: Any, asked: Any, answers: Any,
) -> None:  # fmt: skip
    """For queries ``low … high − 1`` the rows of a matrix with the largest products with it, in no order.

    Args:
        postings: offsets (V + 1,), numbers of rows, weights: the matrix by feature.
        bias: float32 (rows,) added to a row's product; empty for none.
        allowed: bool (rows,), what may come out; empty for everything.
        own: int64 (B,), a row that query b must not get, −1 for none.
        numbers, scores: (B, k) out; counts (B,) out. Rows that share no feature with a query do not come.
        asked: offsets and rows of lists, of which the scores go to ``answers``; empty for none.
    """
    post_offsets, post_rows, post_weights, size = postings
    ask_offsets, ask_rows = asked
    total, stamp, touched = np.zeros(size, F), np.full(size, -1, np.int32), np.empty(size, np.int32)
    for b in range(low, high):
        found = 0
        for j in range(offsets[b], offsets[b + 1]):
            x, f = values[j], features[j]
            for p in range(post_offsets[f], post_offsets[f + 1]):
                row = post_rows[p]
                if stamp[row] != b:
                    stamp[row] = b
                    touched[found] = row
                    found += 1
                    total[row] = bias[row] if len(bias) else F(0)
                total[row] += x * post_weights[p]
        size_b = 0
        for t in range(found):
            row = touched[t]
            better = size_b < numbers.shape[1] or total[row] >= scores[b, 0]
            if better and row != own[b] and (not len(allowed) or allowed[row]):
                size_b = keep_best(row, total[row], size_b, numbers[b], scores[b])
        counts[b] = size_b
        if len(ask_rows):
            for p in range(ask_offsets[b], ask_offsets[b + 1]):
                row = ask_rows[p]
                if stamp[row] == b:
                    answers[p] = total[row]
                else:
                    answers[p] = bias[row] if len(bias) else F(0)


@njit(**OPTIONS)
def sum_lists(
    low: int, high: int, numbers: Any, votes: Any, counts: Any, offsets: Any, values: Any, weights: Any, size: int,
    starts: Any, out_values: Any, out_sums: Any, out_counts: Any,
) -> None:  # fmt: skip
    """For queries ``low … high − 1`` the values of the lists ``numbers[b]``, each with the sum of its lists' votes."""
    total, stamp = np.zeros(size, F), np.full(size, -1, np.int32)
    for b in range(low, high):
        first = place = starts[b]
        for n in range(counts[b]):
            row = numbers[b, n]
            for j in range(offsets[row], offsets[row + 1]):
                value = values[j]
                if stamp[value] != b:
                    stamp[value] = b
                    total[value] = 0
                    out_values[place] = value
                    place += 1
                total[value] += votes[b, n] * weights[j] if len(weights) else votes[b, n]
        for p in range(first, place):
            out_sums[p] = total[out_values[p]]
        out_counts[b] = place - first


@njit(**FAST)
def list_products(
    low: int, high: int, offsets: Any, features: Any, values: Any, dim: int, matrix: Any, bias: Any, list_offsets: Any,
    rows: Any, out: Any,
) -> None:  # fmt: skip
    """For queries ``low … high − 1`` the products with the rows of a matrix that its list names."""
    row_offsets, row_features, row_weights = matrix
    x = np.zeros(dim, F)
    for b in range(low, high):
        for j in range(offsets[b], offsets[b + 1]):
            x[features[j]] = values[j]
        for p in range(list_offsets[b], list_offsets[b + 1]):
            total = bias[rows[p]]
            for j in range(row_offsets[rows[p]], row_offsets[rows[p] + 1]):
                total += row_weights[j] * x[row_features[j]]
            out[p] = total
        for j in range(offsets[b], offsets[b + 1]):
            x[features[j]] = 0
