"""Which candidates must not count as negatives: positions, never a (B, K) mask."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from xclass.runtime.jit import compiles
from xclass.types import Ragged, Selection

HASH_MASK = (1 << 16) - 1
FIRST_ROOM = 1 << 16  # hits; more make a second look necessary


class Hits(NamedTuple):
    """Cells of the (B, K) logits to mask: ``rows`` rising, int64 (H,) each."""

    rows: Tensor
    columns: Tensor


def find_hits(excluded: Ragged | Selection, candidates: Tensor) -> Hits:
    """Every (query, column) whose candidate is among the query's excluded items; all copies of a candidate count.

    Args:
        excluded: lists of item numbers, B of them.
        candidates: int64 (K,) shared by the queries, repeats allowed; or (B, K), where −1 is no candidate and a hit.

    Cost O(M + K + hits log hits) for M excluded items: a small table of hashed candidates drops nearly all of the M,
    before anything is looked up or sorted. No B × K anything; compiled, a selection's lists are read where they lie.
    For (B, K): O((M + B·K) log M); compiled O((M + B·K) log of the longest list).

    >>> find_hits(Ragged.from_lists([[4], [], [7, 4]]), torch.tensor([4, 9, 4])).columns.tolist()
    [0, 2, 0, 2]
    """
    if candidates.device.type == "cpu" and compiles():
        return _compiled_hits(excluded, candidates)
    plain = excluded.ragged() if isinstance(excluded, Selection) else excluded
    return _own_hits(plain, candidates) if candidates.dim() == 2 else _shared_hits(plain, candidates)


def _compiled_hits(excluded: Ragged | Selection, candidates: Tensor) -> Hits:
    from xclass.losses.fused import _numba_pairs

    source, rows = (
        (excluded.source, excluded.rows) if isinstance(excluded, Selection) else (excluded, torch.arange(len(excluded)))
    )
    lists, wanted = (source.offsets.numpy(), source.values.numpy(), rows.numpy()), candidates.numpy()
    if candidates.dim() == 2:
        return _found(lambda found: _numba_pairs.own_hits(*lists, wanted, found))
    first, following = (
        np.empty(1 << max((2 * len(candidates)).bit_length(), 4), np.int32),
        np.empty(len(candidates), np.int32),
    )
    marks = _numba_pairs.chains(wanted, first, following)
    return _found(lambda found: _numba_pairs.find_hits(*lists, wanted, marks, first, following, found))


def _found(find: Callable[[np.ndarray], int]) -> Hits:
    """What ``find`` writes into the cells it is given, (2, room), and says how many there are."""
    room = FIRST_ROOM
    while True:
        found = np.empty((2, room), np.int64)
        needed = find(found)
        if needed <= room:
            return Hits(*torch.from_numpy(found[:, :needed]))
        room = needed


def _shared_hits(excluded: Ragged, candidates: Tensor) -> Hits:
    maybe = _hashed_match(excluded.values, candidates)
    values = excluded.values[maybe]
    wanted = _hashed_match(candidates, values)
    ordered, order = torch.sort(candidates[wanted], stable=True)
    low = torch.searchsorted(ordered, values)
    copies = torch.searchsorted(ordered, values, right=True) - low
    owners = torch.searchsorted(excluded.offsets, maybe, right=True) - 1
    rows = torch.repeat_interleave(owners, copies)
    starts = torch.repeat_interleave(low - (copies.cumsum(0) - copies), copies)
    columns = wanted[order[starts + torch.arange(len(starts), device=rows.device)]]
    return _distinct(rows, columns, len(candidates))


def _own_hits(excluded: Ragged, candidates: Tensor) -> Hits:
    """Pairs (query, item) of both sides as single numbers, searched for in sorted order."""
    span = 1 + max(int(part.max()) if part.numel() else 0 for part in (candidates, excluded.values))
    taken = (excluded.rows() * span + excluded.values).sort().values
    asked = torch.arange(len(candidates), device=candidates.device).unsqueeze(1) * span + candidates
    hit = candidates < 0
    if len(taken):
        place = torch.searchsorted(taken, asked).clamp_(max=len(taken) - 1)
        hit |= taken[place] == asked
    cells = hit.nonzero()
    return Hits(cells[:, 0], cells[:, 1])


def _distinct(rows: Tensor, columns: Tensor, width: int) -> Hits:
    """Each cell once, in order: an item may be excluded twice."""
    cells = torch.unique(rows * max(width, 1) + columns)
    return Hits(torch.div(cells, max(width, 1), rounding_mode="floor"), cells % max(width, 1))


def _hashed_match(values: Tensor, candidates: Tensor) -> Tensor:
    """Positions of the values that share their last bits with a candidate: every true match, and few others."""
    table = torch.zeros(HASH_MASK + 1, dtype=torch.bool, device=values.device)
    table.index_fill_(0, candidates & HASH_MASK, True)
    return table.index_select(0, values & HASH_MASK).nonzero().squeeze(1)
