"""Hash families: a vector's code in each table, and its neighbours by how little speaks against them.

A code is a row of digits. A digit has alternatives with a cost: how much the vector would have to change for it. The
cheapest sums over digits are the codes to look into next (query-directed probing, Lv et al. 2007, section 4.4).
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from xclass.errors import ConfigError
from xclass.runtime.rng import torch_generator

FORM = re.compile(r"(LSH|WTA)(\d+)x(\d+)(?:of(\d+))?")
MOST_BITS = 24
ALTERNATIVES = 4
ITEMS_PER_BUCKET = 64
WINDOW = 4


@dataclass(frozen=True, slots=True)
class Digits:
    """What a batch of vectors has in every table: L tables, m digits each, at most A values worth a look.

    values: int64 (B, L, m, A), the digit itself first, then its alternatives, cheapest first.
    costs: float32 (B, L, m, A), not falling along A, 0 first.
    """

    values: Tensor
    costs: Tensor


class HashFamily(ABC):
    """L tables of codes with m digits of ``base`` values.

    A code is a number below ``codes`` = base^m: its digits in that base, the first one the most significant.
    """

    name: str

    def __init__(self, dim: int, tables: int, digits: int, base: int) -> None:
        self.dim, self.tables, self.digits, self.base = dim, tables, digits, base

    @property
    def codes(self) -> int:
        """Different codes of a table."""
        return self.base**self.digits

    @abstractmethod
    def digits_of(self, rows_BD: Tensor, alternatives: int) -> Digits:
        """The digits of these vectors, with at most so many values each, the digit itself counted."""

    def codes_of(self, rows_BD: Tensor) -> Tensor:
        """int64 (B, L): the code of each vector in each table."""
        return self.number(self.digits_of(rows_BD, 1).values[..., 0])

    def number(self, values: Tensor) -> Tensor:
        """int64 (…): digits (…, m) as one number."""
        code = values[..., 0].clone()
        for place in range(1, values.shape[-1]):
            code.mul_(self.base).add_(values[..., place])
        return code

    @abstractmethod
    def __str__(self) -> str:
        """The form that :func:`parse_family` reads."""


class RandomHyperplanes(HashFamily):
    """A digit says on which side of a random hyperplane the vector lies (Charikar 2002).

    Two vectors at the angle θ agree in a digit with probability 1 − θ/π. The cost of the other side is the square of
    the distance from the plane. The planes of a table are orthogonal to each other, which evens out how many
    agree (Ji et al. 2012, "Super-bit locality-sensitive hashing").
    """

    name = "LSH"

    def __init__(self, dim: int, tables: int, digits: int, seed: int = 0) -> None:
        super().__init__(dim, tables, digits, 2)
        generator = torch_generator(seed, "hash hyperplanes", dim, tables, digits)
        normal = torch.randn(tables, digits, dim, generator=generator)
        parts = [torch.linalg.qr(part.mT)[0].mT for part in normal.split(dim, dim=1)]
        self._planes = torch.cat(parts, 1).reshape(tables * digits, dim).contiguous()

    def digits_of(self, rows_BD: Tensor, alternatives: int) -> Digits:
        """As :meth:`HashFamily.digits_of`; a vector on a plane lies on its upper side."""
        sides = (rows_BD @ self._planes.T).view(len(rows_BD), self.tables, self.digits, 1)
        upper = (sides >= 0).long()
        if alternatives == 1:
            return Digits(upper, torch.zeros_like(sides))
        costs = torch.cat([torch.zeros_like(sides), sides.square()], -1)
        return Digits(torch.cat([upper, 1 - upper], -1), costs)

    def __str__(self) -> str:
        return f"LSH{self.tables}x{self.digits}"


class WinnerTakeAll(HashFamily):
    """A digit says which of K coordinates, chosen at random, is the largest (Yagnik et al. 2011, algorithm 1).

    It depends on the order of the coordinates only, and not on their sizes. Dean et al. 2013 and Vijayanarasimhan et
    al. 2015 ("Deep networks with large output spaces") look up classes by such codes. The cost of another
    coordinate is the square of what it lacks to the largest.
    """

    name = "WTA"

    def __init__(self, dim: int, tables: int, digits: int, window: int, seed: int = 0) -> None:
        super().__init__(dim, tables, digits, window)
        generator = torch_generator(seed, "hash permutations", dim, tables, digits)
        order = torch.rand(tables * digits, dim, generator=generator).argsort(1)
        self._columns = order[:, torch.arange(window) % dim].contiguous()

    def digits_of(self, rows_BD: Tensor, alternatives: int) -> Digits:
        """As :meth:`HashFamily.digits_of`; of equal coordinates the first of the window wins."""
        shape = (len(rows_BD), self.tables, self.digits, self.base)
        window = rows_BD[:, self._columns.flatten()].view(shape)
        if alternatives == 1:
            winner = window.argmax(-1, keepdim=True)
            return Digits(winner, torch.zeros(winner.shape))
        best, values = window.sort(dim=-1, descending=True, stable=True)
        best, values = best[..., :alternatives], values[..., :alternatives]
        return Digits(values, (best[..., :1] - best).square())

    def __str__(self) -> str:
        return f"WTA{self.tables}x{self.digits}of{self.base}"


def default_family(kind: str, num_items: int, dim: int) -> str:
    """The first of :func:`family_builds`.

    >>> default_family("lsh", 1_000_000, 64), default_family("wta", 1_000_000, 64)
    ('LSH32x14', 'WTA32x7of4')
    """
    return family_builds(kind, num_items, dim)[0]


def family_builds(kind: str, num_items: int, dim: int) -> list[str]:
    """The forms worth trying: codes enough that about 64 items share one; many tables, then half as many."""
    bits = min(max(round(math.log2(max(num_items / ITEMS_PER_BUCKET, 2))), 1), MOST_BITS)
    if kind == "lsh":
        return [f"LSH{tables}x{bits}" for tables in (32, 16)]
    return [f"WTA{tables}x{max(bits // 2, 1)}of{WINDOW}" for tables in (32, 16)]


def parse_family(text: str, dim: int) -> HashFamily:
    """The family that a form names: ``LSH{tables}x{bits}`` or ``WTA{tables}x{digits}of{window}``.

    Raises:
        ConfigError: another form, no table or digit, more than 2^24 codes, a window of one coordinate.
    """
    found = FORM.fullmatch(text)
    windowed = found is not None and found[1] == "WTA"
    if found is None or (found[4] is not None) != windowed:
        raise ConfigError("this is no hash family", wanted="LSH16x12 (tables x bits) or WTA16x3of16", got=text)
    tables, digits, base = int(found[2]), int(found[3]), int(found[4] or 2)
    if min(tables, digits) < 1 or base < 2 or digits * math.log2(base) > MOST_BITS:
        wanted = f"1 table, 1 digit, windows of 2 or more, at most 2^{MOST_BITS} codes a table"
        raise ConfigError("this hash family has an impossible size", wanted=wanted, got=text)
    return WinnerTakeAll(dim, tables, digits, base) if windowed else RandomHyperplanes(dim, tables, digits)
