"""The closed-form two-tower: a truncated SVD of the degree-normalised train matrix, by our own randomised block method.

    X̂ = D_query^-½ X D_item^-½ ≈ U S Vᵀ
    item vector   = V · deg_item^p
    query vector  = (Σ over the history of deg_item^-p · V) S^g        with p ≈ g ≈ ½

Source: randomised subspace iteration, Halko, Martinsson & Tropp 2011, algorithm 4.4; the normalised factors as used for
collaborative filtering by e.g. Peng et al. 2022 (SVD-GCN) and Shen et al. 2021 (GF-CF).
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
import pydantic
import scipy.sparse
import torch
from torch import Tensor

from xclass.config import Config
from xclass.errors import InputError
from xclass.progress import Progress
from xclass.rng import torch_generator
from xclass.types import Ragged


class SpectralConfig(Config):
    """The closed-form start."""

    iterations: int = pydantic.Field(4, ge=1)
    """Rounds of subspace iteration."""
    oversampling: int = pydantic.Field(32, ge=0)
    """Extra columns, cut off in the end."""
    degree_power: float = 0.5
    """p: item rows are multiplied by count^p, history rows by count^-p."""
    value_power: float = 0.5
    """g: history rows are multiplied by the singular values to this power."""


class SpectralFactors(NamedTuple):
    """Right singular vectors and singular values of the normalised matrix.

    vectors: float32 (N, D), orthonormal columns; 0 for items that never occur.
    values: float32 (D,), falling.
    """

    vectors: Tensor
    values: Tensor


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
    transposed = _as_torch(matrix.T.tocsr())
    forward = _as_torch(matrix)
    width = min(dim + oversampling, *matrix.shape)
    basis = torch.randn(num_items, width, generator=torch_generator(seed, "spectral"))
    with Progress("spectral start", 2 * iterations + 2, "products") as progress:
        for _ in range(iterations):
            basis = _orthonormal(basis)
            left = forward @ basis
            progress.advance()
            basis = transposed @ left
            progress.advance()
        left = _orthonormal(forward @ _orthonormal(basis))
        progress.advance()
        small = transposed @ left
        progress.advance()
    return _decompose(small, dim)


def _decompose(small: Tensor, dim: int) -> SpectralFactors:
    """SVD of the tall (N, width) projection through its Gram matrix in float64."""
    gram = torch.zeros(small.shape[1], small.shape[1], dtype=torch.float64)
    for block in small.split(1 << 14):
        gram += block.double().T @ block.double()
    squares, rotation = torch.linalg.eigh(gram)
    values = squares.flip(0)[:dim].clamp(min=0).sqrt()
    rotation = rotation.flip(1)[:, :dim]
    keep = values > 1e-6 * values[0]
    scale = torch.where(keep, values.reciprocal(), 0.0)
    vectors = small @ (rotation * scale).float()
    return SpectralFactors(_fix_signs(vectors), values.float())


def _fix_signs(vectors: Tensor) -> Tensor:
    """The largest entry of each column is made positive: a singular vector has no sign of its own."""
    largest = vectors.abs().argmax(0)
    return vectors * torch.sign(vectors[largest, torch.arange(vectors.shape[1])]).where(vectors.abs().amax(0) > 0, 1.0)


def _orthonormal(block: Tensor) -> Tensor:
    """An orthonormal basis of the columns: Cholesky QR twice in float64 Gram matrices (fast for tall blocks)."""
    for _ in range(2):
        gram = (block.T @ block).double()
        jitter = gram.diagonal().mean() * 1e-7
        factor = torch.linalg.cholesky(gram + jitter * torch.eye(len(gram), dtype=torch.float64))
        inverse = torch.linalg.solve_triangular(factor, torch.eye(len(gram), dtype=torch.float64), upper=False)
        block = block @ inverse.T.float()
    return block


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
