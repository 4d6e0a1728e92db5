"""A world whose true P(item | query) is known: topics with Zipf items inside, queries that lean towards topics.

Item m (a model number, 0 … N-1) has topic c(m) = m mod C and in-topic rank r(m) = ⌊m / C⌋, so that nothing the size of
the catalogue has to be stored. With Zipf weights w_r = (r + shift)^-exponent, W_c their sum over topic c, topic shares
π_c ∝ (c + 1)^-½, a direction t_c of unit length for each topic and a standard normal taste z_q for each query:

    P(m | q) = θ_{q,c(m)} · w_{r(m)} / W_{c(m)},    θ_qc = π_c exp(β z_q·t_c) / Σ_c' π_c' exp(β z_q·t_c')

log P is an inner product of query and item (of latent_dim + 1 dimensions) up to a term of the query alone: a two-tower
model can learn this world exactly. P is never 0. Everything about a block of queries comes from the generators
(seed, purpose, block): any block can be made again alone, in any order.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from xclass.data.features import stable_order
from xclass.errors import InputError
from xclass.runtime.rng import numpy_generator

QUERIES_PER_BLOCK = 1 << 14
REJECTION_ROUNDS = 6
MANY_ROUNDS = 30
MOST_DRAWS = 1 << 16
EXACT_CELLS = 1 << 22
LENGTH_SPREAD = 0.5


@dataclass(frozen=True)
class PlantedWorld:
    """The parameters, the true probabilities, and draws from them.

    Args:
        num_items: N. num_queries: Q. pairs: exact number of pairs of all parts together.
        num_topics: C, at most N / 2. latent_dim: dimensions of tastes and topic directions.
        sharpness: β; 0 makes all queries alike. zipf_exponent, zipf_shift: of the weights inside a topic.
        seed: of everything.

    Raises:
        InputError: numbers that can't be: fewer than two pairs a query, or more than a quarter of all there can be.
    """

    num_items: int
    num_queries: int
    pairs: int
    num_topics: int = 32
    seed: int = 0
    latent_dim: int = 4
    sharpness: float = 5.0
    zipf_exponent: float = 1.2
    zipf_shift: float = 2.0

    def __post_init__(self) -> None:
        checks = [
            (self.num_queries >= 1, "num_queries", "at least 1", self.num_queries),
            (self.num_topics >= 1, "num_topics", "at least 1", self.num_topics),
            (
                self.num_items >= 2 * self.num_topics,
                "num_items",
                f"at least {2 * self.num_topics}, two per topic",
                self.num_items,
            ),
            (
                self.pairs >= 2 * self.num_queries,
                "pairs",
                f"at least {2 * self.num_queries:,}, two per query",
                self.pairs,
            ),
            (
                4 * self.pairs <= self.num_queries * self.num_items,
                "pairs",
                f"at most {self.num_queries * self.num_items // 4:,}, a quarter of queries × items",
                self.pairs,
            ),
        ]
        for good, name, wanted, got in checks:
            if not good:
                raise InputError(f"the planted world's {name} doesn't fit", wanted=wanted, got=got, do=f"change {name}")

    def parameters(self) -> dict[str, Any]:
        """Plain values from which the same world can be made again."""
        return asdict(self)

    @property
    def num_blocks(self) -> int:
        """How many blocks of queries there are."""
        return -(-self.num_queries // QUERIES_PER_BLOCK)

    def block_range(self, block: int) -> tuple[int, int]:
        """First query of a block, and the one after its last."""
        return block * QUERIES_PER_BLOCK, min((block + 1) * QUERIES_PER_BLOCK, self.num_queries)

    @cached_property
    def topic_shares(self) -> np.ndarray:
        """π, float64 (C,)."""
        shares = (np.arange(self.num_topics) + 1.0) ** -0.5
        return shares / shares.sum()

    @cached_property
    def topic_sizes(self) -> np.ndarray:
        """Items of each topic, int64 (C,)."""
        return (self.num_items - np.arange(self.num_topics) + self.num_topics - 1) // self.num_topics

    @cached_property
    def _running(self) -> np.ndarray:
        """Running totals of the Zipf weights of the largest topic, float64 (⌈N / C⌉,)."""
        return np.cumsum((np.arange(self.topic_sizes[0]) + self.zipf_shift) ** -self.zipf_exponent)

    @cached_property
    def _topic_totals(self) -> np.ndarray:
        """W, float64 (C,)."""
        return self._running[self.topic_sizes - 1]

    def within_topic(self, items: np.ndarray) -> np.ndarray:
        """w_r / W_c of model items, float64."""
        topic, rank = items % self.num_topics, items // self.num_topics
        return (rank + self.zipf_shift) ** -self.zipf_exponent / self._topic_totals[topic]

    @cached_property
    def directions(self) -> np.ndarray:
        """t, float64 (C, latent_dim), rows of unit length."""
        normal = numpy_generator(self.seed, "planted directions").normal(size=(self.num_topics, self.latent_dim))
        return normal / np.linalg.norm(normal, axis=1, keepdims=True)

    def block_topics(self, block: int) -> np.ndarray:
        """θ of a block's queries, float64 (B, C), rows sum to 1."""
        low, high = self.block_range(block)
        tastes = numpy_generator(self.seed, "planted tastes", block).normal(size=(high - low, self.latent_dim))
        weights = np.exp(self.sharpness * tastes @ self.directions.T) * self.topic_shares
        return weights / weights.sum(axis=1, keepdims=True)

    def topic_weights(self, query_ids: np.ndarray) -> np.ndarray:
        """θ of these queries, float64 (B, C), rows sum to 1."""
        weights = np.empty((len(query_ids), self.num_topics))
        blocks = query_ids // QUERIES_PER_BLOCK
        for block in np.unique(blocks):
            rows = np.flatnonzero(blocks == block)
            weights[rows] = self.block_topics(int(block))[query_ids[rows] - int(block) * QUERIES_PER_BLOCK]
        return weights

    def probabilities(self, query_ids: np.ndarray) -> np.ndarray:
        """P(· | q) over model items, float64 (B, N), rows sum to 1. For small N."""
        items = np.arange(self.num_items)
        return self.topic_weights(query_ids)[:, items % self.num_topics] * self.within_topic(items)

    def log_probability(self, query_ids: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Logarithm of P of (query, model item), elementwise, float64 (B,)."""
        weights = self.topic_weights(query_ids)[np.arange(len(query_ids)), items % self.num_topics]
        return np.log(weights) + np.log(self.within_topic(items))

    def lengths(self, block: int) -> np.ndarray:
        """Pairs of each query of a block, int64 (B,): 4 at least where the mean allows, log-normal above that.

        Blocks share ``pairs`` by their number of queries, so all blocks together have exactly that many.
        """
        low, high = self.block_range(block)
        total = self.pairs * high // self.num_queries - self.pairs * low // self.num_queries
        least, most = min(4, self.pairs // self.num_queries), self.num_items // 2
        generator = numpy_generator(self.seed, "planted lengths", block)
        appetite = generator.lognormal(sigma=LENGTH_SPREAD, size=high - low)
        lengths = least + np.floor((total - least * (high - low)) * appetite / appetite.sum()).astype(np.int64)
        np.minimum(lengths, most, out=lengths)
        while (missing := total - int(lengths.sum())) > 0:
            open_rows = np.flatnonzero(lengths < most)
            lengths[open_rows[:missing]] += 1
        return lengths

    def draw(self, query_ids: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """One model item for each query from P(· | q), int64 (B,), independent of each other."""
        queries, rows = np.unique(query_ids, return_inverse=True)
        return self._draw(_topic_bounds(self.topic_weights(queries)), rows, generator)

    def sample_block(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """All pairs of a block of queries: lengths int64 (B,), and model items in the order of drawing, flat.

        Each query's items are drawn one after another from P, passing over what it has already. When that gets slow,
        the rest is drawn exactly from all items; with many items drawing on, ever more at a time, costs less.
        """
        bounds = _topic_bounds(self.block_topics(block))
        generator = numpy_generator(self.seed, "planted pairs", block)
        lengths = self.lengths(block)
        rows, items = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        missing, done = lengths.copy(), []
        for attempt in range(REJECTION_ROUNDS if self.num_items <= EXACT_CELLS else MANY_ROUNDS):
            more = np.minimum(missing << max(attempt - REJECTION_ROUNDS, 0), MOST_DRAWS)
            again = np.repeat(np.arange(len(lengths)), np.where(missing > 0, missing + more // 4 + 2, 0))
            fresh = self._draw(bounds, again, generator)
            rows, items = first_distinct(np.concatenate([rows, again]), np.concatenate([items, fresh]), lengths)
            missing[again] = lengths[again] - np.bincount(rows, minlength=len(lengths))[again]
            left = missing[rows] > 0
            done.append((rows[~left], items[~left]))
            rows, items = rows[left], items[left]
            if not missing.any():
                break
        rows, items = (np.concatenate(parts) for parts in zip(*done, (rows, items), strict=True))
        grouped = np.argsort(rows, kind="stable")
        rows, items = rows[grouped], items[grouped]
        if missing.any():
            rows, items = self._complete(block, rows, items, missing, generator)
        return lengths, items

    def _draw(self, bounds: np.ndarray, rows: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """A model item for each of these rows: its topic, then its rank, by inverse distribution functions."""
        pick, place = generator.random(len(rows)), generator.random(len(rows))
        cell = np.searchsorted(bounds.ravel(), rows + pick, side="right")
        topic = np.clip(cell - rows * self.num_topics, 0, self.num_topics - 1)
        rank = np.searchsorted(self._running, place * self._topic_totals[topic], side="right")
        return np.minimum(rank, self.topic_sizes[topic] - 1) * self.num_topics + topic

    def _complete(
        self, block: int, rows: np.ndarray, items: np.ndarray, missing: np.ndarray, generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Go on drawing, exactly, where favourites are nearly used up: the smallest of Exp(1) / P come first."""
        low, short = self.block_range(block)[0], np.flatnonzero(missing)
        step = max(1, EXACT_CELLS // self.num_items)
        for start in range(0, len(short), step):
            chunk = short[start : start + step]
            clocks = generator.exponential(size=(len(chunk), self.num_items)) / self.probabilities(low + chunk)
            place = np.full(len(missing), -1)
            place[chunk] = np.arange(len(chunk))
            have = place[rows] >= 0
            clocks[place[rows[have]], items[have]] = np.inf
            wanted = np.arange(self.num_items) < missing[chunk][:, None]
            rows = np.concatenate([rows, np.repeat(chunk, missing[chunk])])
            items = np.concatenate([items, np.argsort(clocks, axis=1)[wanted]])
        order = np.argsort(rows, kind="stable")
        return rows[order], items[order]


def _topic_bounds(theta: np.ndarray) -> np.ndarray:
    """Running totals of each row of θ, row r's from r to r + 1: one rising list of all of them."""
    bounds = np.cumsum(theta, axis=1)
    bounds[:, -1] = 1.0
    bounds += np.arange(len(theta))[:, None]
    return bounds


def first_distinct(rows: np.ndarray, items: np.ndarray, limits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Grouped by row, each row's first ``limits[row]`` different items in their order.

    >>> rows, items = first_distinct(np.array([1, 0, 1, 1, 1]), np.array([5, 3, 5, 2, 7]), np.array([1, 2]))
    >>> rows.tolist(), items.tolist()
    ([0, 1, 1], [3, 5, 2])
    """
    grouped = np.argsort(rows, kind="stable")
    rows, items = rows[grouped], items[grouped]
    order = stable_order(rows, items)
    again = (rows[order][1:] == rows[order][:-1]) & (items[order][1:] == items[order][:-1])
    keep = np.ones(len(rows), dtype=bool)
    keep[order[1:][again]] = False
    rows, items = rows[keep], items[keep]
    starts = np.zeros(len(limits) + 1, dtype=np.int64)
    np.cumsum(np.bincount(rows, minlength=len(limits)), out=starts[1:])
    inside = np.arange(len(rows)) - starts[rows] < limits[rows]
    return rows[inside], items[inside]
