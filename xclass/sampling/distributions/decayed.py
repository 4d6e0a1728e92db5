"""The distribution of the labels seen, of which older ones weigh less."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from xclass.errors import InputError
from xclass.sampling.distributions.fixed import Bins, gathered
from xclass.sampling.distributions.label_log import GrowingLog
from xclass.sampling.interface import check_size, check_state

FORGOTTEN = 1e-12  # a label that weighs less is left out of draws
LARGEST = 1e100  # weights are kept relative to a past batch; beyond this they are scaled back


class DecayedLaw:
    """Every item has weight 1 and gets decay^a for each occurrence a batches ago.

    A draw is, with probability N / (N + S), a uniform item, where S is the labels' weight; otherwise a batch by its
    share of S, found in running sums, and any label of it. An update costs O(1) a label; a draw O(log batches) of the
    last log(1e-12)/log(decay), whatever N. Memory 8 bytes an item, 16 for each of these batches and 4 for each of their
    labels (8 from 2³¹ items on).

    Args:
        num_items: N.
        decay: in (0, 1).
        tallied: keep how many items have which weight, which :meth:`bins` needs.
    """

    def __init__(self, num_items: int, decay: float, tallied: bool = True) -> None:
        self.num_items = self.num_drawable = check_size("num_items", num_items)
        if not 0 < decay < 1:
            raise InputError("decay is out of range", wanted="a number between 0 and 1", got=decay)
        self.decay, self._keep = decay, math.ceil(math.log(FORGOTTEN) / math.log(decay))
        self._grown = torch.zeros(num_items, dtype=torch.float64)
        self._scale, self._learned, self.num_seen = 1.0, 0.0, 0
        self._labels = GrowingLog(torch.int32 if num_items < 1 << 31 else torch.int64)
        self._ends = GrowingLog(torch.int64)  # of each batch, counted from the first label ever
        self._mass = GrowingLog(torch.float64)  # running sums of scale · labels
        self._dropped, self._mass_dropped = 0, 0.0
        self._tally = WeightTally(num_items) if tallied else None

    @property
    def total(self) -> float:
        """N + S."""
        return self.num_items + self._learned

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """int64 (count,)."""
        u = torch.rand(count, generator=generator, dtype=torch.float64) * self.total
        ids = u.long().clamp_(max=self.num_items - 1)
        if len(self._labels):
            learned = (u >= self.num_items).nonzero().squeeze(1)
            ids[learned] = self._draw_labels(len(learned), generator)
        return ids

    def _draw_labels(self, count: int, generator: torch.Generator) -> Tensor:
        """int64 (count,) labels: a batch by its share of the weight, any label of it."""
        u, v = torch.rand(2, count, generator=generator, dtype=torch.float64)
        ends, mass = self._ends.view(), self._mass.view()
        top = float(mass[-1])
        point = u.mul_(top - self._mass_dropped).add_(self._mass_dropped).clamp_(max=math.nextafter(top, 0.0))
        batch = torch.searchsorted(mass, point, right=True)
        start = torch.where(batch > 0, ends.index_select(0, (batch - 1).clamp(min=0)), self._dropped)
        place = (v * (ends.index_select(0, batch) - start)).long().add_(start).sub_(self._dropped)
        return self._labels.view().index_select(0, place).long()

    def probability(self, ids: Tensor) -> Tensor:
        """(1 + decayed occurrences) / (N + S)."""
        return gathered(self._grown, ids).div_(self._scale).add_(1).div_(self.total)

    def update(self, labels: Tensor) -> None:
        """One batch of labels; all earlier ones age by one batch. O(labels)."""
        self._scale /= self.decay
        touched = torch.unique(labels) if self._tally is not None else labels
        before = self._grown.index_select(0, touched)
        self._grown.index_add_(0, labels, torch.full(labels.shape, self._scale, dtype=torch.float64))
        if self._tally is not None:
            self._tally.move(before, self._grown.index_select(0, touched))
            self._tally.advance(self._scale)
        self._learned = self._learned * self.decay + len(labels)
        self.num_seen += len(labels)
        self._labels.append(labels)
        self._ends.append(torch.tensor([self._dropped + len(self._labels)]))
        before_it = float(self._mass.view()[-1]) if len(self._mass) else self._mass_dropped
        self._mass.append(torch.tensor([before_it + self._scale * len(labels)], dtype=torch.float64))
        self._forget()

    def bins(self) -> Bins:
        """By weight, to 1 in 1000."""
        assert self._tally is not None, "this law was made with tallied=False"
        weights, number = self._tally.weights()
        return Bins(weights / float(weights @ number), number)

    def state(self) -> dict[str, Tensor]:
        """Everything that was learned."""
        return {
            "grown": self._grown.clone(),
            "log": self._labels.view().clone(),
            "ends": self._ends.view().clone(),
            "mass": self._mass.view().clone(),
            "numbers": torch.tensor([self.num_seen, self._dropped]),
            "scales": torch.tensor([self._scale, self._learned, self._mass_dropped], dtype=torch.float64),
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from :meth:`state`."""
        if len(state["grown"]) != self.num_items:
            got = len(state["grown"])
            raise InputError("the state is of another catalogue", wanted=f"{self.num_items} items", got=got)
        self._check_state(state)
        self._grown = state["grown"].clone()
        self.num_seen, self._dropped = state["numbers"].tolist()
        self._scale, self._learned, self._mass_dropped = state["scales"].tolist()
        for log, values in ((self._labels, "log"), (self._ends, "ends"), (self._mass, "mass")):
            log.replace(state[values])
        self._recount()

    def _check_state(self, state: dict[str, Tensor]) -> None:
        numbers, (log, ends, mass) = state["numbers"], (state[name] for name in ("log", "ends", "mass"))
        largest = torch.finfo(torch.float64).max
        check_state("numbers", numbers, 0, 1 << 53, 2)
        check_state("scales", state["scales"], 0, largest, 3)
        check_state("scales", state["scales"][:1], torch.finfo(torch.float64).tiny, largest)
        check_state("grown", state["grown"], 0, largest)
        check_state("log", log, 0, self.num_items - 1)
        check_state("mass", mass, 0, largest, len(ends))
        first = numbers[1:].to(ends.dtype)
        check_state("ends", torch.cat([first, ends]).diff(), 0, len(log))
        check_state("ends", torch.cat([first, ends])[-1:] - first, len(log), len(log))

    def _forget(self) -> None:
        """Batches too old to be drawn leave the log; large weights are scaled back, once in thousands of batches."""
        over = len(self._ends) - self._keep
        if over > 0:
            end, self._mass_dropped = int(self._ends.view()[over - 1]), float(self._mass.view()[over - 1])
            self._labels.drop(end - self._dropped)
            self._ends.drop(over)
            self._mass.drop(over)
            self._dropped = end
        if self._scale > LARGEST:
            self._grown /= self._scale
            self._mass.view().div_(self._scale)
            self._mass_dropped /= self._scale
            self._scale = 1.0
            self._recount()

    def _recount(self) -> None:
        """The tally anew, O(N)."""
        if self._tally is not None:
            self._tally = WeightTally(self.num_items)
            self._tally.advance(self._scale)
            grown = self._grown[self._grown > 0]
            self._tally.move(torch.zeros_like(grown), grown)


class WeightTally:
    """How many items have which weight 1 + grown / scale, where ``scale`` grows for all at once.

    Bins of log grown, 1/1024 wide. A bin's weight falls with time, but who is in it changes for the items of a batch
    only; bins that have fallen to e^-36 (a weight of 1 + 2e-16) are given back to those that were never met. O(1) an
    item, and O(bins passed) a batch.
    """

    WIDTH = 1 / 1024
    DEPTH = 36.0
    RING = 1 << 17

    def __init__(self, num_items: int) -> None:
        self._num_items, self._log_scale = num_items, 0.0
        self._number = torch.zeros(self.RING, dtype=torch.int64)
        self._low = self._lowest()

    def advance(self, scale: float) -> None:
        """Time goes on."""
        self._log_scale = math.log(scale)
        low = self._lowest()
        gone = torch.arange(self._low, min(low, self._low + self.RING))
        self._number[gone % self.RING] = 0
        self._low = low

    def move(self, before: Tensor, after: Tensor) -> None:
        """Items that had ``before`` (0: never met) now have ``after``, float64 (M,) each."""
        for grown, sign in ((before, -1), (after, 1)):
            bins = (grown[grown > 0].log_() / self.WIDTH).floor_().long()
            bins = bins[bins >= self._low] % self.RING
            self._number.index_add_(0, bins, torch.full_like(bins, sign))

    def weights(self) -> tuple[Tensor, Tensor]:
        """float64 (bins,) each: weight, and how many items have it; the last bin holds those of weight 1."""
        places = self._number.nonzero().squeeze(1)
        number = self._number[places].double()
        bins = self._low + (places - self._low) % self.RING
        weights = torch.exp((bins.double() + 0.5) * self.WIDTH - self._log_scale).add_(1)
        rest = self._num_items - float(number.sum())
        return torch.cat([weights, weights.new_ones(1)]), torch.cat([number, number.new_tensor([rest])])

    def _lowest(self) -> int:
        return math.floor((self._log_scale - self.DEPTH) / self.WIDTH)
