"""Hierarchical softmax: an item's probability is the product of the choices on its way from the root of a tree.

Source: Morin & Bengio 2005, "Hierarchical probabilistic neural network language model"; Mikolov et al. 2013 (Huffman).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from xclass.embeddings.interface import Table
from xclass.errors import InputError
from xclass.heads.interface import Asked, Head, SearchedBy, target_shares, targets_of
from xclass.heads.tree.beam_search import VECTORS_AT_ONCE, Beam, Found, HiddenLeaves, allowed_nodes, widening_search
from xclass.heads.tree.path_loss import path_loss, step_losses
from xclass.heads.tree.tree import Paths, Tree
from xclass.index.filtering import Hidden
from xclass.index.topk_lists import best_first
from xclass.types import Batch, Ragged, Rows, TopK

NODES = "node"


class PathPlan(NamedTuple):
    """The paths to a batch's targets."""

    paths: Paths

    def to(self, device: torch.device) -> PathPlan:
        """The same on another device."""
        return PathPlan(self.paths.to(device))


class HierarchicalHead(Head):
    """A tree whose choices are softmaxes over node vectors: table "node", N − 1 rows for any arity.

    log P(i | q) = Σ over the path of x_taken − log(1 + Σ_c e^{x_c}), with x_c = ⟨q, v_c⟩ / temperature for the children
    that have a vector and 0 for the first. The loss of a query is the weighted mean of −log P over its targets.

    Args:
        tree: over N leaves.
        dim: D.
        leaf_of: int64 or int32 (N,), the leaf of each item, a permutation; None where item i is leaf i.
        temperature: logits are divided by it.
        beam: how many nodes of a level a search keeps.

    Cost of an example O(depth · arity · D), nothing of the catalogue's size; of one item's probability the same.
    """

    searched_by: SearchedBy = "beam"
    item_of: Tensor | None
    leaf_of: Tensor | None

    def __init__(
        self, tree: Tree, dim: int, leaf_of: Tensor | None = None, temperature: float = 1.0, beam: int = 64
    ) -> None:
        super().__init__()
        self.num_items, self.dim = tree.num_leaves, dim
        if not temperature > 0 or beam < 1:
            raise InputError("temperature or beam is out of range", wanted="> 0, ≥ 1", got=f"{temperature}, {beam}")
        self.tree, self.temperature, self.beam = tree, temperature, beam
        item_of = None if leaf_of is None else torch.empty_like(leaf_of)
        if leaf_of is not None and item_of is not None:
            item_of[leaf_of.long()] = torch.arange(len(leaf_of), dtype=leaf_of.dtype)
        self.register_buffer("leaf_of", leaf_of)
        self.register_buffer("item_of", item_of)

    def check_loaded(self) -> None:
        """The order of the leaves must be a permutation: compiled loops follow it."""
        if self.leaf_of is None or self.item_of is None:
            return
        numbers = torch.arange(self.num_items)
        inside = all(bool(((order >= 0) & (order < self.num_items)).all()) for order in (self.leaf_of, self.item_of))
        if not inside or not torch.equal(self.item_of[self.leaf_of.long()].long(), numbers):
            raise InputError("the leaves of this tree are in no order", wanted="each item at one leaf")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> HierarchicalHead:
        """Nothing moves: paths are found where batches are prepared, on the CPU."""
        return self

    def plan(self, batch: Batch, generator: torch.Generator) -> PathPlan:
        """The paths; nothing is drawn."""
        return PathPlan(self.tree.paths(self._leaves(targets_of(batch).values)))

    def requests(self, batch: Batch, plan: PathPlan) -> dict[str, dict[str, Tensor]]:
        """The vectors of every choice on the way to a target."""
        return {NODES: {"path": plan.paths.vectors(self.tree.arity - 1).flatten()}}

    def loss(self, query_BD: Tensor, batch: Batch, plan: PathPlan, rows: dict[str, Rows]) -> Tensor:
        """(B,) loss of each query times its weight in the batch. Cost O(P · depth · arity · D)."""
        positives = targets_of(batch)
        owners = positives.rows()
        share = target_shares(batch, owners, query_BD.new_empty(len(owners)))
        nodes = rows[NODES]
        places = nodes.positions["path"].view(len(plan.paths.first), -1)
        scaled = query_BD if self.temperature == 1 else query_BD / self.temperature
        return path_loss(scaled, nodes.values, positives.offsets, plan.paths, places, share)

    def _search(self, query_BD: Tensor, tables: dict[str, Table], asked: Asked) -> TopK:
        """By beam search; scores are log-probabilities.

        What a query must not get costs it no place in its beam: excluded leaves are passed over, and a node without
        an allowed leaf below is not entered. ``exact`` widens the beam until nothing can be missing.
        """
        scaled, k = (query_BD.cpu() / self.temperature).float(), min(asked.k, self.num_items)
        rows, items = Hidden(asked.exclude, len(scaled), self.num_items).pairs()
        hidden = HiddenLeaves(rows, self._leaves(items), self.num_items)
        nodes = None if asked.allowed is None else allowed_nodes(self.tree, self._leaves(asked.allowed))
        table = tables[NODES]
        beam = Beam(self.tree, functools.partial(_pulled, table), hidden, nodes, _as_they_lie(table))
        return self._lists(widening_search(beam, scaled, k, max(self.beam, k), self.num_items, asked.exact))

    @torch.no_grad()
    def log_probability(self, query_BD: Tensor, items: Ragged, tables: dict[str, Table]) -> Tensor:
        """(M,) log P of each listed item. Cost O(M · depth · arity · D)."""
        scaled, owners = query_BD.cpu() / self.temperature, items.rows()
        found = torch.zeros(len(owners))
        width = self.tree.arity - 1
        for some in torch.arange(len(owners)).split(max(VECTORS_AT_ONCE // (width * 32), 1)):
            paths = self.tree.paths(self._leaves(items.values[some].long()))
            vectors = _pulled(tables[NODES], paths.vectors(width).flatten()).view(len(paths.first), width, -1)
            step = paths.rows()
            losses = step_losses(scaled[owners[some][step]].float(), vectors, paths)
            found[some] = found[some].index_add(0, step, -losses)
        return found

    def _leaves(self, items: Tensor) -> Tensor:
        return items if self.leaf_of is None else self.leaf_of[items].long()

    def _items(self, leaves: Tensor) -> Tensor:
        return leaves if self.item_of is None else self.item_of[leaves].long()

    def _lists(self, found: Found) -> TopK:
        items = torch.where(found.leaves < 0, -1, self._items(found.leaves.clamp(min=0)))
        return TopK.from_padded(*best_first(items, found.scores))


def _pulled(table: Table, ids: Tensor) -> Tensor:
    return table.pull(ids.to(table.device)).cpu()


def _as_they_lie(table: Table) -> Tensor | None:
    """The rows themselves where nothing stands between them and what pull gives."""
    weight = table.weight
    plain = weight.device.type == "cpu" and weight.dtype == torch.float32 and weight.is_contiguous()
    return weight if plain and "decayed" not in table.tensors() else None
