"""What every index checks at its door: shapes, finite numbers, k, exclusions."""

from __future__ import annotations

import operator

import numpy as np
import torch
from torch import Tensor

from xclass.config import MOST
from xclass.errors import InputError
from xclass.runtime.jit import compiles
from xclass.runtime.threads import in_parts
from xclass.types import Ragged
from xclass.types.vectors import Vectors, as_vectors, wrong_shape

CHECKED_ROWS = 1 << 14


def checked_vectors(vectors: Tensor | np.ndarray | Vectors) -> Vectors:
    """Item vectors as a source whose rows are finite. No copy of a matrix whose rows lie one after the other.

    Cost: all of them are read once, block by block.

    Raises:
        InputError: not a matrix, no row or no column, NaN or infinity (with the first item number).
    """
    vectors = as_vectors(vectors)
    if not len(vectors) or not vectors.dim:
        raise wrong_shape(f"{len(vectors)} × {vectors.dim}")
    _check_source(vectors)
    return vectors


@torch.no_grad()
def _check_source(vectors: Vectors) -> None:
    def check(low: int, high: int) -> None:
        for start in range(low, high, CHECKED_ROWS):
            _check_finite(vectors.read(start, min(start + CHECKED_ROWS, high)), "the vector of item", start)

    in_parts(check, len(vectors), len(vectors) // CHECKED_ROWS, vectors.device)


def checked_queries(query_BD: Tensor | np.ndarray, dim: int) -> Tensor:
    """Query vectors as contiguous float32 (B,D).

    Raises:
        InputError: another number of dimensions, NaN or infinity (with the first query's place in the batch).
    """
    if isinstance(query_BD, np.ndarray):
        query_BD = torch.as_tensor(query_BD)
    if not isinstance(query_BD, Tensor):
        raise InputError("query vectors do not fit the index", wanted="a tensor or array", got=type(query_BD).__name__)
    if query_BD.dim() != 2 or query_BD.shape[1] != dim or not query_BD.is_floating_point():
        got = f"{query_BD.dtype} of shape {tuple(query_BD.shape)}"
        raise InputError("query vectors do not fit the index", wanted=f"floating (B, {dim})", got=got)
    query_BD = query_BD.detach().to(torch.float32).contiguous()
    _check_finite(query_BD, "the vector of query")
    return query_BD


def checked_k(k: int) -> int:
    """``k`` as a plain integer, from any integer type; InputError for what is none, below 1 and above 2^31 − 1."""
    wanted = f"an integer from 1 to {MOST:,}"
    if isinstance(k, bool) or not hasattr(k, "__index__"):
        raise InputError("k is not an integer", wanted=wanted, got=repr(k))
    if not 1 <= operator.index(k) <= MOST:
        raise InputError("k is too small" if k < 1 else "k is too large", wanted=wanted, got=k)
    return operator.index(k)


def checked_exclude(exclude: Ragged | None, num_queries: int, num_items: int) -> Ragged | None:
    """The exclusions with int64 values, or None when there are none.

    Raises:
        InputError: another number of lists; an item number that the index does not have.
    """
    if exclude is None:
        return None
    if len(exclude) != num_queries:
        raise InputError("one list of exclusions is needed per query", wanted=num_queries, got=len(exclude))
    exclude = exclude.long()
    if not len(exclude.values):
        return None
    low, high = (int(value) for value in torch.aminmax(exclude.values))
    if low < 0 or high >= num_items:
        got = low if low < 0 else high
        raise InputError("an excluded item is not in the index", wanted=f"item numbers 0 to {num_items - 1}", got=got)
    return exclude


def _check_finite(rows: Tensor, what: str, first: int = 0) -> None:
    """Every norm finite in float32: then so is every inner product (Cauchy-Schwarz), and no row has NaN or infinity."""
    bad = _first_bad(rows)
    if bad >= 0:
        got = "NaN, infinity or a square beyond float32"
        raise InputError(f"{what} {first + bad} is not finite", wanted="numbers whose squares fit float32", got=got)


def _first_bad(rows: Tensor) -> int:
    """−1 for none."""
    if rows.device.type == "cpu" and rows.dtype == torch.float32 and rows.is_contiguous() and compiles():
        from xclass.index._numba import first_infinite

        return int(first_infinite(rows.detach().numpy()))
    bad = (~torch.isfinite(torch.linalg.vector_norm(rows, dim=1))).nonzero()
    return int(bad[0]) if len(bad) else -1
