"""Lists that are put together when they are asked for: of two splits, or some of many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from xclass.types import Ragged, concat_ragged


class Lists(Protocol):
    """Lists by number, of which some can be taken: a Ragged, or what stands for one without a copy."""

    def __len__(self) -> int:
        """Number of lists."""

    def take(self, rows: Tensor) -> Ragged:
        """The lists ``rows`` (int64, any order, repeats allowed)."""


@dataclass(frozen=True, slots=True, eq=False)
class Joined:
    """List by list, ``second``'s values after ``first``'s; neither is read before some lists are asked for."""

    first: Ragged
    second: Ragged

    def __len__(self) -> int:
        """Number of lists."""
        return len(self.first)

    def lengths(self) -> Tensor:
        """int64, length of every list."""
        return self.first.lengths() + self.second.lengths()

    def to_lists(self) -> list[list[int]]:
        """As Python lists, all of them."""
        return [a + b for a, b in zip(self.first.to_lists(), self.second.to_lists(), strict=True)]

    def take(self, rows: Tensor) -> Ragged:
        """The lists ``rows`` (int64, any order, repeats allowed). O(values taken)."""
        return concat_ragged(self.first.take(rows), self.second.take(rows))


@dataclass(frozen=True, slots=True, eq=False)
class Some:
    """Some of many lists: list ``b`` is list ``rows[b]`` of ``source``."""

    source: Lists
    rows: Tensor

    def __len__(self) -> int:
        """Number of lists."""
        return len(self.rows)

    def take(self, rows: Tensor) -> Ragged:
        """The lists ``rows`` of these."""
        return self.source.take(self.rows[rows])
