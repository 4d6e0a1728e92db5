"""The shapes of data that every room shares, and the letters that name their sizes.

Shape letters (suffixes of names and words in docstrings):

    B  queries in a batch          N  items of the catalogue     L  items of a history
    P  positives, flat, all of a   D  embedding dimensions       M  values of a Ragged
       batch together              K  negatives                  k  the cut-off of a top-k

Everything here holds torch tensors. Ids are int64 item numbers (0 … N-1), never external ids.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from xclass.errors import InputError


@dataclass(frozen=True, slots=True, eq=False)
class Ragged:
    """A batch of lists without padding: list ``b`` is ``values[offsets[b]:offsets[b + 1]]``.

    Args:
        offsets: int64 (B+1,), starts at 0, never falls, ends at M.
        values: (M,), any dtype; item numbers as a rule.
        weights: (M,) floating, or None for weight 1 everywhere.

    The tensors may be memory-mapped: :meth:`take` and :meth:`slice` read only the lists asked for.
    """

    offsets: Tensor
    values: Tensor
    weights: Tensor | None = None

    def __post_init__(self) -> None:
        if not all(isinstance(part, Tensor) for part in (self.offsets, self.values, self.weights) if part is not None):
            got = ", ".join(type(part).__name__ for part in (self.offsets, self.values, self.weights))
            raise InputError("Ragged takes tensors", wanted="offsets, values and weights of torch", got=got)
        if self.values.dim() != 1:
            raise InputError("Ragged values are no vector", wanted="(M,)", got=f"shape {tuple(self.values.shape)}")
        check_offsets(self.offsets, len(self.values), "Ragged")
        if self.weights is not None and self.weights.shape != self.values.shape:
            raise InputError(
                what="Ragged weights and values differ in shape",
                wanted=f"{tuple(self.values.shape)}",
                got=f"{tuple(self.weights.shape)}",
            )

    @classmethod
    def checked(cls, offsets: Tensor, values: Tensor, weights: Tensor | None = None) -> Ragged:
        """From tensors that have been checked, as when they were read from a dataset: nothing is looked at here."""
        made = object.__new__(cls)
        for name, tensor in (("offsets", offsets), ("values", values), ("weights", weights)):
            object.__setattr__(made, name, tensor)
        return made

    @classmethod
    def from_lists(cls, lists: Sequence[Sequence[int]], weights: Sequence[Sequence[float]] | None = None) -> Ragged:
        """Build from Python lists; InputError where a value is no integer, or weights are others than the values.

        >>> Ragged.from_lists([[7, 8], [], [9]]).offsets.tolist()
        [0, 2, 2, 3]
        """
        lengths = [len(row) for row in lists]
        try:
            values = torch.tensor([operator.index(value) for row in lists for value in row], dtype=torch.int64)
        except (TypeError, ValueError) as error:
            raise InputError("values of lists are no integers of 64 bits", got=str(error)) from None
        offsets = offsets_of(torch.tensor(lengths, dtype=torch.int64))
        if weights is None:
            return cls(offsets, values)
        if [len(row) for row in weights] != lengths:
            raise InputError("lists and their weights differ in length", wanted="a weight for each value")
        return cls(offsets, values, torch.tensor([w for row in weights for w in row], dtype=torch.float32))

    def __len__(self) -> int:
        """Number of lists, B."""
        return len(self.offsets) - 1

    def lengths(self) -> Tensor:
        """(B,) int64, length of every list."""
        return self.offsets[1:] - self.offsets[:-1]

    def rows(self) -> Tensor:
        """(M,) int64, the list that each value belongs to."""
        return _repeated(torch.arange(len(self), device=self.offsets.device), self.lengths(), len(self.values))

    def take(self, rows: Tensor) -> Ragged:
        """The lists ``rows`` (int64, any order, repeats allowed) as a new Ragged. O(values taken)."""
        if len(rows) and int(rows.min()) < 0:
            raise InputError("there is no list of this number", wanted=f"0 … {len(self) - 1}", got=int(rows.min()))
        starts, lengths = self.offsets[rows], self.offsets[rows + 1] - self.offsets[rows]
        offsets = offsets_of(lengths)
        positions = torch.arange(int(offsets[-1]), device=offsets.device)
        positions += _repeated(starts - offsets[:-1], lengths, len(positions))
        weights = None if self.weights is None else self.weights[positions]
        return Ragged.checked(offsets, self.values[positions], weights)

    def slice(self, start: int, stop: int) -> Ragged:
        """The lists ``start … stop-1``; values are a view."""
        offsets = self.offsets[start : stop + 1]
        low, high = int(offsets[0]), int(offsets[-1])
        weights = None if self.weights is None else self.weights[low:high]
        return Ragged.checked(offsets - low, self.values[low:high], weights)

    def filter(self, keep: Tensor) -> Ragged:
        """Only the values where ``keep`` (bool (M,)) is true; every list stays, maybe shorter."""
        counts = torch.bincount(self.rows()[keep], minlength=len(self))
        weights = None if self.weights is None else self.weights[keep]
        return Ragged(offsets_of(counts), self.values[keep], weights)

    def long(self) -> Ragged:
        """The same lists with int64 values (on disk they may be int32)."""
        return self if self.values.dtype == torch.int64 else self.with_values(self.values.long(), self.weights)

    def to(self, device: torch.device | str) -> Ragged:
        """The same lists on another device."""
        weights = None if self.weights is None else self.weights.to(device)
        return Ragged.checked(self.offsets.to(device), self.values.to(device), weights)

    def with_values(self, values: Tensor, weights: Tensor | None = None) -> Ragged:
        """Lists of the same lengths with other values, one for each of these; nothing is copied."""
        if values.shape != self.values.shape or (weights is not None and weights.shape != values.shape):
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in (values, weights) if tensor is not None)
            raise InputError("these lists have another number of values", wanted=tuple(self.values.shape), got=shapes)
        return Ragged.checked(self.offsets, values, weights)

    def to_lists(self) -> list[list[int]]:
        """As Python lists, without the weights."""
        bounds, values = self.offsets.tolist(), self.values.tolist()
        return [values[low:high] for low, high in zip(bounds[:-1], bounds[1:], strict=True)]


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """Some lists of a Ragged, not copied: list ``b`` is list ``rows[b]`` of ``source``.

    Args:
        source: Ragged, maybe memory-mapped.
        rows: int64 (B,), repeats allowed.
    """

    source: Ragged
    rows: Tensor

    def __len__(self) -> int:
        """Number of lists, B."""
        return len(self.rows)

    def take(self, rows: Tensor) -> Selection:
        """The lists ``rows`` of these."""
        return Selection(self.source, self.rows[rows])

    def slice(self, start: int, stop: int) -> Selection:
        """The lists ``start … stop-1``."""
        return Selection(self.source, self.rows[start:stop])

    def ragged(self) -> Ragged:
        """A copy with int64 values. O(values taken)."""
        return self.source.take(self.rows).long()


def offsets_of(lengths: Tensor) -> Tensor:
    """int64 (B+1,) running totals of (B,) lengths, starting at 0.

    >>> offsets_of(torch.tensor([2, 0, 1])).tolist()
    [0, 2, 2, 3]
    """
    offsets = torch.zeros(len(lengths) + 1, dtype=torch.int64, device=lengths.device)
    torch.cumsum(lengths, 0, out=offsets[1:])
    return offsets


def _repeated(numbers: Tensor, times: Tensor, size: int) -> Tensor:
    """Each number so many times, together ``size``. The size is told where that saves waiting for a device: on a CPU it
    would only make offsets that were altered since they were checked write outside of the result."""
    return torch.repeat_interleave(numbers, times, output_size=size if numbers.is_cuda else None)


def check_offsets(offsets: Tensor, size: int, what: str) -> None:
    """InputError unless ``offsets`` are int64 (B+1,), start at 0, never fall and end at ``size``. O(B).

    Compiled loops and ``repeat_interleave(output_size=…)`` write where offsets say, without looking.
    """
    if offsets.dtype != torch.int64 or offsets.dim() != 1 or len(offsets) == 0:
        raise InputError(
            what=f"{what} offsets are of the wrong kind",
            wanted="an int64 vector of B+1 entries",
            got=f"{offsets.dtype} of shape {tuple(offsets.shape)}",
        )
    numbers = offsets.cpu().numpy()
    if numbers[0] != 0 or numbers[-1] != size:
        raise InputError(
            what=f"{what} offsets do not span the values",
            wanted=f"offsets from 0 to {size}",
            got=f"offsets from {numbers[0]} to {numbers[-1]}",
        )
    if (numbers[1:] < numbers[:-1]).any():
        raise InputError(what=f"{what} offsets fall", wanted="offsets that never fall")


def concat_ragged(first: Ragged, second: Ragged) -> Ragged:
    """List by list, ``second``'s values after ``first``'s. Weights are dropped.

    >>> concat_ragged(Ragged.from_lists([[1], [2]]), Ragged.from_lists([[3], []])).to_lists()
    [[1, 3], [2]]
    """
    if len(first) != len(second):
        raise InputError(
            what="two Ragged of different length can't be joined list by list",
            wanted=f"{len(first)} lists",
            got=f"{len(second)} lists",
        )
    order = torch.argsort(torch.cat([first.rows(), second.rows()]), stable=True)
    return Ragged(first.offsets + second.offsets, torch.cat([first.values, second.values])[order])


class Rows(NamedTuple):
    """The pulled rows of one table with the plan that asked for them.

    values: (U, D); a leaf with gradient while training.
    """

    values: Tensor
    positions: dict[str, Tensor]

    def of(self, request: str) -> Tensor:
        """(len(request), D): the rows of one request, in its order."""
        return self.values.index_select(0, self.positions[request])


class Negatives(NamedTuple):
    """What a sampler returns: candidates with the log of their expected count in the sample.

    ids: int64 (K,) shared by the batch, or (B, K) per query.
    log_q: float32, the shape of ids: log of the expected count of that id in this sample.
    pos_log_q: float32 (P,): the same for each positive, as if it could be drawn.
    """

    ids: Tensor
    log_q: Tensor
    pos_log_q: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class TopK:
    """The best items of each query, best first: at most k per query, never a padded or repeated id.

    Query ``b`` has ``ids[offsets[b]:offsets[b+1]]`` (int64) with ``scores`` (float32, falling).
    """

    offsets: Tensor
    ids: Tensor
    scores: Tensor

    def __post_init__(self) -> None:
        check_offsets(self.offsets, len(self.ids), "TopK")
        if self.ids.dim() != 1 or self.ids.shape != self.scores.shape:
            shapes = f"ids {tuple(self.ids.shape)}, scores {tuple(self.scores.shape)}"
            raise InputError("TopK ids and scores differ in shape", wanted="(M,) each", got=shapes)

    @classmethod
    def from_padded(cls, ids_BK: Tensor, scores_BK: Tensor, keep_BK: Tensor | None = None) -> TopK:
        """From a rectangle; cells with id < 0 or ``keep_BK`` false are left out."""
        keep = ids_BK >= 0 if keep_BK is None else keep_BK & (ids_BK >= 0)
        return cls(offsets_of(keep.sum(1)), ids_BK[keep], scores_BK[keep])

    def __len__(self) -> int:
        """Number of queries."""
        return len(self.offsets) - 1

    def lengths(self) -> Tensor:
        """(B,) int64, how many items each query got."""
        return self.offsets[1:] - self.offsets[:-1]

    def rows(self) -> Tensor:
        """int64, the query that each id belongs to."""
        return _repeated(torch.arange(len(self)), self.lengths(), len(self.ids))

    def ranks(self) -> Tensor:
        """int64, 1 for the best item of its query."""
        return torch.arange(len(self.ids)) - self.offsets[self.rows()] + 1

    def head(self, k: int) -> TopK:
        """Only the first k of each query."""
        keep = self.ranks() <= k
        return TopK(offsets_of(self.lengths().clamp(max=k)), self.ids[keep], self.scores[keep])

    @classmethod
    def concat(cls, parts: Sequence[TopK]) -> TopK:
        """The queries of several parts, in order."""
        lengths = torch.cat([part.lengths() for part in parts])
        return cls(offsets_of(lengths), torch.cat([p.ids for p in parts]), torch.cat([p.scores for p in parts]))


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """One batch of training or of inference.

    query_ids: int64 (B,) query numbers; -1 for a query the model has never seen.
    history: Ragged (B), what the query tower may look at (in training: known less the targets; empty lists for a tower
        that looks at none).
    positives: Ragged (B), the targets of this batch with optional weights; None at inference.
    known: every training positive of each query, never used as a negative; None at inference.
    weights: (B,) floating, weight of each query's loss in the batch's mean; None for 1.
    features: name → Ragged (B), sparse features of the queries: feature numbers with float32 weights; empty when the
        model reads none.
    """

    query_ids: Tensor
    history: Ragged
    positives: Ragged | None = None
    known: Ragged | Selection | None = None
    weights: Tensor | None = None
    features: dict[str, Ragged] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of queries, B."""
        return len(self.query_ids)

    def slice(self, start: int, stop: int) -> Batch:
        """The queries ``start … stop-1``; what they share with the whole batch are views."""
        known, features = self.known, {name: lists.slice(start, stop) for name, lists in self.features.items()}
        return Batch(
            self.query_ids[start:stop],
            self.history.slice(start, stop),
            None if self.positives is None else self.positives.slice(start, stop),
            None if known is None else known.slice(start, stop),
            None if self.weights is None else self.weights[start:stop],
            features,
        )

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device, without ``known``: what is known is masked before vectors are read."""
        positives = None if self.positives is None else self.positives.to(device)
        weights = None if self.weights is None else self.weights.to(device)
        features = {name: lists.to(device) for name, lists in self.features.items()}
        return Batch(self.query_ids.to(device), self.history.to(device), positives, None, weights, features)
