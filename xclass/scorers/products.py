"""Products of sparse rows: the best of a matrix for each query, sums over lists, and those that lists name."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from xclass.runtime.jit import compiles
from xclass.runtime.threads import in_parts
from xclass.scorers import reference
from xclass.scorers.reference import Rows
from xclass.types import Ragged, TopK, offsets_of

CPU = torch.device("cpu")
WORTHWHILE = 64  # queries a thread should have
NOTHING = np.zeros(0, np.float32)


def rows_of(lists: Ragged, size: int) -> Rows:
    """The arrays of lists with weights; nothing is copied where types agree."""
    assert lists.weights is not None
    values = lists.values.int().contiguous().numpy(), lists.weights.float().contiguous().numpy()
    return Rows(lists.offsets.contiguous().numpy(), *values, size)


def best_products(
    queries: Rows,
    by_feature: Rows,
    k: int,
    bias: np.ndarray | None = None,
    allowed: np.ndarray | None = None,
    own: np.ndarray | None = None,
    asked: Ragged | None = None,
) -> tuple[TopK, Tensor]:
    """For each query the k rows with the largest inner products among those that share a feature with it.

    Best first; equal products: the lower number. Cost: the postings of a query's features. Memory: 12 bytes a row of
    the matrix for each thread, and the lists.

    Args:
        by_feature: the matrix's transpose, of (V, rows).
        bias: float32 (rows,), added to a row's product.
        allowed: bool (rows,), nothing else comes.
        own: int64 (B,), a row that query b does not get; −1 for none.
        asked: lists of rows; their scores, one for each of ``asked.values``, are made on the way and come second.
    """
    lists = Ragged(torch.zeros(len(queries.offsets), dtype=torch.int64), torch.zeros(0, dtype=torch.int64))
    lists, answers = asked or lists, np.empty(0 if asked is None else len(asked.values), np.float32)
    number, added = len(queries.offsets) - 1, NOTHING if bias is None else bias
    left_out = np.full(number, -1, np.int64) if own is None else own
    if not compiles():
        matrix = by_feature.by_feature()
        numbers, scores, counts = reference.best_products(queries, matrix, added, k, allowed, left_out)
        answers = reference.list_products(queries, matrix, lists.rows().numpy(), lists.values.numpy())
        answers = answers + added[lists.values.numpy()] if len(added) else answers
    else:
        numbers, scores = np.zeros((number, k), np.int32), np.zeros((number, k), np.float32)
        counts = np.zeros(number, np.int64)
        may = np.zeros(0, np.bool_) if allowed is None else allowed
        ask = lists.offsets.numpy(), lists.values.numpy()

        def part(low: int, high: int) -> None:
            from xclass.scorers import _numba

            _numba.best_products(
                low, high, *queries[:3], tuple(by_feature), added, may, left_out, numbers, scores, counts, ask, answers
            )

        in_parts(part, number, number // WORTHWHILE, CPU)
    found = _best_first(torch.from_numpy(numbers), torch.from_numpy(scores), torch.from_numpy(counts))
    return found, torch.from_numpy(answers)


def _best_first(numbers: Tensor, scores: Tensor, counts: Tensor) -> TopK:
    """Rectangles of which the first ``counts`` cells of a row count, as sorted lists."""
    there = torch.arange(numbers.shape[1]) < counts[:, None]
    by_number = torch.where(there, numbers.long(), torch.iinfo(torch.int64).max).argsort(dim=1, stable=True)
    ordered = torch.where(there, scores, -torch.inf).gather(1, by_number)
    best = by_number.gather(1, ordered.argsort(dim=1, descending=True, stable=True))
    return TopK.from_padded(numbers.long().gather(1, best), scores.gather(1, best), there)


def sum_lists(found: TopK, lists: Ragged, votes: Tensor, size: int) -> Ragged:
    """The values of the lists that ``found`` names, each once a query, weighted by the sum of its lists' votes.

    Args:
        found: list numbers for each query.
        lists: their values, with weights that multiply votes where there are any; values below ``size``.
        votes: float32, one for each of ``found.ids``.
    """
    lengths = (lists.offsets[1:] - lists.offsets[:-1])[found.ids]
    starts = offsets_of(torch.zeros(len(found), dtype=torch.int64).index_add_(0, found.rows(), lengths))
    if not compiles():
        return _sum_plainly(found, lists, votes, size)
    values, sums = np.empty(int(starts[-1]), np.int64), np.empty(int(starts[-1]), np.float32)
    counts, width = np.zeros(len(found), np.int64), int(found.lengths().max()) if len(found) else 0
    numbers, weighed = np.zeros((len(found), width), np.int64), np.zeros((len(found), width), np.float32)
    places = found.rows().numpy(), (found.ranks() - 1).numpy()
    numbers[places], weighed[places] = found.ids.numpy(), votes.numpy()
    weights = NOTHING if lists.weights is None else lists.weights.float().numpy()
    given = lists.offsets.numpy(), lists.values.numpy(), weights, size, starts.numpy()

    def part(low: int, high: int) -> None:
        from xclass.scorers import _numba

        _numba.sum_lists(low, high, numbers, weighed, found.lengths().numpy(), *given, values, sums, counts)

    in_parts(part, len(found), len(found) // WORTHWHILE, CPU)
    room, held = starts.diff(), torch.from_numpy(counts)
    keep = torch.arange(len(values)) - torch.repeat_interleave(starts[:-1], room) < torch.repeat_interleave(held, room)
    return Ragged(offsets_of(held), torch.from_numpy(values)[keep], torch.from_numpy(sums)[keep])


def _sum_plainly(found: TopK, lists: Ragged, votes: Tensor, size: int) -> Ragged:
    taken = lists.take(found.ids)
    each = torch.repeat_interleave(votes, taken.lengths())
    each = each if taken.weights is None else each * taken.weights
    keys = torch.repeat_interleave(found.rows(), taken.lengths()) * size + taken.values
    distinct, places = torch.unique(keys, return_inverse=True)
    sums = torch.zeros(len(distinct)).index_add_(0, places, each)
    rows = torch.div(distinct, size, rounding_mode="floor")
    return Ragged(offsets_of(torch.bincount(rows, minlength=len(found))), distinct - rows * size, sums)


def list_products(queries: Rows, matrix: Rows, bias: np.ndarray, lists: Ragged) -> Tensor:
    """float32, one for each of ``lists.values``: row · query + bias. Cost: the rows that are named."""
    out = np.empty(len(lists.values), np.float32)
    offsets, rows = lists.offsets.numpy(), lists.values.numpy()
    if not compiles():
        return torch.from_numpy(reference.list_products(queries, matrix, lists.rows().numpy(), rows) + bias[rows])

    def part(low: int, high: int) -> None:
        from xclass.scorers import _numba

        _numba.list_products(low, high, *queries, tuple(matrix[:3]), bias, offsets, rows, out)

    in_parts(part, len(lists), len(lists) // WORTHWHILE, CPU)
    return torch.from_numpy(out)
