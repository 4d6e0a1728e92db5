"""Trees over the catalogue as flat arrays: balanced, and by Huffman's algorithm; paths without a loop over nodes.

An inner node with c children is a choice among c, made by a softmax over c − 1 vectors: the first child's logit is 0.
So every tree over N items has N − 1 vectors, whatever its arity, and a choice between two is a sigmoid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from xclass.errors import InputError
from xclass.heads.tree.huffman import merge
from xclass.runtime.jit import compiles
from xclass.types import offsets_of


class Paths(NamedTuple):
    """The choices on the way from the root to some leaves, as lists: path p is steps ``offsets[p]`` … , bottom first.

    first: int64 (L,), the first vector of the step's node.
    number: int64 (L,), how many vectors the node has: its children less one.
    which: int64 (L,), the child that is taken, 0 for the one without a vector.
    """

    offsets: Tensor
    first: Tensor
    number: Tensor
    which: Tensor

    def rows(self) -> Tensor:
        """int64 (L,), the path of each step."""
        return torch.repeat_interleave(
            torch.arange(len(self.offsets) - 1, device=self.offsets.device),
            self.offsets.diff(),
            output_size=len(self.first),
        )

    def vectors(self, width: int) -> Tensor:
        """int64 (L, width), the vectors of each step; where a node has fewer its last one is repeated."""
        if width == 1:
            return self.first[:, None]
        places = torch.arange(width, device=self.first.device)
        return self.first[:, None] + torch.minimum(places, self.number[:, None] - 1)

    def to(self, device: torch.device) -> Paths:
        """The same on another device."""
        return Paths(*(tensor.to(device) for tensor in self))


@dataclass(frozen=True, slots=True, eq=False)
class Tree:
    """Leaves are nodes 0 … N−1, inner nodes N … N+J−1, the root N. Int32 where numbers fit.

    arity: the most children of a node.
    offsets: (J+1,), where the children of each inner node begin.
    children: (N+J−1,), node numbers.
    parent: (N+J,), number of the inner node above (0 for the root's children); −1 for the root.
    place: (N+J,), where the node stands in ``children``; −1 for the root.

    Inner node j has the vectors offsets[j] − j … offsets[j+1] − j − 2.
    """

    arity: int
    offsets: Tensor
    children: Tensor
    parent: Tensor
    place: Tensor

    @property
    def num_leaves(self) -> int:
        """N."""
        return len(self.parent) - len(self.offsets) + 1

    def paths(self, leaves: Tensor) -> Paths:
        """The paths of leaves, int64 (P,). Cost O(total length), in one pass for each level or one compiled loop."""
        if leaves.device.type == "cpu" and compiles():
            return self._compiled_paths(leaves)
        node, owner = leaves, torch.arange(len(leaves), device=leaves.device)
        steps = []
        while len(node):
            above, place = self.parent[node].long(), self.place[node].long()
            start, stop = self.offsets[above].long(), self.offsets[above + 1].long()
            steps.append((owner, start - above, stop - start - 1, place - start))
            up = above > 0
            node, owner = above[up] + self.num_leaves, owner[up]
        owners, first, count, which = (
            (torch.cat(parts) for parts in zip(*steps, strict=True)) if steps else [leaves] * 4
        )
        order = torch.argsort(owners, stable=True)
        offsets = offsets_of(torch.bincount(owners, minlength=len(leaves)))
        return Paths(offsets, first[order], count[order], which[order])

    def _compiled_paths(self, leaves: Tensor) -> Paths:
        from xclass.heads.tree import _numba_tree

        arrays = [tensor.numpy() for tensor in (self.offsets, self.parent, self.place)]
        offsets = torch.zeros(len(leaves) + 1, dtype=torch.int64)
        steps = _numba_tree.paths(leaves.numpy(), self.num_leaves, *arrays, offsets.numpy())
        return Paths(offsets, *torch.from_numpy(steps))

    def lengths(self) -> Tensor:
        """int64 (N,), choices on the way to each leaf: the length of its code. Cost O(N · depth)."""
        return self.paths(torch.arange(self.num_leaves)).offsets.diff()


def balanced_tree(num_leaves: int, arity: int) -> Tree:
    """Every node's leaves are cut into ``arity`` consecutive parts that differ by one leaf at most: depth ⌈log_a N⌉.

    Cost O(N) in one pass for each level.
    """
    _check(num_leaves, arity)
    low, high, up = np.array([0]), np.array([num_leaves]), np.array([-1])
    parents, ranges, first = [], [], 0
    while len(low):  # a level of nodes with two leaves or more
        sizes = high - low
        parts = np.minimum(sizes, arity)
        owner = np.repeat(np.arange(len(low)), parts)
        turn = np.arange(len(owner)) - np.repeat(np.cumsum(parts) - parts, parts)
        cut = low[owner] + cuts(sizes[owner], parts[owner], turn)
        end = low[owner] + cuts(sizes[owner], parts[owner], turn + 1)
        parents.append(up)
        ranges.append((first + owner, cut, end))
        first += len(low)
        inner = end - cut > 1
        low, high, up = cut[inner], end[inner], (first - len(sizes) + owner)[inner]
    owner, cut, end = (np.concatenate([level[i] for level in ranges]) for i in range(3))
    above, leaf = np.empty(num_leaves + first, np.int64), end - cut == 1
    above[cut[leaf]] = owner[leaf]
    above[num_leaves:] = np.concatenate(parents)
    return _from_parents(above, num_leaves, arity)


def cuts(sizes: Any, parts: Any, turn: Any) -> Any:
    """Where part number ``turn`` of ``parts`` even ones begins in a range of ``sizes`` leaves."""
    return sizes * turn // parts


def huffman_tree(counts: Tensor, arity: int) -> Tree:
    """The tree with the shortest mean path when leaves come as often as ``counts`` (N,) say.

    The ``arity`` rarest trees become one, again and again; the first time so few that the root is full. With two
    children the mean length is between the entropy of the counts in bits and one more. Equal counts: leaves before
    inner nodes, the later leaf first. Cost O(N log N) for sorting, then O(N).

    Source: Huffman 1952, "A method for the construction of minimum-redundancy codes".
    """
    _check(len(counts), arity)
    rising = torch.argsort(counts.flip(0), stable=True)
    order = (len(counts) - 1 - rising).numpy()
    above = _merged(counts.long().numpy()[order], arity)
    num_leaves, inner = len(order), len(above) - len(order)
    found = np.empty_like(above)
    found[order] = above[:num_leaves]
    found[num_leaves:] = above[num_leaves:][::-1]
    found = np.where(found < 0, -1, inner - 1 - found)  # the last one made is the root
    return _from_parents(found, num_leaves, arity)


def _merged(weights: np.ndarray, arity: int) -> np.ndarray:
    inner = -(-(len(weights) - 1) // (arity - 1))
    above = np.full(len(weights) + inner, -1, np.int64)
    if compiles():
        from xclass.heads.tree import _numba_tree

        _numba_tree.merge(weights, arity, np.empty(inner, np.int64), above)
        return above
    plain = above.tolist()
    merge(weights.tolist(), arity, [0] * inner, plain)
    return np.array(plain, np.int64)


def _from_parents(above: np.ndarray, num_leaves: int, arity: int) -> Tree:
    """A tree from the inner node above each node, −1 for the root."""
    nodes = np.delete(np.arange(len(above)), num_leaves)
    children = nodes[np.argsort(above[nodes], kind="stable")]
    counts = np.bincount(above[nodes], minlength=len(above) - num_leaves)
    place = np.full(len(above), -1, np.int64)
    place[children] = np.arange(len(children))
    kind = torch.int32 if len(above) < 1 << 31 else torch.int64
    offsets = offsets_of(torch.from_numpy(counts))
    held = [torch.from_numpy(each).to(kind) for each in (children, above, place)]
    return Tree(arity, offsets.to(kind), *held)


def _check(num_leaves: int, arity: int) -> None:
    if num_leaves < 2:
        raise InputError("a tree needs two items or more", got=num_leaves)
    if arity < 2:
        raise InputError("arity is out of range", wanted="an integer of at least 2", got=arity)
