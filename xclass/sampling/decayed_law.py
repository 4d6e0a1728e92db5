"""The distribution of the labels seen, of which older ones weigh less."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from xclass.errors import InputError
from xclass.sampling.laws import Bins
from xclass.sampling.seam import check_size

FORGOTTEN = 1e-12  # a label that weighs less is left out of draws
LARGEST = 1e100  # weights are kept relative to a past batch; beyond this they are scaled back


class DecayedLaw:
    """Every item has weight 1 and gets decay^a for each occurrence a batches ago.

    A draw is, with probability N / (N + S), a uniform item; otherwise a batch by its share of the labels' weight S, and
    a uniformly chosen label of it. Memory 8 bytes an item and 8 for each label of the last log(1e-12)/log(decay)
    batches;
    a draw costs O(log batches), an update O(labels), both whatever N.

    Args:
        num_items: N.
        decay: in (0, 1).
    """

    def __init__(self, num_items: int, decay: float) -> None:
        self.num_items = self.num_drawable = check_size("num_items", num_items)
        if not 0 < decay < 1:
            raise InputError("decay is out of range", wanted="a number between 0 and 1", got=decay)
        self.decay, self._keep = decay, math.ceil(math.log(FORGOTTEN) / math.log(decay))
        self._grown = torch.zeros(num_items, dtype=torch.float64)
        self._scale, self._grown_total, self.num_seen = 1.0, 0.0, 0
        self._log = torch.empty(0, dtype=torch.int64)
        self._ends = torch.empty(0, dtype=torch.int64)
        self._mass = torch.empty(0, dtype=torch.float64)

    @property
    def total(self) -> float:
        """N + S."""
        return self.num_items + self._grown_total / self._scale

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """int64 (count,)."""
        u = torch.rand(count, generator=generator, dtype=torch.float64) * self.total
        v = torch.rand(count, generator=generator, dtype=torch.float64)
        uniform = (v * self.num_items).long().clamp_(max=self.num_items - 1)
        if not len(self._ends):
            return uniform
        running = self._mass.cumsum(0)
        spot = (u - self.num_items).clamp_(min=0) * (running[-1] / max(self.total - self.num_items, 1e-300))
        batch = torch.searchsorted(running, spot, right=True).clamp_(max=len(running) - 1)
        starts = torch.cat([self._ends.new_zeros(1), self._ends[:-1]])
        lengths = self._ends - starts
        place = starts[batch] + (v * lengths[batch]).long().clamp_(max=lengths[batch] - 1)
        return torch.where(u < self.num_items, uniform, self._log[place])

    def probability(self, ids: Tensor) -> Tensor:
        """(1 + decayed occurrences) / (N + S)."""
        return (1 + self._grown[ids] / self._scale) / self.total

    def update(self, labels: Tensor) -> None:
        """One batch of labels; all earlier ones age by one batch. O(labels)."""
        self._scale /= self.decay
        self._grown.scatter_add_(0, labels, torch.full(labels.shape, self._scale, dtype=torch.float64))
        self._grown_total += self._scale * len(labels)
        self.num_seen += len(labels)
        if len(labels):
            self._log = torch.cat([self._log, labels])
            self._ends = torch.cat([self._ends, torch.tensor([len(self._log)])])
            self._mass = torch.cat([self._mass, torch.tensor([self._scale * len(labels)]).double()])
        self._forget()

    def bins(self) -> Bins:
        """The remembered items one by one, the others together. O(labels remembered)."""
        seen = torch.unique(self._log)
        rest = self.num_items - len(seen)
        number = torch.ones(len(seen) + 1, dtype=torch.float64)
        number[-1] = rest
        p = self.probability(seen)
        mass = max(1.0 - float(p.sum()), 0.0)
        return Bins(torch.cat([p, p.new_tensor([mass / max(rest, 1)])]), number)

    def state(self) -> dict[str, Tensor]:
        """Everything that was learned."""
        numbers = torch.tensor([self._scale, self._grown_total, float(self.num_seen)], dtype=torch.float64)
        return {"grown": self._grown, "log": self._log, "ends": self._ends, "mass": self._mass, "numbers": numbers}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from :meth:`state`."""
        self._grown, self._log = state["grown"].clone(), state["log"]
        self._ends, self._mass = state["ends"], state["mass"]
        self._scale, self._grown_total, seen = state["numbers"].tolist()
        self.num_seen = int(seen)

    def _forget(self) -> None:
        """Batches too old to be drawn leave the log; large weights are scaled back, once in thousands of batches."""
        if len(self._ends) > 2 * self._keep:
            cut = int(self._ends[-self._keep - 1])
            self._log, self._ends, self._mass = (
                self._log[cut:].clone(),
                self._ends[-self._keep :] - cut,
                self._mass[-self._keep :].clone(),
            )
        if self._scale > LARGEST:
            self._grown /= self._scale
            self._mass /= self._scale
            self._grown_total /= self._scale
            self._scale = 1.0
