"""How rows start: normal numbers that depend on (seed, row, dimension) only.

A number is one of the 65,536 quantiles of the normal law, chosen by a hash. So rows can be drawn by any thread, on any
device and from any row on, a row does not depend on how many there are, and a number costs a nanosecond, where a
generator's takes five. Nothing is beyond 4.33 standard deviations.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from xclass.embeddings import _dispatch
from xclass.embeddings.hashing import Keys, cell_bits, keys_of, mixed, row_bits
from xclass.embeddings.row_ops import Stored
from xclass.embeddings.storage import BLOCK_ROWS, blocks

VALUES = 1 << 16


def write_normal(weight: Tensor, std: float, seed: int, first: int = 0) -> None:
    """Rows from ``first`` on become N(0, std²), rounded to nearest. Never more than a block beside the table."""
    values = (_quantiles() * std).to(weight.device, weight.dtype)
    _write(weight[first:], values, first, (keys_of(seed, "rows", 0), keys_of(seed, "rows", 1)))


def write_normal_part(weight: Tensor, std: float, seed: int, parts: int, part: int) -> None:
    """Row j becomes what :func:`write_normal` gives row ``part + j·parts`` of a table of all parts.

    Cost of all parts' rows: what lies between is drawn and let go, which is faster than drawing row by row.
    """
    values = (_quantiles() * std).to(weight.device, weight.dtype)
    keys, step = (keys_of(seed, "rows", 0), keys_of(seed, "rows", 1)), max(BLOCK_ROWS // parts, 1)
    if parts == 1:
        _write(weight, values, part, keys)
        return
    drawn = weight.new_empty(step * parts, weight.shape[1])
    for start in range(0, len(weight), step):
        target = weight[start : start + step]
        _write(drawn[: len(target) * parts], values, part + start * parts, keys)
        target.copy_(drawn[: len(target) * parts : parts])


def _write(weight: Tensor, values: Tensor, first: int, keys: tuple[Keys, Keys]) -> None:
    """The rows of ``weight`` become rows ``first``, ``first`` + 1, …"""
    if _dispatch.fits(Stored(weight, {}, None), None):
        _dispatch.draw(weight, first, values, keys)
        return
    for start, stop in blocks(len(weight), BLOCK_ROWS):
        weight[start:stop].copy_(values[draw(first + start, first + stop, weight, keys)])


def draw(start: int, stop: int, weight: Tensor, keys: tuple[Keys, Keys]) -> Tensor:
    """(rows, D) places in the quantiles for the rows start … stop−1."""
    ids, dim = torch.arange(start, stop, device=weight.device), weight.shape[1]
    one, two = (row_bits(ids, each) for each in keys)
    pairs = mixed(cell_bits(one, -(-dim // 2)) ^ two.unsqueeze(1))
    return torch.stack([pairs & (VALUES - 1), pairs >> 16], 2).flatten(1)[:, :dim]


@functools.cache
def _quantiles() -> Tensor:
    """float64 (65,536,): the normal law's at the middle of equal shares, brought to variance 1."""
    places = (torch.arange(VALUES, dtype=torch.float64) + 0.5) / VALUES
    quantiles = torch.special.ndtri(places)
    return quantiles / quantiles.square().mean().sqrt()
