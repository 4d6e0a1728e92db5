"""The closed-form two-tower: a truncated SVD of the degree-normalised train matrix, by our own randomised block method.

    X̂ = D_query^-½ X D_item^-½ ≈ U S Vᵀ
    item vector   = V · deg_item^p
    query vector  = (Σ over the history of deg_item^-p · V) S^g        with p ≈ g ≈ ½

With sparse features instead of histories the matrix is the co-occurrence of features and items, never formed:

    M = Aᵀ D_query^-½ Y D_item^-c ≈ U S Vᵀ      A: a query's features, weighed as in its bag; Y: the train pairs
    feature vector = U S^g,  so that the query vector is its bag A U S^g
    item vector    = V · deg_item^p

Source: randomised subspace iteration, Halko, Martinsson & Tropp 2011, algorithm 4.4; the normalised factors as used for
collaborative filtering by e.g. Peng et al. 2022 (SVD-GCN) and Shen et al. 2021 (GF-CF).
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from xclass.config import Config, Count, Positive, Power
from xclass.errors import InputError
from xclass.runtime.progress import Progress
from xclass.runtime.rng import torch_generator
from xclass.types import Ragged


class SpectralConfig(Config):
    """The closed-form start, of histories or of features."""

    iterations: Positive = 4
    """Number of subspace iterations."""
    oversampling: Count = 32
    """Extra columns during the iterations; they are dropped at the end."""
    degree_power: Power = 0.5
    """p: item rows are multiplied by count^p, history rows by count^-p."""
    value_power: Power = 0.5
    """g: history rows or feature rows are multiplied by the singular values to this power."""
    count_power: Power = 0.5
    """c, for features: the matrix column of an item is divided by count^c. For histories it is always 0.5."""


class SpectralFactors(NamedTuple):
    """Right singular vectors and singular values of the normalised matrix.

    vectors: float32 (N, D), orthonormal columns; 0 for items that never occur.
    values: float32 (D,), falling.
    """

    vectors: Tensor
    values: Tensor


class FeatureFactors(NamedTuple):
    """Singular vectors and values of the co-occurrence of features and items.

    features: float32 (F, D), orthonormal columns; 0 for features without a train pair.
    items: float32 (N, D), likewise. values: float32 (D,), falling.
    """

    features: Tensor
    items: Tensor
    values: Tensor


class _Product:
    """A matrix by its products with blocks: ``rows_of(block)`` = M·block, ``columns_of(block)`` = Mᵀ·block."""

    def __init__(self, shape: tuple[int, int], factors: list[tuple[Tensor, Tensor]]) -> None:
        self.shape, self.factors = shape, factors

    def rows_of(self, block: Tensor) -> Tensor:
        for matrix, _ in reversed(self.factors):
            block = matrix @ block
        return block

    def columns_of(self, block: Tensor) -> Tensor:
        for _, transposed in self.factors:
            block = transposed @ block
        return block


def spectral_factors(
    pairs: Ragged, num_items: int, dim: int, seed: int, iterations: int = 4, oversampling: int = 32
) -> SpectralFactors:
    """Truncated SVD of the degree-normalised train matrix.

    Args:
        pairs: the train split, Ragged by query.
        num_items: N.
        dim: D, at most min(queries, N).
        seed: of the random start.
        iterations: rounds of subspace iteration; each multiplies the error of the small singular directions by the
            squared ratio of the singular values.
        oversampling: extra columns that are cut off in the end.

    Cost O(iterations · (pairs · D + (queries + N) · D²)); memory 4 (queries + N) D bytes, times about three.
    """
    if not 1 <= dim <= min(len(pairs), num_items):
        raise InputError(
            "the spectral start has too many dimensions for this dataset",
            wanted=f"embedding_dim from 1 to {min(len(pairs), num_items)}",
            got=dim,
            do='lower embedding_dim, or use init = "random"',
        )
    matrix = _normalised(pairs, num_items)
    product = _Product(matrix.shape, [(_as_torch(matrix), _as_torch(matrix.T.tocsr()))])
    small, _ = _subspace(product, dim, seed, iterations, oversampling)
    rotation, values = _decompose(small, dim)
    return SpectralFactors(_fix_signs(small @ rotation), values)


def feature_factors(
    bags: Ragged,
    pairs: Ragged,
    sizes: tuple[int, int],
    dim: int,
    seed: int,
    iterations: int = 4,
    oversampling: int = 32,
    count_power: float = 0.5,
) -> FeatureFactors:
    """Truncated SVD of M = Aᵀ D_query^-½ Y D_item^-c, the co-occurrence of features and items, through the queries.

    Args:
        bags: A, Ragged by query: features with their final weights in the bag; all fields together.
        pairs: Y, the train split, Ragged by query.
        sizes: (F, N).
        dim: D, at most min(F, N).
        seed: of the random start.
        iterations, oversampling: as in :func:`spectral_factors`.
        count_power: c. Frequent items weigh less; 0 leaves their columns as they are.

    M has up to F·N entries and is never formed: a product with it is one with Y and one with Aᵀ. Cost
    O(iterations · ((values of A + pairs) · D + (F + N) · D²)); memory 4 (queries + F + N) D bytes, times about three.
    """
    num_features, num_items = sizes
    if not 1 <= dim <= min(sizes):
        raise InputError(
            "the spectral start has too many dimensions for these features",
            wanted=f"embedding_dim from 1 to {min(sizes)}",
            got=dim,
            do='lower embedding_dim, or use init = "random"',
        )
    a, y = _matrix(bags, num_features), _matrix(pairs, num_items)
    y = _divided(y, 0.5, count_power)
    transposed = _as_torch(a.T.tocsr()), _as_torch(a)
    product = _Product((num_features, num_items), [transposed, (_as_torch(y), _as_torch(y.T.tocsr()))])
    small, left = _subspace(product, dim, seed, iterations, oversampling)
    rotation, values = _decompose(small, dim)
    items = small @ rotation
    signs = _signs(items)
    return FeatureFactors(left @ (rotation * values) * signs, items * signs, values)


def _subspace(matrix: _Product, dim: int, seed: int, iterations: int, oversampling: int) -> tuple[Tensor, Tensor]:
    """(columns, width) B and (rows, width) orthonormal P with M ≈ P Bᵀ."""
    width = min(dim + oversampling, *matrix.shape)
    basis = torch.randn(matrix.shape[1], width, generator=torch_generator(seed, "spectral"))
    with Progress("spectral start", 2 * iterations + 2, "products") as progress:
        for _ in range(iterations):
            basis = _orthonormal(basis)
            left = matrix.rows_of(basis)
            progress.advance()
            basis = matrix.columns_of(left)
            progress.advance()
        left = _orthonormal(matrix.rows_of(_orthonormal(basis)))
        progress.advance()
        small = matrix.columns_of(left)
        progress.advance()
    return small, left


def _decompose(small: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """From B = V S Wᵀ (columns, width): W S⁻¹ (width, D), so that V = B·(W S⁻¹), and (D,) S, falling.

    Through the Gram matrix in float64. Directions with next to nothing in them become 0.
    """
    gram = torch.zeros(small.shape[1], small.shape[1], dtype=torch.float64)
    for block in small.split(1 << 14):
        gram += block.double().T @ block.double()
    squares, rotation = torch.linalg.eigh(gram)
    values = squares.flip(0)[:dim].clamp(min=0).sqrt()
    rotation = rotation.flip(1)[:, :dim]
    keep = values > 1e-6 * values[0]
    scale = torch.where(keep, values.reciprocal(), 0.0)
    return (rotation * scale).float(), values.float()


def _fix_signs(vectors: Tensor) -> Tensor:
    """The largest entry of each column is made positive: a singular vector has no sign of its own."""
    return vectors * _signs(vectors)


def _signs(vectors: Tensor) -> Tensor:
    largest = vectors.abs().argmax(0)
    signs = torch.sign(vectors[largest, torch.arange(vectors.shape[1])])
    return signs.where(vectors.abs().amax(0) > 0, 1.0)


def _orthonormal(block: Tensor) -> Tensor:
    """An orthonormal basis of the columns: Cholesky QR twice in float64 Gram matrices (fast for tall blocks)."""
    for _ in range(2):
        gram = (block.T @ block).double()
        factor = _cholesky(gram)
        inverse = torch.linalg.solve_triangular(factor, torch.eye(len(gram), dtype=torch.float64), upper=False)
        block = block @ inverse.T.float()
    return block


def _cholesky(gram: Tensor) -> Tensor:
    """With as little added to the diagonal as it takes: the columns may depend on each other, but for rounding."""
    unit, jitter = torch.eye(len(gram), dtype=torch.float64), gram.diagonal().mean() * 1e-7
    while True:
        factor, failed = torch.linalg.cholesky_ex(gram + jitter * unit)
        if not int(failed):
            return factor
        jitter = jitter * 10 if float(jitter) > 0 else torch.tensor(1e-30, dtype=torch.float64)


def _matrix(lists: Ragged, columns: int) -> scipy.sparse.csr_array:
    """One row a list."""
    values = lists.values.numpy()
    data = np.ones(len(values), np.float32) if lists.weights is None else lists.weights.numpy().astype(np.float32)
    return scipy.sparse.csr_array((data, values, lists.offsets.numpy()), shape=(len(lists), columns))


def _divided(matrix: scipy.sparse.csr_array, row_power: float, column_power: float) -> scipy.sparse.csr_array:
    """Each entry divided by its row's sum and its column's sum, to these powers; sums below 1 count as 1."""
    rows, columns = (np.maximum(np.asarray(matrix.sum(axis)).ravel(), 1.0) for axis in (1, 0))
    scaled = matrix.multiply((rows**-row_power)[:, None]).multiply((columns**-column_power)[None, :])
    return scaled.tocsr().astype(np.float32)


def _normalised(pairs: Ragged, num_items: int) -> scipy.sparse.csr_array:
    """D_query^-½ X D_item^-½; degrees are sums of weights."""
    offsets, values = pairs.offsets.numpy(), pairs.values.numpy()
    data = np.ones(len(values), np.float32) if pairs.weights is None else pairs.weights.numpy()
    rows = pairs.rows().numpy()
    query_degree = np.bincount(rows, weights=data, minlength=len(pairs))
    item_degree = np.bincount(values, weights=data, minlength=num_items)
    scaled = data / np.sqrt(np.maximum(query_degree[rows] * item_degree[values], 1e-30))
    return scipy.sparse.csr_array((scaled.astype(np.float32), values, offsets), shape=(len(pairs), num_items))


def _as_torch(matrix: scipy.sparse.csr_array) -> Tensor:
    """The same matrix for torch's threaded sparse product, which torch still calls beta."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(
            torch.from_numpy(matrix.indptr.astype(np.int64)),
            torch.from_numpy(matrix.indices.astype(np.int64)),
            torch.from_numpy(matrix.data),
            size=matrix.shape,
            check_invariants=False,
        )
