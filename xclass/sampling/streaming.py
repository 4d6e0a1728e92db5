"""How often an item occurs in a batch, estimated from the stream of batches alone."""

from __future__ import annotations

import torch
from torch import Tensor

from xclass.errors import InputError
from xclass.sampling.interface import check_size, check_state

PRIME = (1 << 31) - 1


class StreamingFrequency:
    """The mean number of batches between two occurrences of an item, by a moving average; its inverse is the frequency.

    For each hash function two arrays: A, the batch in which a bucket occurred last, and B, the estimated gap. When the
    bucket occurs m times in batch t: B ← (1 − α) · B + α · (t − A) / m, A ← t. Items that share a bucket make its gap
    shorter, so the largest B over the hash functions is taken. Yi et al. 2019, algorithms 2 and 3.

    Args:
        num_items: N.
        learning_rate: α in (0, 1]: small for stable estimates, large to follow a changing stream.
        num_hashes: hash functions.
        num_buckets: of each; 0 for N, and then one identity hash is exact.
        expected_count: the gap at the start is 1 / this, say P/N for batches of P pairs.

    Cost O(hashes · labels) a batch, memory 16 bytes a bucket, whatever N.
    """

    def __init__(
        self,
        num_items: int,
        learning_rate: float = 0.05,
        num_hashes: int = 1,
        num_buckets: int = 0,
        expected_count: float = 1e-3,
    ) -> None:
        self.num_items = check_size("num_items", num_items)
        check_size("num_hashes", num_hashes)
        if not 0 < learning_rate <= 1 or not expected_count > 0 or num_buckets < 0:
            raise InputError(
                "streaming frequency estimation has impossible settings",
                wanted="0 < learning_rate ≤ 1, expected_count > 0, num_buckets ≥ 0",
                got=f"{learning_rate}, {expected_count}, {num_buckets}",
            )
        self.learning_rate, self.num_hashes = learning_rate, num_hashes
        self.num_buckets = num_buckets or num_items
        self._last = torch.zeros(num_hashes, self.num_buckets, dtype=torch.int64)
        self._gap = torch.full((num_hashes, self.num_buckets), 1.0 / expected_count, dtype=torch.float64)
        self._batch = 0

    def update(self, ids: Tensor) -> None:
        """One batch: every occurrence counts."""
        self._batch += 1
        for number in range(self.num_hashes):
            bucket, times = torch.unique(self._bucket(ids, number), return_counts=True)
            last, gap = self._last[number], self._gap[number]
            seen = last[bucket] > 0
            step = self.learning_rate * ((self._batch - last[bucket]) / times.double() - gap[bucket])
            gap[bucket] += torch.where(seen, step, 0.0)
            last[bucket] = self._batch

    def log_expected_count(self, ids: Tensor) -> Tensor:
        """float64: −log of the largest gap."""
        gaps = torch.stack([self._gap[number][self._bucket(ids, number)] for number in range(self.num_hashes)])
        return gaps.amax(0).log_().neg_()

    def state(self) -> dict[str, Tensor]:
        """Both arrays and the number of batches."""
        return {"last": self._last, "gap": self._gap, "batch": torch.tensor(self._batch)}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from :meth:`state`."""
        for name, own in (("last", self._last), ("gap", self._gap)):
            if state[name].shape != own.shape:
                got = tuple(state[name].shape)
                raise InputError(f'"{name}" of this state is of another shape', wanted=tuple(own.shape), got=got)
        check_state("last", state["last"], 0, int(state["batch"]))
        check_state("gap", state["gap"], torch.finfo(torch.float64).tiny, torch.finfo(torch.float64).max)
        self._last.copy_(state["last"])
        self._gap.copy_(state["gap"])
        self._batch = int(state["batch"])

    def _bucket(self, ids: Tensor, number: int) -> Tensor:
        """Identity where every item has a bucket; else a linear hash modulo a prime, another for each number."""
        if self.num_buckets >= self.num_items and self.num_hashes == 1:
            return ids
        factor, shift = 1_000_003 + 7_368_787 * number, 10_007 + 5_915_587 * number
        return (ids % PRIME * factor + shift) % PRIME % self.num_buckets
