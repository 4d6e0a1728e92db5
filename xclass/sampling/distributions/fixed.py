"""Distributions over items, one independent draw at a time."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from xclass.errors import InputError
from xclass.runtime.jit import compiles
from xclass.sampling.interface import check_size

EXACT_BINS = 1 << 12
NODES = 12  # of the quadrature, an octave
KEY_SHIFT = 44  # of the 52 bits of a float64's mantissa: 8 are kept
BLOCK = 1 << 22


class Bins(NamedTuple):
    """A distribution in short: ``number`` items share each ``probability``; float64 (bins,)."""

    probability: Tensor
    number: Tensor


class Law(Protocol):
    """A distribution over items 0 … N−1."""

    num_items: int

    @property
    def num_drawable(self) -> int:
        """How many items have a positive probability."""
        ...

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """int64 (count,): independent draws."""
        ...

    def probability(self, ids: Tensor) -> Tensor:
        """float64, the shape of ``ids``; sums to 1 over the items."""
        ...

    def bins(self) -> Bins:
        """The distribution in few enough bins to sum over often; sums over them right to 1e-5 at worst."""
        ...


class UniformLaw:
    """P(c) = 1/N."""

    def __init__(self, num_items: int) -> None:
        self.num_items = self.num_drawable = check_size("num_items", num_items)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """int64 (count,)."""
        return torch.randint(self.num_items, (count,), generator=generator)

    def probability(self, ids: Tensor) -> Tensor:
        """1/N."""
        return torch.full(ids.shape, 1.0 / self.num_items, dtype=torch.float64)

    def bins(self) -> Bins:
        """One."""
        return Bins(*torch.tensor([1.0 / self.num_items, self.num_items], dtype=torch.float64).split(1))


class LogUniformLaw:
    """P(c) = log((c+2)/(c+1)) / log(N+1), through log1p(1/(c+1)), which keeps its precision for any c."""

    def __init__(self, num_items: int) -> None:
        self.num_items = self.num_drawable = check_size("num_items", num_items)
        self._log_range = math.log1p(num_items)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """int64 (count,): floor(exp(u · log(N+1))) − 1 for uniform u."""
        u = torch.rand(count, generator=generator, dtype=torch.float64)
        return (u.mul_(self._log_range).exp_().long() - 1).clamp_(0, self.num_items - 1)

    def probability(self, ids: Tensor) -> Tensor:
        """log1p(1/(c+1)) / log(N+1)."""
        return torch.log1p((ids.double() + 1).reciprocal_()).div_(self._log_range)

    def bins(self) -> Bins:
        """The first items one by one, then an integral over the others: cost and size grow with log N only.

        By Euler and Maclaurin Σ f = ∫ f − [f′]/24 over the range half an item wider; at its lower end the difference of
        two neighbours stands for f′, at its upper end it is next to nothing.
        """
        if self.num_items <= 2 * EXACT_BINS:
            return Bins(self.probability(torch.arange(self.num_items)), torch.ones(self.num_items, dtype=torch.float64))
        nodes, weights = _octave_quadrature(EXACT_BINS - 0.5, self.num_items - 0.5)
        ids = torch.cat([torch.arange(EXACT_BINS), torch.tensor([EXACT_BINS, EXACT_BINS - 1]), nodes])
        ends = torch.tensor([1 / 24, -1 / 24], dtype=torch.float64)
        return Bins(self.probability(ids), torch.cat([torch.ones(EXACT_BINS, dtype=torch.float64), ends, weights]))


class WeightedLaw:
    """P(c) = w_c / Σ w, drawn through an alias table in O(1) (Walker 1977).

    Column c of the table holds c with the probability ``share`` and another item otherwise, so that N equal columns add
    up to the weights. It is built in one sweep over light and heavy items; prefix sums tell where the sweep stands, so
    the sweep needs no loop.

    Args:
        weights: float64 (N,), finite, ≥ 0, not all 0. Kept.

    Memory 16 bytes an item; totals are float64. Share and other item lie side by side, so that a draw reads one place.
    """

    def __init__(self, weights: Tensor) -> None:
        self.num_items, self._weights = len(weights), weights
        self.num_drawable = int(torch.count_nonzero(weights))
        self._total = float(weights.sum())
        if not 0 < self._total < math.inf:
            raise InputError(
                "weights can't be sampled from",
                wanted="a positive finite total",
                got=self._total,
                do="give at least one item a positive weight",
            )
        self._table = packed_table(weights, self._total)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """int64 (count,): a column, then one of its two items."""
        column = torch.randint(self.num_items, (count,), generator=generator)
        u = torch.rand(count, generator=generator, dtype=torch.float64)
        if compiles():
            _kernels().pick(column.numpy(), u.numpy(), self._table.numpy())
            return column
        share, other = unpacked(self._table.index_select(0, column))
        return torch.where(u < share, column, other)

    def probability(self, ids: Tensor) -> Tensor:
        """w_c / Σ w."""
        return gathered(self._weights, ids).double().div_(self._total)

    def bins(self) -> Bins:
        """By exponent and first 8 bits of the weights; each bin twice, so that it has its weights' mean and variance.

        A sum over the items is right to 1e-8. O(N), in blocks.
        """
        low, high = self._key_range()
        sums = torch.zeros(3, high - low + 1, dtype=torch.float64)
        for block in self._weights.split(BLOCK):
            positive = block[block > 0]
            key = (positive.view(torch.int64) >> KEY_SHIFT) - low
            scaled = positive / self._total
            sums[0] += torch.bincount(key, minlength=high - low + 1)
            sums[1] += torch.bincount(key, scaled, minlength=high - low + 1)
            sums[2] += torch.bincount(key, scaled.square_(), minlength=high - low + 1)
        number, mass, squares = sums[:, sums[0] > 0]
        mean = mass / number
        spread = (squares / number - mean**2).clamp_(min=0).sqrt_()
        return Bins(torch.cat([mean - spread, mean + spread]), torch.cat([number, number]) / 2)

    def _key_range(self) -> tuple[int, int]:
        smallest, largest = math.inf, 0.0
        for block in self._weights.split(BLOCK):
            positive = block[block > 0]
            if len(positive):
                low, high = positive.aminmax()
                smallest, largest = min(smallest, float(low)), max(largest, float(high))
        low, high = torch.tensor([smallest, largest], dtype=torch.float64).view(torch.int64).tolist()
        return low >> KEY_SHIFT, high >> KEY_SHIFT


def _octave_quadrature(low: float, high: float) -> tuple[Tensor, Tensor]:
    """Nodes and weights of ∫ over [low, high], Gauss and Legendre's in log x, octave by octave; float64."""
    edges = np.linspace(math.log(low), math.log(high), math.ceil(math.log2(high / low)) + 1)
    unit, weights = np.polynomial.legendre.leggauss(NODES)
    half = np.diff(edges)[:, None] / 2
    nodes = np.exp(edges[:-1, None] + half * (1 + unit))
    return torch.from_numpy(nodes.ravel()), torch.from_numpy((nodes * half * weights).ravel())


def gathered(values: Tensor, ids: Tensor) -> Tensor:
    """``values[ids]``, several times faster where the values are far apart."""
    return values.index_select(0, ids.reshape(-1)).view(ids.shape)


class ShardLaw:
    """A law over the items of a shard, by their numbers in the whole catalogue: local item i is i · stride + first."""

    def __init__(self, local: Law, stride: int, first: int, num_items: int) -> None:
        self._local, self._stride, self._first, self.num_items = local, stride, first, num_items

    @property
    def num_drawable(self) -> int:
        """Of the shard."""
        return self._local.num_drawable

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """int64 (count,)."""
        return self._local.draw(count, generator).mul_(self._stride).add_(self._first)

    def probability(self, ids: Tensor) -> Tensor:
        """0 for items of other shards."""
        local = torch.div(ids - self._first, self._stride, rounding_mode="floor").clamp_(0, self._local.num_items - 1)
        return self._local.probability(local).masked_fill_(ids % self._stride != self._first, 0.0)

    def bins(self) -> Bins:
        """Of the shard."""
        return self._local.bins()


def alias_table(weights: Tensor, total: float) -> tuple[Tensor, Tensor]:
    """(share, other) of each column: float32 (N,) and int64 (N,).

    Scale the weights to mean 1. Light items (below 1) lack 1 − w, heavy ones have w − 1 to give. A sweep lets heavy
    item 0 fill light items until less than its own column is left, heavy item 1 fill up that column and go on, …. With
    the prefix sums L of what is lacking and H of what is given: light i is filled by the first heavy j with H_j > L_i
    (L before i), and heavy j is left with 1 + H_j − L at the first L ≥ H_j; the rest of its column is the next heavy's.
    """
    scaled = weights.double() * (len(weights) / total)
    is_heavy = scaled > 1
    heavy, light = is_heavy.nonzero().squeeze(1), (~is_heavy).nonzero().squeeze(1)
    share = scaled.clamp(max=1.0)
    other = torch.arange(len(weights))
    if len(heavy) == 0 or len(light) == 0:
        return torch.ones(len(weights)), other
    lacking = torch.cumsum(1 - scaled[light], 0)
    given = torch.cumsum(scaled[heavy] - 1, 0)
    before = torch.cat([lacking.new_zeros(1), lacking[:-1]])
    filler = torch.searchsorted(given, before, right=True).clamp_(max=len(given) - 1)
    reached = torch.searchsorted(lacking, given).clamp_(max=len(lacking) - 1)
    other[light] = heavy[filler]
    left = (1 + given - lacking[reached]).clamp_(0, 1)
    left[-1] = 1.0
    share[heavy] = left
    other[heavy[:-1]] = heavy[1:]
    return share.float(), other


def packed_table(weights: Tensor, total: float) -> Tensor:
    """int64 (N,): the alias table in the form that is drawn from; in one walk and without temporaries if compiled."""
    if not compiles():
        return packed(*alias_table(weights, total))
    table = torch.empty(len(weights), dtype=torch.int64)
    _kernels().alias_table(weights.numpy(), len(weights) / total, table.numpy())
    return table


@functools.cache
def _kernels() -> Any:
    from xclass.sampling import _numba

    return _numba


def packed(share: Tensor, other: Tensor) -> Tensor:
    """int64: the bits of the share above, the item below."""
    return (share.view(torch.int32).long() << 32) | other


def unpacked(cells: Tensor) -> tuple[Tensor, Tensor]:
    """(share float32, other int64) of :func:`packed`."""
    return (cells >> 32).int().view(torch.float32), cells & 0xFFFFFFFF
