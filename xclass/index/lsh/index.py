"""Search through hash tables: the items that share a code with the query, or nearly do, are scored exactly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xclass.errors import ArtefactError
from xclass.index.approximate import ApproximateIndex, Settings
from xclass.index.checks import checked_vectors
from xclass.index.lsh.families import ALTERNATIVES, HashFamily, default_family, parse_family
from xclass.index.rescoring import Found, best_of, best_scored, matrix_of
from xclass.runtime.jit import compiles
from xclass.runtime.threads import in_parts
from xclass.types import Ragged, offsets_of
from xclass.types.vectors import Vectors

HASHED_ROWS = 1 << 13
MOST_RANGES = 8
RANGE_RATIO = 2**0.5
EVEN_NORMS = 1.02
START_PROBES = 16
START_VOTES = 2
MOST_PROBES = 1 << 12
VOTES = [4, 3, 2, 1]
PLAIN_QUERIES = 64
QUERIES_PER_THREAD = 16
CPU = torch.device("cpu")


class HashIndex(ApproximateIndex):
    """L tables of buckets; a query looks into its own bucket of each table and into the cheapest others.

    Everything found is scored with the vectors themselves: 2·D operations for each item in ``probes`` buckets of L
    tables, an item once. Memory beside the vectors: 4 bytes an item and table, 4 a bucket.

    With ``votes`` above 1 an item is scored only when so many tables have it: items that share a code by chance share
    one, and reading their vectors is what costs most.

    Codes know directions, not lengths. Vectors of different norms are divided into ranges by their norm, each with a
    cap U at most √2 above it, and hashed as [x, √(U² − |x|²)] (Neyshabur and Srebro 2015; ranges: Yan et al.
    2018). Ranges are searched from the longest down, until U·|q| is below what is found already.

    Args:
        kind: lsh or wta.
        factory: the tables, e.g. "LSH16x16" or "WTA16x4of16"; None: they fit the catalogue. See
            :func:`xclass.index.lsh.families.parse_family`.

    Attributes:
        scored_share: of the items, the mean share that a query since the last change of parameters was scored with.
    """

    def __init__(self, kind: str, factory: str | None = None) -> None:
        super().__init__(kind, factory)
        self._family: HashFamily | None = None
        self.order = np.zeros((0, 0), np.int32)
        self.starts = np.zeros((0, 1), np.int32)
        self.caps: list[float] = []
        self._scored = self._asked = 0

    @property
    def scored_share(self) -> float:
        """0 before the first search."""
        return self._scored / max(self._asked * self.num_items, 1)

    def restore(
        self, order: np.ndarray[Any, Any], starts: np.ndarray[Any, Any], caps: list[float], vectors: Tensor | Vectors,
        build_s: float,
    ) -> None:  # fmt: skip
        """Take tables that were built over these vectors.

        Raises:
            ArtefactError: shapes, item numbers or bucket bounds that can't be such tables.
        """
        held = checked_vectors(vectors)
        self._prepare(len(held), held.dim, caps)
        assert self._family is not None
        tables, keys = self._family.tables, len(caps) * self._family.codes
        if order.shape != (tables, len(held)) or starts.shape != (tables, keys + 1):
            wanted = (tables, len(held)), (tables, keys + 1)
            got = order.shape, starts.shape
            raise ArtefactError("these hash tables have another shape", where=self.factory, wanted=wanted, got=got)
        good = (
            order.dtype == starts.dtype == np.int32 and (starts[:, 0] == 0).all() and (starts[:, -1] == len(held)).all()
        )
        if not good or (np.diff(starts, axis=1) < 0).any() or order.min() < 0 or order.max() >= len(held):
            raise ArtefactError("these hash tables name items that are not there", where=self.factory)
        self.order, self.starts, self.build_s = order, starts, build_s
        self._exact.vectors = held
        self._start()

    def describe(self) -> dict[str, Any]:
        """As :meth:`ApproximateIndex.describe`, with the caps of the ranges of norms."""
        return {**super().describe(), "caps": self.caps}

    def extra_bytes(self) -> int:
        """Of the tables."""
        return self.order.nbytes + self.starts.nbytes

    def largest_reach(self) -> int:
        """All codes of a table, at most 4096."""
        assert self._family is not None
        return min(self._family.codes, MOST_PROBES)

    def choices(self, name: str, k: int) -> list[int]:
        """Powers of two of probes; 4 votes to 1."""
        return super().choices(name, k) if name == self.reach else VOTES

    def _prepare(self, num_items: int, dim: int, caps: list[float]) -> None:
        self.factory = self._wanted_factory or default_family(self.kind, num_items, dim)
        self.caps = caps
        self._family = parse_family(self.factory, dim + (len(caps) > 1))

    def _build(self, vectors: Vectors) -> None:
        norms = torch.cat([torch.linalg.vector_norm(block.cpu(), dim=1) for _, block in vectors.blocks()])
        self._prepare(len(vectors), vectors.dim, _caps(norms))
        assert self._family is not None
        ranges = _ranges(norms, self.caps)
        keys = np.empty((self._family.tables, len(vectors)), np.int32)
        for start, block in vectors.blocks(HASHED_ROWS):
            which = ranges[start : start + len(block)]
            codes = self._family.codes_of(self._augmented(block.cpu(), which))
            keys[:, start : start + len(block)] = (codes + which[:, None] * self._family.codes).T.numpy()
        self.order, self.starts = _sorted_tables(keys, len(self.caps) * self._family.codes)

    def _augmented(self, rows: Tensor, which: Tensor) -> Tensor:
        """Rows of the same length within each range, when there are several ranges."""
        if len(self.caps) == 1:
            return rows
        caps = torch.tensor(self.caps, dtype=torch.float64)[which]
        last = (caps.square() - rows.double().square().sum(1)).clamp_(min=0).sqrt_().float()
        return torch.cat([rows, last[:, None]], 1)

    def _start(self) -> None:
        assert self._family is not None
        self.reach = "probes"
        self.parameters = {
            "probes": min(START_PROBES, self.largest_reach()),
            "votes": min(START_VOTES, self._family.tables),
        }
        self._apply()

    def _apply(self) -> None:
        self._scored = self._asked = 0

    def _find(self, query_BD: Tensor, k: int, fetch: int, hidden: Ragged | None, settings: Settings) -> Found:
        assert self._family is not None
        probes = min(settings["probes"], self._family.codes)
        asked = torch.nn.functional.pad(query_BD, (0, 1)) if len(self.caps) > 1 else query_BD
        digits = self._family.digits_of(asked, min(ALTERNATIVES, self._family.base))
        values, costs = (part.flatten(0, 1).contiguous() for part in (digits.values, digits.costs))
        matrix = matrix_of(self.vectors)
        if matrix is None:
            ids, scores = self._plain(query_BD, _cheapest_codes(values, costs, self._family.base, probes), fetch)
        else:
            ids, scores = self._compiled(query_BD, matrix, values, costs, probes, fetch)
        self._asked += len(query_BD)
        return best_scored(ids, scores, k, hidden)

    def _compiled(
        self, query_BD: Tensor, matrix: np.ndarray[Any, Any], values: Tensor, costs: Tensor, probes: int, fetch: int
    ) -> tuple[Tensor, Tensor]:
        from xclass.index.lsh import _numba

        assert self._family is not None
        items, scores = torch.empty(len(query_BD), fetch, dtype=torch.int64), torch.empty(len(query_BD), fetch)
        scored = np.zeros(len(query_BD), np.int64)
        norms, caps = torch.linalg.vector_norm(query_BD, dim=1).numpy(), np.asarray(self.caps) * (1 + 1e-5)
        given = (
            query_BD.numpy(),
            norms,
            values.numpy(),
            costs.numpy(),
            self._family.base,
            probes,
            self.parameters["votes"],
        )
        stored = self.order, self.starts, caps, matrix
        out = items.numpy(), scores.numpy(), scored

        def part(low: int, high: int) -> None:
            seen = np.zeros(self.num_items, np.uint8)
            _numba.search(*given, *stored, low, high, seen, *out)

        in_parts(part, len(query_BD), len(query_BD) // QUERIES_PER_THREAD, CPU)
        self._scored += int(scored.sum())
        return items, scores

    def _plain(self, query_BD: Tensor, codes: Tensor, fetch: int) -> tuple[Tensor, Tensor]:
        """The same from codes (B·L, T), −1 for none, without a compiler and for vectors that are no matrix."""
        assert self._family is not None
        parts = []
        by_query = codes.view(len(query_BD), self._family.tables, -1)
        for rows in torch.arange(len(query_BD)).split(PLAIN_QUERIES):
            ids = self._candidates(by_query[rows])
            self._scored += int((ids >= 0).sum())
            parts.append(best_of(self.vectors, query_BD[rows], ids, fetch))
        found = Found.concat(parts)
        return found.ids, found.scores

    def _candidates(self, codes_BLT: Tensor) -> Tensor:
        """int64 (B, most): the different items of these buckets in all ranges, −1 behind the last."""
        assert self._family is not None
        flat = []
        for r in range(len(self.caps)):
            b, table, probe = (codes_BLT >= 0).nonzero(as_tuple=True)
            keys = (codes_BLT[b, table, probe] + r * self._family.codes).numpy()
            low = torch.from_numpy(self.starts[table.numpy(), keys].astype(np.int64))
            lengths = torch.from_numpy(self.starts[table.numpy(), keys + 1].astype(np.int64)) - low
            offsets = offsets_of(lengths)
            places = torch.arange(int(offsets[-1])) + torch.repeat_interleave(low - offsets[:-1], lengths)
            items = self.order[torch.repeat_interleave(table, lengths).numpy(), places.numpy()].astype(np.int64)
            flat.append(torch.repeat_interleave(b, lengths) * self.num_items + torch.from_numpy(items))
        pairs, counts = torch.unique(torch.cat(flat), return_counts=True)
        pairs = pairs[counts >= self.parameters["votes"]]
        b, items = torch.div(pairs, self.num_items, rounding_mode="floor"), pairs % self.num_items
        counts = torch.bincount(b, minlength=len(codes_BLT))
        ids = torch.full((len(codes_BLT), max(int(counts.max()), 1)), -1, dtype=torch.int64)
        ids[b, torch.arange(len(b)) - offsets_of(counts)[b]] = items
        return ids


def _caps(norms: Tensor) -> list[float]:
    """The largest norm of each range, falling: one when the norms hardly differ."""
    largest = float(norms.double().max())
    if float(norms.min()) * EVEN_NORMS >= largest:
        return [largest]
    caps = [largest * RANGE_RATIO**-step for step in range(MOST_RANGES)]
    counts = torch.bincount(_ranges(norms, caps), minlength=len(caps)).tolist()
    return [cap for cap, count in zip(caps, counts, strict=True) if count]


def _ranges(norms: Tensor, caps: list[float]) -> Tensor:
    """int64 (N,): the last range whose cap is not below the norm."""
    rising = torch.tensor(caps[::-1], dtype=torch.float64)
    return len(caps) - 1 - torch.searchsorted(rising, norms.double()).clamp_(max=len(caps) - 1)


def _sorted_tables(keys: np.ndarray[Any, Any], num_keys: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """(order (L,N), starts (L, keys + 1)) int32."""
    order, starts = np.empty_like(keys), np.empty((len(keys), num_keys + 1), np.int32)
    sort = _sorter()

    def tables(low: int, high: int) -> None:
        for table in range(low, high):
            sort(keys[table], starts[table], order[table])

    in_parts(tables, len(keys), len(keys), CPU)
    return order, starts


def _sorter() -> Callable[[Any, Any, Any], None]:
    if compiles():
        from xclass.index.lsh._numba import sort_into_buckets

        sort: Callable[[Any, Any, Any], None] = sort_into_buckets
        return sort
    return _sort_into_buckets


def _sort_into_buckets(keys: Any, starts: Any, order: Any) -> None:
    order[:] = keys.argsort(kind="stable")
    starts[0] = 0
    starts[1:] = np.bincount(keys, minlength=len(starts) - 1).cumsum()


def _cheapest_codes(values: Tensor, costs: Tensor, base: int, most: int) -> Tensor:
    """int64 (R, most) of digits (R, m, A): the cheapest codes, cheapest first, −1 behind the last."""
    codes, sums = torch.zeros(len(values), 1, dtype=torch.int64), torch.zeros(len(values), 1)
    for digit in range(values.shape[1]):
        codes = (codes[:, None, :] * base + values[:, digit, :, None]).flatten(1)
        sums = (sums[:, None, :] + costs[:, digit, :, None]).flatten(1)
        order = sums.argsort(dim=1, stable=True)[:, :most]
        codes, sums = codes.gather(1, order), sums.gather(1, order)
    return torch.nn.functional.pad(codes, (0, most - codes.shape[1]), value=-1)
