"""Sampling by fixed weights: item frequencies raised to a power."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from xclass.errors import DataError, InputError
from xclass.sampling.distributions.fixed import BLOCK, Law, ShardLaw, WeightedLaw
from xclass.sampling.independent import Counts, Drawn


class FixedUnigram(Drawn):
    """Item c with probability w_c^power / Σ w^power (power .75 is word2vec's).

    Args:
        weights: one for each item: a tensor, a list, or a text file whose lines end in a comma-separated weight
            (empty lines do not count). Finite, ≥ 0.
        num_sampled: K.
        power: 1 keeps the weights, 0 makes all positive weights equal.
        smoothing: added to every weight before the power. With 0, an item of weight 0 is never drawn.
        replacement, counts, per_query: as in :class:`xclass.sampling.Drawn`.
        num_reserved_ids: ids 0 … R−1 have no weight and are never drawn; the first weight is that of id R.
        num_shards, shard: keep the ids with id % num_shards == shard.
        local_ids: item numbers count within the shard, id // num_shards; false: they stay those of the catalogue, and
            items of other shards are never drawn.

    O(1) a draw, through an alias table; see :class:`xclass.sampling.distributions.fixed.WeightedLaw` for the memory.
    """

    def __init__(
        self,
        weights: Tensor | Sequence[float] | str | Path,
        num_sampled: int,
        power: float = 1.0,
        smoothing: float = 0.0,
        replacement: bool = True,
        counts: Counts = "calibrated",
        *,
        num_reserved_ids: int = 0,
        num_shards: int = 1,
        shard: int = 0,
        local_ids: bool = True,
        per_query: bool = False,
    ) -> None:
        given = read_weights(weights) if isinstance(weights, (str, Path)) else _checked(torch.as_tensor(weights))
        if not (math.isfinite(power) and math.isfinite(smoothing) and smoothing >= 0):
            raise InputError("power or smoothing is invalid", wanted="finite, smoothing ≥ 0", got=(power, smoothing))
        kept = _cut(_powered(given, power, smoothing), num_reserved_ids, num_shards, shard)
        law: Law = WeightedLaw(kept)
        if num_shards > 1 and not local_ids:
            law = ShardLaw(law, num_shards, shard, num_reserved_ids + len(given))
        super().__init__(law, num_sampled, replacement, counts, per_query)


def read_weights(path: str | Path) -> Tensor:
    """float64: the last comma-separated field of every line that is not empty.

    Raises:
        DataError: the file can't be read, or a line has no number; the line is named.
    """
    weights = []
    try:
        with open(path, encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    weights.append(_weight(line.rsplit(",", 1)[-1].strip(), path, number))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError("this file of weights can't be read", where=path, got=str(error)) from None
    return _checked(torch.tensor(weights, dtype=torch.float64))


def _weight(field: str, path: str | Path, number: int) -> float:
    try:
        return float(field)
    except ValueError:
        raise DataError(
            "this line has no weight",
            where=f"{path}:{number}",
            wanted="a number in the last comma-separated field",
            got=repr(field),
        ) from None


def _powered(weights: Tensor, power: float, smoothing: float) -> Tensor:
    """float64 (N,), a new tensor: (w + smoothing)^power, but 0 where w + smoothing is 0. In blocks."""
    out = torch.empty(len(weights), dtype=torch.float64)
    for target, block in zip(out.split(BLOCK), weights.split(BLOCK), strict=True):
        target.copy_(block).add_(smoothing)
        if power != 1:
            nothing = target == 0
            target.pow_(power).masked_fill_(nothing, 0.0)
    return out


def _cut(weights: Tensor, num_reserved_ids: int, num_shards: int, shard: int) -> Tensor:
    """Weights of the ids of a shard; entry i of ``weights`` is that of id R + i."""
    if not isinstance(num_reserved_ids, int) or num_reserved_ids < 0:
        raise InputError("num_reserved_ids is out of range", wanted="an integer ≥ 0", got=repr(num_reserved_ids))
    if num_shards < 1 or not 0 <= shard < num_shards:
        raise InputError(
            "there is no such shard", wanted="0 ≤ shard < num_shards, num_shards ≥ 1", got=f"{shard} of {num_shards}"
        )
    if num_reserved_ids:
        weights = torch.cat([weights.new_zeros(num_reserved_ids), weights])
    return weights[shard::num_shards].contiguous() if num_shards > 1 else weights


def _checked(weights: Tensor) -> Tensor:
    if weights.dim() != 1 or len(weights) == 0:
        raise InputError("weights have the wrong shape", wanted="(N,), N ≥ 1", got=tuple(weights.shape))
    low, high = torch.aminmax(weights)
    if bool(low >= 0) and bool(torch.isfinite(high)):
        return weights
    bad = ~torch.isfinite(weights) | (weights < 0) if weights.is_floating_point() else weights < 0
    first = int(bad.nonzero()[0])
    raise InputError(f"the weight of item {first} is invalid", wanted="finite and ≥ 0", got=float(weights[first]))
