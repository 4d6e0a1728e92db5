"""What a candidate sampler remembers between calls: the table of a fixed unigram, the counts of a learned one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from xclass.compat.checks import check_count, class_ids
from xclass.errors import InputError
from xclass.sampling.distributions.fixed import WeightedLaw
from xclass.sampling.distributions.learned import LearnedLaw
from xclass.sampling.unigram import read_weights

WHERE = "fixed_unigram_candidate_sampler"
FOLD = 1 << 20  # labels that a learned unigram keeps one by one, at least


class FixedUnigramState(WeightedLaw):
    """Classes with given weights: ``weights`` float64 (range_max,), finite, ≥ 0, not all 0. O(1) a draw."""


def fixed_unigram_state(
    range_max: int,
    vocab_file: str = "",
    distortion: float = 1.0,
    num_reserved_ids: int = 0,
    num_shards: int = 1,
    shard: int = 0,
    unigrams: Sequence[float] | Tensor = (),
) -> FixedUnigramState:
    """The table of ``fixed_unigram_candidate_sampler``, built once; arguments are explained there. O(classes)."""
    check_count("range_max", range_max, WHERE)
    check_count("num_shards", num_shards, WHERE)
    if not 0 <= shard < num_shards:
        raise InputError("shard does not exist", where=WHERE, wanted=f"0 to {num_shards - 1}", got=shard)
    if not isinstance(num_reserved_ids, int) or num_reserved_ids < 0:
        raise InputError("num_reserved_ids is out of range", where=WHERE, wanted="at least 0", got=num_reserved_ids)
    if bool(vocab_file) == bool(len(unigrams)):
        raise InputError("weights come from vocab_file or from unigrams", where=WHERE, wanted="one of the two")
    given = read_weights(vocab_file) if vocab_file else torch.as_tensor(unigrams, dtype=torch.float64).cpu()
    weights = _powered(given, distortion)
    weights = torch.cat([weights.new_zeros(num_reserved_ids), weights])[shard::num_shards].contiguous()
    if len(weights) != range_max:
        kept = f" with id % {num_shards} == {shard}" if num_shards > 1 else ""
        raise InputError(
            "range_max is not the number of classes",
            where=WHERE,
            wanted=f"{len(weights)}: {num_reserved_ids} reserved and {len(given)} weights{kept}",
            got=range_max,
        )
    if not 0 < float(weights.sum()) < math.inf:
        raise InputError(
            "nothing can be drawn", where=WHERE, wanted="a positive finite total", got=float(weights.sum())
        )
    return FixedUnigramState(weights)


def _powered(weights: Tensor, distortion: float) -> Tensor:
    """Every weight ** distortion; 0 ** 0 is 1, as in TensorFlow."""
    if weights.dim() != 1:
        raise InputError("unigrams has the wrong shape", where=WHERE, wanted="a vector", got=list(weights.shape))
    bad = ~torch.isfinite(weights) | (weights < 0)
    if bool(bad.any()):
        first = int(bad.nonzero()[0])
        raise InputError(
            f"weight {first} is invalid", where=WHERE, wanted="finite numbers ≥ 0", got=float(weights[first])
        )
    if not math.isfinite(distortion):
        raise InputError("distortion is invalid", where=WHERE, wanted="a finite number", got=distortion)
    return weights.pow(distortion)


class LearnedUnigramState(LearnedLaw):
    """How often every class has been a true class; each starts at 1. O(1) a draw and an update at any size.

    Memory is bounded in the length of the stream; ``state()`` and ``load_state()`` carry it over a restart.
    """

    def __init__(self, range_max: int) -> None:
        super().__init__(check_count("range_max", range_max, "learned_unigram_state"))

    def update(self, classes: Tensor) -> None:
        """Count every occurrence in ``classes``."""
        super().update(class_ids("true_classes", classes, self.num_items, "learned_unigram_state").reshape(-1).cpu())


def learned_unigram_state(range_max: int) -> LearnedUnigramState:
    """The state of ``learned_unigram_candidate_sampler``: every class at 1."""
    return LearnedUnigramState(range_max)
