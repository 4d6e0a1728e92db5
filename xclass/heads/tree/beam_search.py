"""The most probable leaves of a tree by beam search, with a proof of exactness where there is one."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from xclass.heads.tree.tree import Tree
from xclass.runtime.jit import compiles
from xclass.runtime.threads import in_parts

VECTORS_AT_ONCE = 1 << 18
PART_NUMBERS = 1 << 16  # less than this for each thread is not worth waking it
GathersRows = Callable[[Tensor], Tensor]
"""int64 (M,) → float32 (M, D)."""


class Found(NamedTuple):
    """leaves: int64 (B, k), −1 where there is none. scores: (B, k), log-probabilities, falling.

    lost: (B,), the log-probability of the likeliest node that was let go of for lack of room: where it is below the
    last score, no leaf is missing.
    """

    leaves: Tensor
    scores: Tensor
    lost: Tensor

    @property
    def is_exact(self) -> Tensor:
        """Bool (B,)."""
        return (self.lost < self.scores[:, -1]) | (self.lost == -torch.inf)


class HiddenLeaves:
    """Leaves that queries must not get, as sorted keys.

    Args:
        rows, leaves: int64 (M,), pairs of a query's number and a leaf.
        num_leaves: N.
    """

    def __init__(self, rows: Tensor, leaves: Tensor, num_leaves: int) -> None:
        self.num_leaves = num_leaves
        self.keys = torch.sort(rows * num_leaves + leaves).values

    def contains(self, rows: Tensor, leaves: Tensor) -> Tensor:
        """Bool (M,)."""
        if not len(self.keys):
            return torch.zeros_like(leaves, dtype=torch.bool)
        keys = rows * self.num_leaves + leaves
        return self.keys[torch.searchsorted(self.keys, keys).clamp_(max=len(self.keys) - 1)] == keys


class Beam:
    """Searches one tree.

    Args:
        tree: over N leaves.
        rows: gathers vectors.
        hidden: leaves that a query must not get.
        allowed: bool (N+J,), the nodes with a leaf that may come out; None for all.
        weight: float32 (N−1, D) on the CPU, the vectors themselves where they lie there as ``rows`` gives them.

    Going down, a node's log-probability is its parent's plus that of the choice, so it bounds every leaf below it. Per
    level the ``width`` likeliest inner nodes are kept, and those that are worse than k leaves already found are
    dropped, which loses nothing.

    Cost: O(B · width · arity · D) a level. Memory: of the plain form 64 MiB or so for 64 dimensions, and
    12·B·width·arity bytes; where ``weight`` is given and numba installed, one compiled loop that needs next to none.
    """

    def __init__(
        self, tree: Tree, rows: GathersRows, hidden: HiddenLeaves, allowed: Tensor | None, weight: Tensor | None = None
    ) -> None:
        self._tree, self._rows, self._hidden, self._allowed = tree, rows, hidden, allowed
        self._weight = weight if compiles() else None

    def search(self, query_BD: Tensor, k: int, width: int, numbers: Tensor) -> Found:
        """The k likeliest leaves of each query.

        Args:
            query_BD: float32 (B, D), divided by the temperature.
            k, width: of each query's list and beam.
            numbers: int64 (B,), what ``hidden`` calls these queries.
        """
        queries = len(query_BD)
        found = Found(
            torch.full((queries, k), -1), torch.full((queries, k), -torch.inf), torch.full((queries,), -torch.inf)
        )
        if self._weight is not None:
            self._compiled_search(self._weight, query_BD.contiguous(), width, numbers, found)
            return found
        return self._plain_search(query_BD, width, numbers, found)

    def _compiled_search(self, weight: Tensor, query: Tensor, width: int, numbers: Tensor, found: Found) -> None:
        from xclass.heads.tree import _numba_beam

        tree, nothing = self._tree, torch.empty(0, dtype=torch.bool)
        sizes = width, tree.arity, tree.num_leaves
        given = [each.numpy() for each in (query, numbers, weight, tree.offsets, tree.children)]
        masks = (nothing if self._allowed is None else self._allowed).numpy(), self._hidden.keys.numpy()
        out = [each.numpy() for each in found]
        work = query.numel() * width * tree.arity // PART_NUMBERS

        def part(low: int, high: int) -> None:
            _numba_beam.search(low, high, *sizes, *given, *masks, *out)

        in_parts(part, len(query), work, query.device)

    def _plain_search(self, query_BD: Tensor, width: int, numbers: Tensor, found: Found) -> Found:
        nodes, scores = torch.full((len(query_BD), 1), self._tree.num_leaves), torch.zeros(len(query_BD), 1)
        while nodes.shape[1] and bool((scores > -torch.inf).any()):
            children, below = self._expand(query_BD, nodes, scores)
            leaf = children < self._tree.num_leaves
            found = self._collect(found, children, below.masked_fill(~leaf, -torch.inf), numbers)
            inner = below.masked_fill(leaf | (below < found.scores[:, -1:]), -torch.inf)
            best = inner.topk(min(width + 1, inner.shape[1]), dim=1)
            if best.values.shape[1] > width:
                found = found._replace(lost=torch.maximum(found.lost, best.values[:, width]))
            scores = best.values[:, :width]
            nodes = children.gather(1, best.indices[:, :width])
            alive = int((scores > -torch.inf).sum(1).max()) if len(scores) else 0
            nodes, scores = nodes[:, :alive], scores[:, :alive]
        return found

    def _expand(self, query_BD: Tensor, nodes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Children (B, W·arity) and their log-probabilities; −∞ where there is none or none that may come out."""
        width, arity = nodes.shape[1], self._tree.arity
        rows, columns = (scores > -torch.inf).nonzero(as_tuple=True)
        inner = nodes[rows, columns] - self._tree.num_leaves
        start = self._tree.offsets[inner].long()
        count = self._tree.offsets[inner + 1].long() - start
        turn = torch.arange(arity)
        places = start[:, None] + torch.minimum(turn, count[:, None] - 1)
        below = self._choices(query_BD, rows, start - inner, count) + scores[rows, columns][:, None]
        child = self._tree.children[places].long()
        below.masked_fill_(turn >= count[:, None], -torch.inf)
        if self._allowed is not None:
            below.masked_fill_(~self._allowed[child], -torch.inf)
        children = torch.full((len(nodes), width, arity), self._tree.num_leaves)
        spread = torch.full((len(nodes), width, arity), -torch.inf)
        children[rows, columns], spread[rows, columns] = child, below
        return children.flatten(1), spread.flatten(1)

    def _choices(self, query_BD: Tensor, rows: Tensor, first: Tensor, count: Tensor) -> Tensor:
        """(M, arity) log-probabilities of the children of M nodes, each for its own query."""
        width = self._tree.arity - 1
        turn = torch.arange(width)
        parts = []
        for piece in torch.arange(len(rows)).split(max(VECTORS_AT_ONCE // width, 1)):
            last = count[piece, None] - 2
            vectors = self._rows((first[piece, None] + torch.minimum(turn, last)).flatten()).view(len(piece), width, -1)
            logits = torch.einsum("md,mcd->mc", query_BD[rows[piece]], vectors).masked_fill_(turn > last, -torch.inf)
            parts.append(torch.cat([torch.zeros(len(piece), 1), logits], 1).log_softmax(1))
        return torch.cat(parts) if parts else torch.empty(0, self._tree.arity)

    def _collect(self, found: Found, children: Tensor, scores: Tensor, numbers: Tensor) -> Found:
        """The best k of what was found and of these leaves."""
        rows, columns = (scores > found.scores[:, -1:]).nonzero(as_tuple=True)
        if not len(rows):
            return found
        mask = self._hidden.contains(numbers[rows], children[rows, columns])
        scores[rows[mask], columns[mask]] = -torch.inf
        everything = torch.cat([found.scores, scores], 1)
        best = everything.topk(found.scores.shape[1], dim=1)
        leaves = torch.cat([found.leaves, children], 1).gather(1, best.indices)
        return found._replace(leaves=leaves.masked_fill(best.values == -torch.inf, -1), scores=best.values)


def widening_search(beam: Beam, query_BD: Tensor, k: int, width: int, most: int, exact: bool) -> Found:
    """Beam search, again with a beam four times as wide for queries whose list is short although a node was let go of.

    With ``exact`` for every query whose beam may have lost a leaf that belongs in its list: the result is then proven.
    Cost: where probabilities are spread evenly, up to that of every leaf.

    Args:
        beam, query_BD, k, width: as :meth:`Beam.search` takes them.
        most: the widest beam that there need be: N.
    """
    numbers = torch.arange(len(query_BD))
    pieces = numbers.split(max(VECTORS_AT_ONCE // width, 1))
    parts = [beam.search(query_BD[piece], k, width, piece) for piece in pieces]
    found = Found(*(torch.cat(each) for each in zip(*parts, strict=True)))
    while width < most:
        done = found.is_exact if exact else found.is_exact | (found.scores[:, -1] > -torch.inf)
        if bool(done.all()):
            break
        width = min(4 * width, most)
        for piece in numbers[~done].split(max(VECTORS_AT_ONCE // width, 1)):
            again = beam.search(query_BD[piece], k, width, piece)
            for mine, other in zip(found, again, strict=True):
                mine[piece] = other
    return found


def allowed_nodes(tree: Tree, leaves: Tensor) -> Tensor:
    """Bool (N+J,): the leaves (int64) and every node above one of them. Cost O(N + len(leaves) · depth)."""
    allowed = torch.zeros(len(tree.parent), dtype=torch.bool)
    node = leaves
    while len(node):
        allowed[node] = True
        above = tree.parent[node].long()
        node = torch.unique(above[above >= 0]) + tree.num_leaves
        node = node[~allowed[node]]
    return allowed
