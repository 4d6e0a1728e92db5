"""Heads with tables of their own, from their configuration and what they must know of the catalogue."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from xclass.errors import ConfigError
from xclass.heads.banded.adaptive import AdaptiveHead
from xclass.heads.banded.bands import band_edges
from xclass.heads.banded.differentiated import DifferentiatedHead
from xclass.heads.config import HeadConfig
from xclass.heads.interface import Head
from xclass.heads.tree.clustering import clustered_leaves
from xclass.heads.tree.head import HierarchicalHead
from xclass.heads.tree.tree import balanced_tree, huffman_tree
from xclass.runtime.rng import torch_generator
from xclass.towers.characters import CharacterCnn
from xclass.towers.item_texts import TextEncoder


class KnownItems(NamedTuple):
    """What heads are built from.

    num_items, dim: N, and D of the query vectors.
    item_counts: gives (N,) train pairs of each item.
    vectors: gives (N, any) vectors of the items to cluster by; None where the clusters will be loaded.
    seed: of the clusters and of first weights.
    """

    num_items: int
    dim: int
    item_counts: Callable[[], Tensor]
    vectors: Callable[[], Tensor] | None
    seed: int


def build_head(config: HeadConfig, known: KnownItems, temperature: float) -> Head:
    """The head that a configuration names; not for kind = "dot" or "cnn", which have sampler and loss.

    Raises:
        ConfigError: fewer than two items, or fewer items than bands.
    """
    if known.num_items < 2:
        raise ConfigError("this head needs two items or more", where="head.kind", got=known.num_items)
    makers: dict[str, Callable[[], Head]] = {
        "hierarchical": lambda: _hierarchical(config, known, temperature),
        "differentiated": lambda: DifferentiatedHead(_edges(config, known), config.dims, temperature),
        "adaptive": lambda: AdaptiveHead(
            _edges(config, known), known.dim, config.dims, temperature, torch_generator(known.seed, "adaptive")
        ),
    }
    return makers[config.kind]()


def build_encoder(config: HeadConfig, dim: int, generator: torch.Generator) -> TextEncoder:
    """The network that makes item vectors of texts, for kind = "cnn"."""
    cnn = CharacterCnn(dim, config.symbol_dim, config.filters, config.highway, generator)
    return TextEncoder(cnn, config.correction, generator)


def _edges(config: HeadConfig, known: KnownItems) -> list[int]:
    return band_edges(known.num_items, config.cuts)


def _hierarchical(config: HeadConfig, known: KnownItems, temperature: float) -> HierarchicalHead:
    if config.tree == "huffman":
        return HierarchicalHead(
            huffman_tree(known.item_counts(), config.arity), known.dim, None, temperature, config.beam
        )
    tree, leaf_of = balanced_tree(known.num_items, config.arity), None
    if config.tree == "clustered":
        found = torch.arange(known.num_items)
        if known.vectors is not None:
            found = clustered_leaves(known.vectors(), config.arity, known.seed)
        leaf_of = found.to(tree.parent.dtype)
    return HierarchicalHead(tree, known.dim, leaf_of, temperature, config.beam)
