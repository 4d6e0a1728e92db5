"""The loops of :mod:`xclass.scorers._numba` in NumPy and SciPy: the same results where nothing is compiled."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.sparse

LANES = 16  # items whose weights are trained side by side: a row of them is one register of 512 bits


class Rows(NamedTuple):
    """Rows of a sparse matrix: offsets int64 (n + 1,), features int32, values float32, and the number of features."""

    offsets: np.ndarray
    features: np.ndarray
    values: np.ndarray
    size: int

    def matrix(self) -> scipy.sparse.csr_array:
        """As SciPy has it; nothing is copied."""
        shape = len(self.offsets) - 1, self.size
        return scipy.sparse.csr_array((self.values, self.features, self.offsets), shape=shape)

    def by_feature(self) -> Rows:
        """The transpose: for each feature the rows that have it, rising."""
        turned = self.matrix().tocsc()
        offsets, rows = turned.indptr.astype(np.int64), turned.indices.astype(np.int32)
        return Rows(offsets, rows, turned.data.astype(np.float32), len(self.offsets) - 1)


def descend(
    rows: Rows, signs: np.ndarray, orders: np.ndarray, cost: float, bias: float, tolerance: float
) -> tuple[np.ndarray, np.ndarray]:
    """Dual coordinate descent for several items over the same documents: weights (V, L) and biases (L,).

    Args:
        signs: (n, L), +1 where the document has the item, else −1.
        orders: (passes, n), the documents in the order of each pass.
    """
    half = 0.5 / cost
    w, alpha = np.zeros((rows.size + 1, signs.shape[1]), np.float32), np.zeros_like(signs, dtype=np.float32)
    curvature = curvatures(rows, cost, bias)
    for order in orders:
        worst = 0.0
        for i in order:
            own = slice(rows.offsets[i], rows.offsets[i + 1])
            features, values = rows.features[own], rows.values[own]
            z = values @ w[features] + w[-1] * bias
            new = np.maximum(alpha[i] - (signs[i] * z - 1 + half * alpha[i]) / curvature[i], 0)
            step = (new - alpha[i]) * signs[i]
            alpha[i] = new
            worst = max(worst, float(np.abs(step).max()) * curvature[i])
            w[features] += np.outer(values, step)
            w[-1] += step * bias
        if worst < tolerance:
            break
    return w[:-1], w[-1] * bias


def curvatures(rows: Rows, cost: float, bias: float) -> np.ndarray:
    """float32 (n,): Q_ii + D_ii = ‖x_i‖² + bias² + 1 / (2 C) of each document."""
    squares = np.concatenate([[0.0], np.cumsum(rows.values.astype(np.float64) ** 2)])
    return (np.diff(squares[rows.offsets]) + bias**2 + 0.5 / cost).astype(np.float32)


def walk(rows: int, turn: int, steps: np.ndarray) -> np.ndarray:
    """int64: the places that pass ``turn`` over an item's own list visits, in order."""
    primes = [int(steps[(turn + more) % len(steps)]) for more in range(len(steps))]
    stride = next((prime for prime in primes if rows % prime), 1)
    return (np.arange(1, rows + 1) * stride) % rows


def best_products(
    queries: Rows, matrix: Rows, bias: np.ndarray, k: int, allowed: np.ndarray | None, own: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The k rows of ``matrix`` with the largest products with each query: numbers (B, k), scores, counts (B,)."""
    found = (queries.matrix() @ matrix.matrix().T).tocsr()
    shape = len(queries.offsets) - 1, k
    numbers, scores, counts = np.zeros(shape, np.int32), np.zeros(shape, np.float32), np.zeros(shape[0], np.int64)
    for b in range(shape[0]):
        part = slice(found.indptr[b], found.indptr[b + 1])
        rows, products = found.indices[part], found.data[part]
        keep = (rows != own[b]) if allowed is None else (rows != own[b]) & allowed[rows]
        rows, products = rows[keep], products[keep] + (bias[rows[keep]] if len(bias) else 0)
        best = np.lexsort((rows, -products))[:k]
        counts[b] = len(best)
        numbers[b, : len(best)], scores[b, : len(best)] = rows[best], products[best]
    return numbers, scores, counts


def list_products(queries: Rows, matrix: Rows, numbers: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """float32: query ``numbers[p]`` times row ``rows[p]`` of the matrix, for each p."""
    pairs = queries.matrix()[numbers].multiply(matrix.matrix()[rows])
    found: np.ndarray = pairs.sum(axis=1).astype(np.float32).ravel()
    return found
