"""An order of the items in which every part of a balanced tree holds items that are alike: k-means by halving.

Source: Prabhu et al. 2018, "Parabel", §4.1: balanced spherical 2-means.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from xclass.heads.tree.tree import cuts
from xclass.runtime.jit import compiles
from xclass.runtime.progress import Progress
from xclass.runtime.rng import torch_generator
from xclass.runtime.threads import in_parts
from xclass.types import Ragged

ROUNDS = 6  # of 2-means in each halving
BLOCK_ROWS = 1 << 16
PART_ITEMS = 1 << 12  # less than this for each thread is not worth waking it


def clustered_leaves(vectors_ND: Tensor, arity: int, seed: int) -> Tensor:
    """Int64 (N,), the leaf of each item in a balanced tree of this arity.

    A node's items are cut into ``arity`` parts by halving: the items that lean most to the first of two centres go to
    the first half, as many as its leaves, and the centres become the halves' means; items keep their order within a
    half. All nodes of a level at once, or one after the other in a compiled loop.

    Args:
        vectors_ND: one vector an item; directions count, lengths don't. A zero vector is no nearer to any centre.
        arity: of the tree.
        seed: of the first centres.

    Cost O(rounds · N · D · log N); memory 4·N·D bytes, and in the plain form as much again.
    """
    unit = functional.normalize(vectors_ND.float(), dim=1)
    order, generator = torch.arange(len(unit)), torch_generator(seed, "clusters")
    nodes = _nodes(torch.tensor([[0, len(unit)]]), arity)
    with Progress("cluster items", None, "halvings") as progress:
        while len(nodes):
            middle = (nodes[:, 3] + nodes[:, 4]) // 2
            low, cut, high = (_place(nodes, turn) for turn in (nodes[:, 3], middle, nodes[:, 4]))
            _halve(order, unit, low, cut, high, generator)
            halves = torch.cat([nodes, nodes])
            halves[: len(nodes), 4], halves[len(nodes) :, 3] = middle, middle
            whole = halves[:, 4] - halves[:, 3] == 1
            ends = torch.stack([_place(halves, halves[:, 3]), _place(halves, halves[:, 4])], 1)[whole]
            nodes = torch.cat([halves[~whole], _nodes(ends[ends[:, 1] - ends[:, 0] > 1], arity)])
            progress.advance(1)
    leaf_of = torch.empty_like(order)
    leaf_of[order] = torch.arange(len(order))
    return leaf_of


def feature_vectors(features: Ragged, num_features: int, dim: int, seed: int) -> Tensor:
    """(N, dim): the sum of an item's features, each a random normal vector times its weight.

    Inner products of such vectors are those of the features up to a random error of size 1/√dim (Johnson and
    Lindenstrauss). Memory 4 · dim · (N + features) bytes.
    """
    table = torch.randn(num_features, dim, generator=torch_generator(seed, "cluster features"))
    bags = torch.empty(len(features), dim)
    for start in range(0, len(features), BLOCK_ROWS):
        some = features.slice(start, min(start + BLOCK_ROWS, len(features))).long()
        bags[start : start + len(some)] = functional.embedding_bag(
            some.values, table, some.offsets[:-1], mode="sum", per_sample_weights=some.weights
        )
    return bags


def _nodes(ranges: Tensor, arity: int) -> Tensor:
    """(J, 5): first leaf, leaves, parts, and the parts from … to that are not cut apart yet."""
    sizes = ranges[:, 1] - ranges[:, 0]
    parts = sizes.clamp(max=arity)
    return torch.stack([ranges[:, 0], sizes, parts, torch.zeros_like(parts), parts], 1)


def _place(nodes: Tensor, turn: Tensor) -> Tensor:
    """The leaf at which part ``turn`` begins."""
    place: Tensor = nodes[:, 0] + cuts(nodes[:, 1], nodes[:, 2], turn)
    return place


def _halve(order: Tensor, unit: Tensor, low: Tensor, cut: Tensor, high: Tensor, generator: torch.Generator) -> None:
    """Reorder the places low … high−1 of each range so that its two halves are two clusters."""
    one, other = (low + (torch.rand(len(low), generator=generator) * (high - low)).long() for _ in range(2))
    if not compiles():
        _halve_plainly(order, unit, low, cut, high, one, other)
        return
    from xclass.heads.tree import _numba_cluster

    ranges = [tensor.numpy() for tensor in (low, cut, high, one, other)]
    arrays = order.numpy(), unit.numpy()

    def part(start: int, stop: int) -> None:
        _numba_cluster.halve(*arrays, *(each[start:stop] for each in ranges), ROUNDS)

    in_parts(part, len(low), min(len(low), len(order) // PART_ITEMS), order.device)


def _halve_plainly(
    order: Tensor, unit: Tensor, low: Tensor, cut: Tensor, high: Tensor, one: Tensor, other: Tensor
) -> None:
    sizes = high - low
    owner = torch.repeat_interleave(torch.arange(len(low)), sizes)
    within = torch.arange(len(owner)) - torch.repeat_interleave(torch.cumsum(sizes, 0) - sizes, sizes)
    places = low[owner] + within
    first = within < (cut - low)[owner]
    items = order[places]
    lean = unit[order[one]] - unit[order[other]]
    for turn in range(ROUNDS):
        pieces = torch.arange(len(items)).split(BLOCK_ROWS)
        scores = torch.cat([torch.linalg.vecdot(unit[items[some]], lean[owner[some]]) for some in pieces])
        by_score = torch.argsort(scores, descending=True, stable=True)
        ranked = by_score[torch.argsort(owner[by_score], stable=True)]
        second = torch.empty_like(first)
        second[ranked] = ~first
        halved = items[torch.argsort(2 * owner + second, stable=True)]
        if turn and torch.equal(halved, items):
            break
        items = halved
        lean = _means(unit, items[first], owner[first], len(low)) - _means(unit, items[~first], owner[~first], len(low))
    order[places] = items


def _means(unit: Tensor, items: Tensor, owner: Tensor, count: int) -> Tensor:
    """(count, D) directions of the sums of each owner's vectors."""
    sums = torch.zeros(count, unit.shape[1])
    for some in torch.arange(len(items)).split(BLOCK_ROWS):
        sums.index_add_(0, owner[some], unit[items[some]])
    return functional.normalize(sums, dim=1)
