"""What a candidate sampler remembers between calls: the table of a fixed unigram, the counts of a learned one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from xclass.compat.checks import check_count, class_ids
from xclass.errors import DataError, InputError

WHERE = "fixed_unigram_candidate_sampler"
FOLD = 1 << 20  # labels that a learned unigram keeps one by one, at least


class FixedUnigramState:
    """Classes with given weights: ``weights`` float64 (range_max,), finite, ≥ 0, not all 0. O(log N) a draw."""

    def __init__(self, weights: Tensor) -> None:
        self.range_max = len(weights)
        self.num_drawable = int(torch.count_nonzero(weights))
        self._weights = weights
        self._cumulative = torch.cumsum(weights, 0)
        self._total = float(self._cumulative[-1])

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """int64 (count,): the first class whose running total exceeds u · total."""
        u = torch.rand(count, dtype=torch.float64, generator=generator) * self._total
        return torch.searchsorted(self._cumulative, u, right=True).clamp_(max=self.range_max - 1)

    def probability(self, ids: Tensor) -> Tensor:
        """float64: weight / total."""
        return self._weights[ids] / self._total


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
    given = read_vocab_file(vocab_file) if vocab_file else torch.as_tensor(unigrams, dtype=torch.float64).cpu()
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


def read_vocab_file(path: str | Path) -> Tensor:
    """float64: the last comma-separated field of every line that is not empty."""
    weights = []
    try:
        with open(path, encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    weights.append(_weight(line, path, number))
    except OSError as error:
        raise DataError("vocab_file can't be read", where=path, got=error.strerror) from None
    return torch.tensor(weights, dtype=torch.float64)


def _weight(line: str, path: str | Path, number: int) -> float:
    field = line.rsplit(",", 1)[-1].strip()
    try:
        return float(field)
    except ValueError:
        raise DataError(
            "this line has no weight",
            where=f"{path}:{number}",
            wanted="a number in the last comma-separated field",
            got=repr(field),
        ) from None


class LearnedUnigramState:
    """How often every class has been a true class; each starts at 1.

    A draw is, with probability N / (N + n), a uniform class, else a uniform one of the n labels seen: exact, and
    O(1) a draw and an update at any N. When the labels seen outnumber the classes (and ``FOLD``), they are folded into
    running totals, so that memory stays at some 40 bytes a class; what was folded is then found in O(log N).
    """

    def __init__(self, range_max: int) -> None:
        self.range_max = self.num_drawable = check_count("range_max", range_max, "learned_unigram_state")
        self._start(torch.ones(range_max, dtype=torch.int64))

    def _start(self, counts: Tensor) -> None:
        """From these counts (range_max,), with no label seen since."""
        self._counts = counts
        self._folded_total = int(counts.sum())
        # None: the totals of counts that are all 1, which need no table.
        self._folded = None if self._folded_total == self.range_max else counts.cumsum(0)
        self._seen = torch.empty(1024, dtype=torch.int64)
        self._num_seen = 0

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """int64 (count,)."""
        entry = torch.randint(self._folded_total + self._num_seen, (count,), generator=generator)
        folded = entry.clamp(max=self._folded_total - 1)
        if self._folded is not None:
            folded = torch.searchsorted(self._folded, folded, right=True)
        seen = (entry - self._folded_total).clamp_(min=0)
        return torch.where(entry < self._folded_total, folded, self._seen[seen])

    def probability(self, ids: Tensor) -> Tensor:
        """float64: (1 + occurrences) / (N + n)."""
        return self._counts[ids].double() / (self._folded_total + self._num_seen)

    def update(self, classes: Tensor) -> None:
        """Count every occurrence in ``classes``."""
        flat = class_ids("true_classes", classes, self.range_max, "learned_unigram_state").reshape(-1).cpu()
        self._counts.index_add_(0, flat, torch.ones_like(flat))
        if self._num_seen + len(flat) > max(FOLD, self.range_max):
            self._start(self._counts)
            return
        while self._num_seen + len(flat) > len(self._seen):
            self._seen = torch.cat([self._seen, torch.empty_like(self._seen)])
        self._seen[self._num_seen : self._num_seen + len(flat)] = flat
        self._num_seen += len(flat)

    def counts(self) -> Tensor:
        """int64 (range_max,): 1 + occurrences of every class."""
        return self._counts.clone()

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint has to hold: the counts that were folded, and the labels seen since."""
        seen = self._seen[: self._num_seen].clone()
        return {"folded": self._counts - torch.bincount(seen, minlength=self.range_max), "seen": seen}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continue from :meth:`state`: the same draws from the same generator."""
        if tuple(state["folded"].shape) != (self.range_max,):
            raise InputError(
                "the state is of another range_max",
                where="learned_unigram_state",
                wanted=self.range_max,
                got=len(state["folded"]),
            )
        self._start(state["folded"].clone())
        self.update(state["seen"])


def learned_unigram_state(range_max: int) -> LearnedUnigramState:
    """The state of ``learned_unigram_candidate_sampler``: every class at 1."""
    return LearnedUnigramState(range_max)
