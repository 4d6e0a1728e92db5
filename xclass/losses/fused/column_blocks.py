"""The same as :mod:`xclass.losses.fused.row_blocks` for so many shared candidates that they leave the cache: all items,
as a rule.

There a block has a few rows and every candidate, and each block adds its part to the gradient of all candidates. Here a
block has every row and some candidates. The first sweep makes the sums of each row; the second makes the logits again,
now that the sums are known, and the gradients: each candidate's vector is read twice and its gradient written once.
Threads take candidates, not rows. Four products where the other way has three; three where there are no more rows than
dimensions, as the cells of the first sweep can then be kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from xclass.losses.fused.pairs import add_rows, pair_scores
from xclass.losses.fused.problem import Gradients, Problem, outputs
from xclass.losses.fused.row_blocks import PART_CELLS, Span, settle
from xclass.losses.interface import RowSums, mask_value, positive_rows
from xclass.losses.rows import pass_over
from xclass.runtime.threads import in_parts, scratch

MANY_BYTES = 12 << 20  # of the candidates' gradients: from here on this way is the faster one
BLOCK_BYTES = {"cpu": 1 << 20, "cuda": 128 << 20}  # of cells
LEAST_COLUMNS = 64
T = TypeVar("T")


class _Hits(NamedTuple):
    """Cells that are no negatives, in the order of their columns."""

    rows: Tensor
    columns: Tensor

    def mask(self, cells: Tensor, first: int) -> None:
        """They get the lowest number; ``cells`` are the columns from ``first`` on."""
        ends = torch.tensor([first, first + cells.shape[1]], device=self.columns.device)
        low, high = torch.searchsorted(self.columns, ends).tolist()
        if high > low:
            cells[self.rows[low:high], self.columns[low:high] - first] = mask_value(cells.dtype)


class _Block(NamedTuple):
    """Columns from ``first`` on: their vectors, (R, C) cells, and the sums of the rows over them."""

    first: int
    vectors: Tensor
    cells: Tensor
    sums: RowSums


def many_columns(problem: Problem) -> bool:
    """Whether candidates are shared and so many that this is the faster way."""
    return (
        problem.neg_rows.dim() == 1
        and problem.top_weights is None
        and len(problem.neg_rows) * problem.query.shape[1] * problem.query.element_size() >= MANY_BYTES
    )


def run_columns(problem: Problem, weights: Tensor | None) -> tuple[Tensor, Gradients]:
    """(R,) loss, times the weights, and the gradients. Memory: O((R + K)·D), and a block of cells for each thread."""
    sweep = _Sweep(problem)
    out, span = outputs(problem), Span(0, len(problem.query), 0, len(problem.pos_rows))
    sums = _joined(problem, sweep.sums(), sweep.unmasked)
    scale = settle(problem, weights, out, span, sweep.pos_logits, problem.share, sums)
    by_query, by_column = sweep.gradients(scale, sums.value)
    out.query.add_(by_query)
    owners = positive_rows(problem.offsets, len(problem.pos_rows))
    items = by_column if sweep.all_in_order else _by_item(problem, by_column)
    add_rows(items, problem.pos_rows, problem.query, owners, out.pos_grad)
    return out.loss, Gradients(out.query.mul_(problem.inverse_temperature), items)


class _Sweep:
    """Goes through the candidates of a problem, a part for each thread, block by block."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        order = torch.argsort(problem.hits.columns, stable=True)
        self.hits = _Hits(problem.hits.rows[order], problem.hits.columns[order])
        owners = positive_rows(problem.offsets, len(problem.pos_rows))
        scores = pair_scores(problem.query, owners, problem.items, problem.pos_rows)
        self.pos_logits = scores if problem.pos_log_q is None else scores - problem.pos_log_q
        every = torch.arange(len(problem.items), device=problem.items.device)
        self.all_in_order = torch.equal(problem.neg_rows, every)
        number = torch.bincount(problem.hits.rows, minlength=len(problem.query))
        self.unmasked = (len(problem.neg_rows) - number).to(scores.dtype)
        self.query = problem.query.to(problem.product_dtype)
        few, kind = len(problem.query) <= problem.query.shape[1], problem.items.dtype
        self.keeps = few and self.all_in_order and problem.product_dtype == kind
        self._kept: dict[int, list[_Block]] = {}

    def sums(self) -> list[RowSums]:
        """Of every block. Cells of few rows are kept: they take no more memory than the gradients."""

        def part(low: int, high: int) -> list[RowSums]:
            blocks: Iterable[_Block] = self._passes(low, high)
            if self.keeps:
                blocks = self._kept[low] = list(blocks)
            return [block.sums for block in blocks]

        return [found for some in self._in_parts(part) for found in some]

    def gradients(self, scale: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """(R, D) and (K, D), given what every row's cells are multiplied by and, for a softmax, the rows' log-sums."""
        problem, is_softmax = self.problem, self.problem.loss.rows == "softmax"
        found = problem.items.new_empty(len(problem.neg_rows), problem.items.shape[1])

        def part(low: int, high: int) -> Tensor:
            by_query = torch.zeros_like(problem.query)
            for first, vectors, cells, sums in self._kept.pop(low, None) or self._passes(low, high):
                own = scale
                if is_softmax:  # cells are those of a softmax over the block
                    own = scale * torch.exp(sums.value - value).div_(sums.total).unsqueeze(1)
                by_query.addcmul_((cells @ vectors).to(by_query.dtype), own)
                back = (problem.query * own).to(cells.dtype)
                place = found[first : first + len(vectors)]
                if found.dtype == cells.dtype:
                    torch.mm(cells.T, back, out=place)
                else:
                    place.copy_(cells.T @ back)
            return by_query

        return torch.stack(self._in_parts(part)).sum(0), found

    def _in_parts(self, part: Callable[[int, int], T]) -> list[T]:
        rows, columns = len(self.problem.query), len(self.problem.neg_rows)
        return in_parts(part, columns, rows * columns // PART_CELLS, self.problem.query.device)

    def _passes(self, low: int, high: int) -> Iterator[_Block]:
        """Every block; unless cells are kept they are good until the next."""
        problem, rows = self.problem, len(self.problem.query)
        room = BLOCK_BYTES.get(problem.query.device.type, BLOCK_BYTES["cpu"]) // self.query.element_size()
        step = max(room // max(rows, 1), LEAST_COLUMNS)
        for first in range(low, high, step):
            last = min(first + step, high)
            own = slice(first, last)
            vectors = problem.items[own] if self.all_in_order else problem.items[problem.neg_rows[own]]
            vectors = vectors.to(self.query.dtype)
            number = rows * (last - first)
            cells = (self.query.new_empty(number) if self.keeps else scratch(number, self.query)).view(rows, -1)
            torch.mm(self.query, vectors.T, out=cells)
            self.hits.mask(cells, first)
            yield _Block(first, vectors, cells, self._passed(cells, first))

    def _passed(self, cells: Tensor, first: int) -> RowSums:
        log_q = self.problem.log_q
        log_q = None if log_q is None else log_q[first : first + cells.shape[1]]
        return pass_over(self.problem.loss, cells, self.unmasked, log_q, self.pos_logits)


def _joined(problem: Problem, blocks: list[RowSums], unmasked: Tensor) -> RowSums:
    """The sums over all blocks. Of a softmax the cells count as those of the whole row, which sum to 1."""
    values = torch.stack([sums.value for sums in blocks])
    if problem.loss.rows == "softmax":
        return RowSums(values.logsumexp(0), torch.ones_like(unmasked), unmasked)
    return RowSums(values.sum(0), torch.stack([sums.total for sums in blocks]).sum(0), unmasked)


def _by_item(problem: Problem, by_column: Tensor) -> Tensor:
    """(U, D): candidates may repeat."""
    items, every = torch.zeros_like(problem.items), torch.arange(len(by_column), device=by_column.device)
    add_rows(items, problem.neg_rows, by_column, every, by_column.new_ones(len(by_column)))
    return items
