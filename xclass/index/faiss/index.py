"""Any Faiss index behind the seam, named by a factory string."""

from __future__ import annotations

import re
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xclass.errors import ConfigError, InputError
from xclass.index.approximate import ApproximateIndex, Settings, powers_of_two
from xclass.index.checks import checked_vectors
from xclass.index.faiss.factory import (
    default_factory,
    faiss_bytes,
    faiss_reason,
    fit_lists,
    make_faiss,
    num_lists,
    refines,
    search_parameter_name,
    set_parameter,
    stores_vectors,
    threads,
)
from xclass.index.faiss.selectors import search_parameters
from xclass.index.faiss.spread import SpreadLists, is_spread, without_spread
from xclass.index.filtering import Allowed
from xclass.index.rescoring import Found, best_of, best_scored
from xclass.runtime.threads import in_parts, num_threads
from xclass.types import Ragged
from xclass.types.vectors import Vectors

EF_CONSTRUCTION = 40
START_PARAMETER = {"efSearch": 64, "nprobe": 16}
LARGEST_EF = 4096
LARGEST_FETCH = 4096
EIGHT_BITS = re.compile(r"SQ(8|fp16|bf16)")
REFINE = "refine"
FAISS_REFINE = "k_factor_rf"
START_REFINE = 4
ADD_BYTES = 1 << 28
QUERIES_PER_THREAD = 64
CPU = torch.device("cpu")
TRAIN_ROWS = 1 << 18
TRAIN_ROWS_PER_LIST = 64


class FaissIndex(ApproximateIndex):
    """A Faiss index named by a factory string.

    Where Faiss compresses the vectors, or searches by L2, ``refine`` · k of what it finds are scored again with the
    vectors themselves and the k best of those come out. Faiss's own refinement would keep a second copy of the vectors.

    Vectors are given to Faiss in blocks of 256 MB, and it is trained on at most 2^18 of them (64 for each inverted
    list, if that is more), evenly spaced: beside what Faiss keeps there is no second copy of the catalogue.

    Args:
        kind: flat, hnsw, ivf, …: the factory string fits the catalogue; or factory, with ``factory``.
        factory: a Faiss factory string. ``IVF`` with too many lists for the catalogue gets fewer.
        metric: "inner_product", or "l2_augmented": one more dimension makes all norms equal, [x, √(M² − |x|²)],
            so that L2 neighbours are the largest inner products (Bachrach et al. 2014, section 3).
        deterministic: build on one thread: the same vectors give the same index, more slowly.

    Attributes:
        train_s: seconds of the build that went into training.
    """

    def __init__(
        self, kind: str, factory: str | None = None, metric: str = "inner_product", deterministic: bool = False
    ) -> None:
        super().__init__(kind, factory, metric)
        if metric not in ("inner_product", "l2_augmented"):
            raise ConfigError("there is no such metric", wanted="inner_product or l2_augmented", got=metric)
        self.deterministic = deterministic
        self.train_s = 0.0
        self.faiss: Any = None
        self.spread: SpreadLists | None = None

    def restore(
        self, index: Any, vectors: Tensor | Vectors, build_s: float, table: np.ndarray[Any, Any] | None = None
    ) -> None:
        """Take a Faiss index that holds ``vectors`` already and took ``build_s`` to build.

        Args:
            table: of :class:`SpreadLists`, where the factory string asks for them.
        """
        self.faiss, self.build_s = index, build_s
        self.spread = None if table is None else SpreadLists(index, table, self.factory)
        self._exact.vectors = checked_vectors(vectors)
        self._start()

    def extra_bytes(self) -> int:
        """What Faiss would write: about what it holds in memory."""
        return faiss_bytes(self.faiss) + (self.spread.nbytes if self.spread else 0)

    def largest_reach(self) -> int:
        """All inverted lists; 4096 for a graph."""
        return num_lists(self.faiss) if self.reach == "nprobe" else min(LARGEST_EF, self.num_items)

    def choices(self, name: str, k: int) -> list[int]:
        """Powers of two; of finds to score again at most 4 · k where 8 bits hold a number, else 4096 in all, never more
        than a quarter of the items."""
        if name == self.reach:
            return powers_of_two(self.largest_reach())
        most = 4 if EIGHT_BITS.search(self.factory) else LARGEST_FETCH // k
        return powers_of_two(max(min(most, self.num_items // (4 * k)), 1))

    @property
    def _l2(self) -> bool:
        return self.metric == "l2_augmented"

    @property
    def _inexact(self) -> bool:
        """Whether Faiss's scores are not the inner products."""
        return self._l2 or not stores_vectors(self.factory)

    def _build(self, vectors: Vectors) -> None:
        wanted = self._wanted_factory or default_factory(self.kind, len(vectors), vectors.dim)
        self.factory = fit_lists(wanted, len(vectors))
        self.faiss, self.spread = None, None
        if self._l2 and is_spread(self.factory):
            raise ConfigError("spread lists are for inner products", got=self.factory, do="leave out --metric")
        index = make_faiss(vectors.dim + self._l2, without_spread(self.factory), self._l2)
        with threads(1 if self.deterministic else None):
            try:
                self._fill(index, vectors)
            except RuntimeError as error:
                raise InputError(
                    "Faiss cannot build this index",
                    where=self.factory,
                    wanted="vectors enough to train it",
                    got=f"{len(vectors):,} vectors: {faiss_reason(error)}",
                    do="choose the kind exact, or a factory string for a smaller catalogue",
                ) from None
        self.faiss = index

    def _fill(self, index: Any, vectors: Vectors) -> None:
        """Train where the kind needs it, then add everything, in blocks."""
        started, block = time.perf_counter(), max(1, ADD_BYTES // (4 * vectors.dim))
        if is_spread(self.factory):
            lists = SpreadLists.fill(index, vectors, _training_rows(vectors, num_lists(index)), block, self.factory)
            self.spread, self.train_s = lists, lists.train_s
            return
        largest = max(float(_squares(rows).max()) for _, rows in vectors.blocks()) if self._l2 else 0.0
        if search_parameter_name(index) == "efSearch":
            set_parameter(index, "efConstruction", EF_CONSTRUCTION)
        if not index.is_trained:
            index.train(self._augmented(_training_rows(vectors, num_lists(index)), largest).numpy())
        self.train_s = time.perf_counter() - started
        for _, rows in vectors.blocks(block):
            index.add(self._augmented(rows, largest).numpy())

    def _augmented(self, rows: Tensor, largest: float) -> Tensor:
        """Rows on the CPU as Faiss takes them; by L2 with √(largest − |x|²) as one more dimension."""
        rows = rows.cpu().contiguous()
        if not self._l2:
            return rows
        last = (largest - _squares(rows)).clamp_(min=0).sqrt_().float()
        return torch.cat([rows, last[:, None]], 1)

    def _start(self) -> None:
        self.reach = search_parameter_name(self.faiss)
        self.parameters = {} if self.reach is None else {self.reach: START_PARAMETER[self.reach]}
        if refines(self.faiss):
            self.parameters[FAISS_REFINE] = START_REFINE
        elif self._inexact:
            self.parameters[REFINE] = START_REFINE
        self._apply()

    def _apply(self) -> None:
        for name, value in self.parameters.items():
            if name != REFINE:
                set_parameter(self.faiss, name, value)

    def _find_among(
        self, query_BD: Tensor, k: int, fetch: int, hidden: Ragged | None, settings: Settings, allowed: Allowed
    ) -> Found:
        given = search_parameters(self.faiss, self._reach_of(settings), allowed.bits)
        if given is None:
            return super()._find_among(query_BD, k, fetch, hidden, settings, allowed)
        return self._find_given(query_BD, k, min(fetch, len(allowed)), hidden, settings, given)

    def _find(self, query_BD: Tensor, k: int, fetch: int, hidden: Ragged | None, settings: Settings) -> Found:
        given = None
        if settings is not self.parameters:
            given = search_parameters(self.faiss, self._reach_of(settings))
        return self._find_given(query_BD, k, fetch, hidden, settings, given)

    def _reach_of(self, settings: Settings) -> int:
        return 0 if self.reach is None else settings[self.reach]

    def _find_given(
        self, query_BD: Tensor, k: int, fetch: int, hidden: Ragged | None, settings: Settings, parameters: Any
    ) -> Found:
        """With Faiss's own parameters of a search, or as the index is set."""
        deep = min(fetch + (settings.get(REFINE, 1) - 1) * k, self.num_items)
        asked = torch.nn.functional.pad(query_BD, (0, 1)) if self._l2 else query_BD
        if not self._inexact:
            with threads(num_threads()):  # a search's short operations run on one, and Faiss would too
                scores, ids = self.faiss.search(asked.numpy(), deep, params=parameters)
            return best_scored(torch.from_numpy(ids), torch.from_numpy(scores), k, hidden)

        def part(low: int, high: int) -> Found:
            gone = None if hidden is None else hidden.slice(low, high)
            with threads(num_threads() if high - low == len(query_BD) else 1):
                found = self._proposed(asked[low:high], deep, parameters)
            return best_of(self.vectors, query_BD[low:high], found, k, gone, threads=1)

        # Both steps in each thread: threads that Faiss has just used still spin, and would stand in the way of ours.
        # One part a thread, as the cost of a query falls with the number of queries that Faiss gets at once.
        worthwhile = len(query_BD) // QUERIES_PER_THREAD
        return Found.concat(in_parts(part, len(query_BD), worthwhile, CPU, per_thread=1))

    def _proposed(self, asked_BD: Tensor, deep: int, parameters: Any) -> Tensor:
        """int64 (B, deep), −1 behind the last."""
        if self.spread is not None:
            return self.spread.search(asked_BD, deep, parameters)
        return torch.from_numpy(self.faiss.search(asked_BD.numpy(), deep, params=parameters)[1])


def _squares(rows: Tensor) -> Tensor:
    return rows.double().square().sum(1)


def _training_rows(vectors: Vectors, lists: int) -> Tensor:
    """All rows, or so many of them, evenly spaced, that training has plenty."""
    most = max(TRAIN_ROWS, TRAIN_ROWS_PER_LIST * lists)
    if len(vectors) <= most:
        return vectors.read(0, len(vectors))
    return vectors.take(torch.arange(most) * len(vectors) // most)
