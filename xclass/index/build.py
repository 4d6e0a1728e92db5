"""The seam, and the one table of its kinds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from xclass.config import Config
from xclass.errors import ConfigError, lookup
from xclass.index.exact import ExactIndex
from xclass.index.faiss.factory import builds, faiss_installed
from xclass.index.faiss.index import FaissIndex
from xclass.index.lsh.families import family_builds
from xclass.index.lsh.index import HashIndex
from xclass.types import Ragged, TopK
from xclass.types.vectors import Vectors, as_vectors

AUTO_EXACT_ITEMS = 100_000
HASHED = ("lsh", "wta")
AUTO_KINDS = ("fastscan", "hnsw")


class Index(Protocol):
    """Item vectors, searched by inner product: higher is better.

    ``search`` returns at most k distinct items per query, best first, with their inner products (float32), equal
    scores by rising item number; never an excluded, repeated or padded item. A list is short only when fewer than k
    items are left. int64 item numbers.
    """

    kind: str
    queries_at_once: int
    """As many queries in one search as are worth waiting for: beyond that a query costs no less."""

    @property
    def num_items(self) -> int:
        """N, 0 before build."""

    @property
    def dim(self) -> int:
        """D."""

    @property
    def vectors(self) -> Vectors:
        """The item vectors as given."""

    def build(self, vectors: Tensor | Vectors) -> None:
        """Index (N,D) vectors, row number = item number; NaN or infinity is an InputError."""

    def search(self, query_BD: Tensor, k: int, exclude: Ragged | None = None) -> TopK:
        """The best k items of each query, without ``exclude[b]``."""

    def describe(self) -> dict[str, Any]:
        """Kind, factory, metric and search parameter, for manifests and tables."""


class IndexConfig(Config):
    """How to index the item vectors."""

    kind: str = "auto"
    """exact, flat, hnsw, ivf, ivfpq, sq, fastscan, lsh, wta, factory; auto: exact up to 100,000 items, above fastscan,
    and hnsw where that does not reach the target."""
    factory: str | None = None
    """A Faiss factory string, for the kind factory; tables like LSH16x16 or WTA16x4of16 for lsh and wta."""
    metric: str = "inner_product"
    """inner_product, or l2_augmented for index types that only know L2."""
    deterministic: bool = False
    """Build on one thread, so that the same vectors give the same index."""


def _faiss(config: IndexConfig) -> Index:
    return FaissIndex(config.kind, config.factory, config.metric, config.deterministic)


def _hashed(config: IndexConfig) -> Index:
    return HashIndex(config.kind, config.factory)


INDEX_KINDS: dict[str, Callable[[IndexConfig], Index]] = {
    "exact": lambda config: ExactIndex(),
    "flat": _faiss,
    "hnsw": _faiss,
    "ivf": _faiss,
    "ivfpq": _faiss,
    "sq": _faiss,
    "fastscan": _faiss,
    "lsh": _hashed,
    "wta": _hashed,
    "factory": _faiss,
}


def choose_kind(kind: str, num_items: int) -> str:
    """``kind`` itself; "auto" is exact for at most 100,000 items or where Faiss is not installed, else fastscan."""
    if kind != "auto":
        return kind
    return "exact" if num_items <= AUTO_EXACT_ITEMS or not faiss_installed() else AUTO_KINDS[0]


def resolved(config: IndexConfig, num_items: int) -> IndexConfig:
    """With a kind of the table instead of "auto".

    Raises:
        ConfigError: an unknown kind (with the nearest); a factory string missing, or with a kind that takes none.
    """
    kind = choose_kind("factory" if config.kind == "auto" and config.factory else config.kind, num_items)
    lookup("index kind", kind, INDEX_KINDS, where="index.kind")
    if kind not in HASHED and (kind == "factory") != (config.factory is not None):
        do = "pass a factory string with the kind factory, lsh or wta, and only with these"
        raise ConfigError("kind and factory do not fit", where="index.factory", got=f"{kind}, {config.factory}", do=do)
    return config.model_copy(update={"kind": kind})


def candidates(config: IndexConfig, num_items: int, dim: int) -> list[IndexConfig]:
    """Every build that is worth trying for this configuration and size, the likeliest first, for :func:`built`."""
    chosen = resolved(config, num_items)
    kinds = AUTO_KINDS if config.kind == "auto" and chosen.kind == AUTO_KINDS[0] else (chosen.kind,)
    if chosen.kind == "exact" or chosen.factory is not None:
        return [chosen]
    return [
        chosen.model_copy(update={"kind": kind, "factory": factory})
        for kind in kinds
        for factory in (family_builds if kind in HASHED else builds)(kind, num_items, dim)
    ]


def build_index(vectors: Tensor | np.ndarray | Vectors, config: IndexConfig | None = None) -> Index:
    """An index of this kind over ``vectors`` (N,D): a tensor, a NumPy array or a source.

    Raises:
        ConfigError: an unknown kind (with the nearest), a factory string missing or of no use, Faiss not installed.
        InputError: vectors of the wrong shape, NaN or infinity.
    """
    vectors = as_vectors(vectors)
    return built(vectors, resolved(config or IndexConfig(), len(vectors)))


def built(vectors: Tensor | Vectors, config: IndexConfig) -> Index:
    """The index that a resolved configuration or one of its :func:`candidates` names, over ``vectors``."""
    index = INDEX_KINDS[config.kind](config)
    index.build(vectors)
    return index
