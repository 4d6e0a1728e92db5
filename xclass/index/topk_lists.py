"""The k best of every row of a score matrix that is only ever seen one block of columns at a time."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from xclass.runtime.jit import compiles
from xclass.types import TopK

GROUP = 16
NO_ID = torch.iinfo(torch.int64).max


class RunningTopK:
    """Feed blocks of scores with rising item numbers; ask for the result at the end.

    A block is not sorted. The maxima of groups of columns are compared with each row's cut, the k-th best score so far;
    only groups that hold something better are looked into. After the first blocks hardly any does, so that a block
    costs little more than reading it once. A score of −inf is never taken. Equal scores: the lower item number wins.

    Memory: 12 bytes × rows × about 3k, more only while a row's scores keep rising from block to block.
    """

    def __init__(self, num_rows: int, k: int, device: torch.device) -> None:
        self.k = k
        self._scores = torch.full((num_rows, 3 * k), -torch.inf, device=device)
        self._ids = torch.full((num_rows, 3 * k), NO_ID, dtype=torch.int64, device=device)
        self._counts = torch.zeros(num_rows, dtype=torch.int64, device=device)
        self._cut = torch.full((num_rows, 1), -torch.inf, device=device)
        self._cut_everywhere = False

    def feed(self, scores_BW: Tensor, first_id: int) -> None:
        """Take in the scores of items ``first_id … first_id + W − 1``; every feed has higher numbers than the last."""
        groups_BGV, best_BV = _group_maxima(scores_BW, self.k if not self._cut_everywhere else 0)
        cut = self._cut if self._cut_everywhere else self._first_cut(best_BV)
        rows, columns = (best_BV > cut).nonzero(as_tuple=True)
        if not len(rows):
            return
        candidates = groups_BGV[rows, :, columns]
        which, group = (candidates > cut[rows]).nonzero(as_tuple=True)
        ids = group * best_BV.shape[1] + columns[which] + first_id
        self._append(rows[which], ids, candidates[which, group])

    def result(self) -> TopK:
        """At most k items a row, best first, on the CPU."""
        self._compact()
        order = _best_order(self._scores[:, : self.k], self._ids[:, : self.k])
        scores, ids = self._scores.gather(1, order), self._ids.gather(1, order)
        return TopK.from_padded(ids.cpu(), scores.cpu(), (scores > -torch.inf).cpu())

    def _first_cut(self, best_BV: Tensor) -> Tensor:
        """A cut that surely leaves k candidates of this block: just below the k-th best group maximum."""
        if best_BV.shape[1] < self.k:
            return self._cut
        at_least = best_BV.topk(self.k, dim=1).values[:, -1:]
        return torch.maximum(self._cut, torch.nextafter(at_least, torch.full_like(at_least, -torch.inf)))

    def _append(self, rows: Tensor, ids: Tensor, scores: Tensor) -> None:
        added = torch.bincount(rows, minlength=len(self._counts))
        if int((self._counts + added).max()) > self._scores.shape[1] or not self._cut_everywhere:
            self._compact()
        self._grow(int((self._counts + added).max()))
        starts = torch.cumsum(added, 0) - added
        places = self._counts[rows] + torch.arange(len(rows), device=rows.device) - starts[rows]
        self._scores[rows, places] = scores
        self._ids[rows, places] = ids
        self._counts += added
        if not self._cut_everywhere:
            self._compact()

    def _grow(self, needed: int) -> None:
        missing = needed - self._scores.shape[1]
        if missing > 0:
            self._scores = torch.nn.functional.pad(self._scores, (0, missing), value=-torch.inf)
            self._ids = torch.nn.functional.pad(self._ids, (0, missing), value=NO_ID)

    def _compact(self) -> None:
        """Keep the k best of each row and raise the cuts."""
        used = int(self._counts.max()) if len(self._counts) else 0
        if used <= self.k and (used < self.k or self._cut_everywhere):
            return
        scores, ids = self._scores[:, :used], self._ids[:, :used]
        best, order = scores.topk(self.k, dim=1)
        cut = best[:, -1:]
        tied = (((scores >= cut).sum(1) > self.k) & (cut.squeeze(1) > -torch.inf)).nonzero().squeeze(1)
        if len(tied):
            order[tied] = _best_order(scores[tied], ids[tied])[:, : self.k]
        ids = ids.gather(1, order)
        self._scores[:, : self.k], self._ids[:, : self.k] = best, ids
        self._scores[:, self.k : used], self._ids[:, self.k : used] = -torch.inf, NO_ID
        self._counts.clamp_(max=self.k)
        self._cut = cut.contiguous()
        self._cut_everywhere = bool((cut > -torch.inf).all())


class HeapTopK:
    """As :class:`RunningTopK`, compiled, on the CPU: a heap of k for each row. Memory: 12 bytes × rows × k."""

    def __init__(self, num_rows: int, k: int) -> None:
        self._items, self._scores = np.empty((num_rows, k), np.int64), np.empty((num_rows, k), np.float32)
        self._sizes = np.zeros(num_rows, np.int64)

    def feed(self, scores_BW: Tensor, first_id: int) -> None:
        """Take in the scores of items ``first_id … first_id + W − 1``; every feed has higher numbers than the last."""
        from xclass.index._numba import take_block

        best_BV = _group_maxima(scores_BW, 0)[1]
        take_block(scores_BW.numpy(), best_BV.numpy(), first_id, self._items, self._scores, self._sizes)

    def result(self) -> TopK:
        """At most k items a row, best first. Nothing can be fed after it."""
        from xclass.index._numba import all_best_first

        all_best_first(self._items, self._scores, self._sizes)
        return TopK.from_padded(torch.from_numpy(self._items), torch.from_numpy(self._scores))


def running_topk(num_rows: int, k: int, device: torch.device) -> RunningTopK | HeapTopK:
    """The faster of the two that works here."""
    return HeapTopK(num_rows, k) if device.type == "cpu" and compiles() else RunningTopK(num_rows, k, device)


def best_first(ids_BK: Tensor, scores_BK: Tensor) -> tuple[Tensor, Tensor]:
    """Each row by falling score, equal scores by rising item number."""
    order = _best_order(scores_BK, ids_BK)
    return ids_BK.gather(1, order), scores_BK.gather(1, order)


def _best_order(scores: Tensor, ids: Tensor) -> Tensor:
    by_id = ids.argsort(dim=1)
    by_score = scores.gather(1, by_id).argsort(dim=1, descending=True, stable=True)
    return by_id.gather(1, by_score)


def _group_maxima(scores_BW: Tensor, least_groups: int) -> tuple[Tensor, Tensor]:
    """The scores as (B, G, V), padded with −inf, and the maxima (B, V) over G; V ≥ ``least_groups`` where W allows."""
    width = scores_BW.shape[1]
    group = GROUP
    while group > 1 and width < group * max(least_groups, 1):
        group //= 2
    padding = -width % group
    if padding:
        scores_BW = torch.nn.functional.pad(scores_BW, (0, padding), value=-torch.inf)
    groups_BGV = scores_BW.view(len(scores_BW), group, -1)
    return groups_BGV, groups_BGV.amax(1)
