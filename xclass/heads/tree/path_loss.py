"""−log of the probability of paths through a tree, with its gradient: plain through autograd, or in compiled loops."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from xclass.heads.tree.tree import Paths
from xclass.losses.interface import sum_by_row
from xclass.runtime.jit import compiles
from xclass.runtime.threads import in_parts

PART_NUMBERS = 1 << 18  # less than this for each thread is not worth waking it
LEAST_DIMS = 16  # a line of the cache


def step_losses(query_LD: Tensor, vectors_LCD: Tensor, paths: Paths) -> Tensor:
    """(L,) −log of the probability of each step's choice: logsumexp(0, x_1, …) − x_which, x_c = ⟨query, vector_c⟩."""
    logits = torch.einsum("ld,lcd->lc", query_LD, vectors_LCD)
    places = torch.arange(logits.shape[1], device=logits.device)
    logits = logits.masked_fill(places >= paths.number[:, None], -torch.inf)
    every = torch.cat([torch.zeros_like(logits[:, :1]), logits], 1)
    return every.logsumexp(1) - every.gather(1, paths.which[:, None]).squeeze(1)


def path_loss(
    query_BD: Tensor, rows_UD: Tensor, offsets: Tensor, paths: Paths, places: Tensor, share: Tensor
) -> Tensor:
    """(B,) Σ over a query's paths of share · −log P(path), differentiable in query and rows.

    Args:
        query_BD: (B, D), divided by the temperature.
        rows_UD: (U, D) the distinct vectors of the step.
        offsets: int64 (B+1,), which paths are a query's.
        paths: of all queries, P of them.
        places: int64 (L, C), where each step's vectors stand among the rows.
        share: (P,) weights.

    Cost O(L·C·D) for L steps. Memory: the gradients, and 4·L·C bytes; in the plain form 4·L·C·D.
    """
    if _fits(query_BD, rows_UD):
        compiled: Tensor = _PathLoss.apply(query_BD, rows_UD, offsets, paths, places, share)
        return compiled
    owner = torch.repeat_interleave(
        torch.arange(len(offsets) - 1, device=offsets.device), offsets.diff(), output_size=len(share)
    )
    path = paths.rows()
    vectors = rows_UD.index_select(0, places.flatten()).view(*places.shape, -1)
    losses = step_losses(query_BD.index_select(0, owner[path]), vectors, paths)
    return sum_by_row(share[path] * losses, owner[path], len(query_BD))


def _fits(query: Tensor, rows: Tensor) -> bool:
    return all(each.device.type == "cpu" and each.dtype == torch.float32 for each in (query, rows)) and compiles()


class _PathLoss(torch.autograd.Function):
    """The gradient is made in the forward pass for equal upstream gradients; for others it is made again."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, rows: Tensor, offsets: Tensor, paths: Paths, places: Tensor, share: Tensor
    ) -> Tensor:
        query, rows = query.contiguous(), rows.contiguous()
        loss, ctx.gradients = _run(query, rows, offsets, paths, places, share)
        ctx.given = offsets, paths, places, share
        ctx.save_for_backward(query, rows)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        query, rows = ctx.saved_tensors
        offsets, paths, places, share = ctx.given
        gradients, ctx.gradients = ctx.gradients, None  # given away: a second call makes them again
        if gradients is not None and bool((upstream == upstream[:1]).all()):
            for gradient in gradients if len(upstream) else ():
                gradient.mul_(upstream[0])
        else:
            weighted = share * torch.repeat_interleave(upstream, offsets.diff(), output_size=len(share))
            gradients = _run(query, rows, offsets, paths, places, weighted)[1]
        return (*gradients, None, None, None, None)


def _run(
    query: Tensor, rows: Tensor, offsets: Tensor, paths: Paths, places: Tensor, share: Tensor
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    from xclass.heads.tree import _numba_tree

    loss, query_grad, rows_grad = query.new_empty(len(query)), torch.empty_like(query), torch.zeros_like(rows)
    pull, work = query.new_empty(places.shape), places.numel() * query.shape[1] // PART_NUMBERS
    given = [tensor.detach().numpy() for tensor in (query, rows, offsets, paths.offsets, places, paths.number)]
    found = [tensor.numpy() for tensor in (loss, query_grad, pull)]
    chosen, weights = paths.which.numpy(), share.detach().float().contiguous().numpy()

    def walk(low: int, high: int) -> None:
        if places.shape[1] == 1:
            flat = [each.reshape(-1) for each in (given[4], found[2])]
            _numba_tree.walk_binary(low, high, *given[:4], flat[0], chosen, weights, *found[:2], flat[1])
        else:
            _numba_tree.walk(low, high, *given, chosen, weights, *found)

    def push(low: int, high: int) -> None:
        _numba_tree.push_rows(low, high, given[0], *given[2:], found[2], rows_grad.numpy())

    in_parts(walk, len(query), work, query.device)
    in_parts(push, query.shape[1], min(work, query.shape[1] // LEAST_DIMS), query.device)
    return loss, (query_grad, rows_grad)
