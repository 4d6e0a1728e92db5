"""Optimisers of the rows that a step touched, as functions of those rows.

Their contract, ``RowOptimizer``, is the table's: a table holds all rows and their state, gathers the touched ones and
writes them back. ``step`` is the plain form, for any float dtype and device; ``compiled`` names the same formula in the
table's compiled pass, with β₁, β₂ and eps.
"""

from __future__ import annotations

import torch
from torch import Tensor


class RowAdaGrad:
    """AdaGrad with one accumulator per row.

    a_r ← a_r + mean_d(g_rd²);   w_r ← w_r − lr · g_r / (√a_r + eps).

    State is 4 bytes a row, whatever D. Cost O(U·D). Source: Duchi et al. 2011, row-wise as in the embedding
    optimisers of recommendation systems (Naumov et al. 2019).
    """

    def __init__(self, eps: float = 1e-8) -> None:
        self.eps = eps

    def state_shapes(self, dim: int) -> dict[str, tuple[int, ...]]:
        """One number a row."""
        return {"sum_of_squares": ()}

    def step(self, rows: Tensor, state: dict[str, Tensor], grads: Tensor, lr: float) -> None:
        """One step on the gathered ``rows`` and ``state``, in place."""
        sums = state["sum_of_squares"].add_(_mean_of_squares(grads))
        rows.addcmul_(grads, (-lr / (sums.sqrt() + self.eps)).unsqueeze(1))

    def compiled(self) -> tuple[str, float, float, float]:
        """Its name in the compiled pass, β₁, β₂, eps."""
        return "adagrad", 0.0, 0.0, self.eps


class RowRMSProp:
    """RMSProp with one running mean of squares per row, corrected for its start: Adam without momentum.

    v_r ← β v_r + (1−β) mean_d(g_rd²);   n_r ← n_r + 1;   w_r ← w_r − lr · g_r / (√(v_r / (1 − β^n_r)) + eps).

    A row that is not touched keeps v and n: n counts the row's own updates. Where AdaGrad's steps shrink with every
    touch, these keep their size until the schedule shrinks them. State is 8 bytes a row. Cost O(U·D).
    Source: Tieleman & Hinton 2012 (lecture 6.5); the correction is Kingma & Ba 2015, algorithm 1, with β₁ = 0.
    """

    def __init__(self, beta: float = 0.99, eps: float = 1e-10) -> None:
        self.beta, self.eps = beta, eps

    def state_shapes(self, dim: int) -> dict[str, tuple[int, ...]]:
        """Two numbers a row."""
        return {"mean_of_squares": (), "updates": ()}

    def step(self, rows: Tensor, state: dict[str, Tensor], grads: Tensor, lr: float) -> None:
        """One step on the gathered ``rows`` and ``state``, in place."""
        updates = state["updates"].add_(1)
        means = state["mean_of_squares"].mul_(self.beta).add_(_mean_of_squares(grads), alpha=1 - self.beta)
        corrected = means / (1 - self.beta**updates)
        rows.addcmul_(grads, (-lr / (corrected.sqrt_() + self.eps)).unsqueeze(1))

    def compiled(self) -> tuple[str, float, float, float]:
        """Its name in the compiled pass, β₁, β₂, eps."""
        return "rmsprop", 0.0, self.beta, self.eps


class RowAdam:
    """Adam with one running mean of squares per row and a running mean of the gradient, each corrected for its start.

    n_r ← n_r + 1;   m_r ← β₁ m_r + (1−β₁) g_r;   v_r ← β₂ v_r + (1−β₂) mean_d(g_rd²);
    w_r ← w_r − lr · (m_r / (1 − β₁^n_r)) / (√(v_r / (1 − β₂^n_r)) + eps).

    A row that is not touched keeps m, v and n, and does not move: the means run over the row's own updates, not over
    the steps. With D = 1 and every row touched it is Adam; with β₁ = 0 it is :class:`RowRMSProp`. State is 4·D + 8
    bytes a row. Cost O(U·D).
    Source: Kingma & Ba 2015, algorithm 1, with the second moment row-wise.
    """

    def __init__(self, beta1: float = 0.9, beta2: float = 0.99, eps: float = 1e-10) -> None:
        self.beta1, self.beta2, self.eps = beta1, beta2, eps

    def state_shapes(self, dim: int) -> dict[str, tuple[int, ...]]:
        """A vector and two numbers a row."""
        return {"mean": (dim,), "mean_of_squares": (), "updates": ()}

    def step(self, rows: Tensor, state: dict[str, Tensor], grads: Tensor, lr: float) -> None:
        """One step on the gathered ``rows`` and ``state``, in place."""
        updates = state["updates"].add_(1)
        squares = state["mean_of_squares"].mul_(self.beta2).add_(_mean_of_squares(grads), alpha=1 - self.beta2)
        means = state["mean"].mul_(self.beta1).add_(grads, alpha=1 - self.beta1)
        root = (squares / (1 - self.beta2**updates)).sqrt_().add_(self.eps)
        rows.addcmul_(means, (-lr / (root * (1 - self.beta1**updates))).unsqueeze(1))

    def compiled(self) -> tuple[str, float, float, float]:
        """Its name in the compiled pass, β₁, β₂, eps."""
        return "adam", self.beta1, self.beta2, self.eps


class RowSGD:
    """w_r ← w_r − lr · g_r. No state. Cost O(U·D)."""

    def state_shapes(self, dim: int) -> dict[str, tuple[int, ...]]:
        """Nothing."""
        return {}

    def step(self, rows: Tensor, state: dict[str, Tensor], grads: Tensor, lr: float) -> None:
        """One step on the gathered ``rows`` and ``state``, in place."""
        rows.add_(grads, alpha=-lr)

    def compiled(self) -> tuple[str, float, float, float]:
        """Its name in the compiled pass, β₁, β₂, eps."""
        return "sgd", 0.0, 0.0, 0.0


def _mean_of_squares(grads: Tensor) -> Tensor:
    return torch.linalg.vector_norm(grads, dim=1).square_().div_(grads.shape[1])
