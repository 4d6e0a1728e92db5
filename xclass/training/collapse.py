"""Whether the vectors still tell queries and items apart: figures of each validation, and a warning when they fall.

A tower collapses when it gives (nearly) everything the same vector, or vectors of a few directions only. The loss may
look well meanwhile: the popular items come out on top for everybody.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from xclass.runtime.rng import torch_generator
from xclass.types import TopK
from xclass.types.vectors import Vectors

SAMPLE = 1024  # vectors of each tower: bounds the cost of the spectrum, whatever D is
LISTS = 10_000
LOW_VARIANCE = 0.01  # of the D · variance, which is 1 for vectors in all directions and 0 for one vector
LOW_RANK = 0.05  # of the way from 1 to the largest rank that there can be
MANY_IDENTICAL = 0.5
PAGE = "docs/training.md, “Collapse”"

TOWERS = ("query", "item")


class Spread(NamedTuple):
    """variance: mean over the dimensions, of unit vectors. effective_rank: 1 to D."""

    variance: float
    effective_rank: float


def collapse_figures(query_vectors: Tensor, item_vectors: Tensor, found: TopK) -> dict[str, float]:
    """What is recorded under "collapse".

    Args:
        query_vectors: (Q, D) of the validation queries; 1,024 of them, evenly apart, are looked at.
        item_vectors: (S, D) of a sample of items, likewise.
        found: the lists of the queries; the first 10,000 are looked at.

    Returns:
        {query,item}_variance and {query,item}_effective_rank as of :func:`spread`; identical_lists as of
        :func:`identical_lists`.

    Cost O(1024² · D), and an eigenvalue problem of size min(D, 1024); nothing is as long as the catalogue.
    """
    query, item = spread(query_vectors), spread(item_vectors)
    return {
        "query_effective_rank": query.effective_rank,
        "item_effective_rank": item.effective_rank,
        "query_variance": query.variance,
        "item_variance": item.variance,
        "identical_lists": identical_lists(found),
    }


def spread(vectors: Tensor) -> Spread:
    """Variance and effective rank of vectors (n, D) brought to unit length.

    variance = (1/D) Σ_d Var(u_d) = (1 − |mean u|²) / D: 1/D for directions that cancel, 0 for one vector.
    effective rank = exp(−Σ_i p_i log p_i) with p_i = σ_i / Σ σ, σ the singular values of the centred vectors; 1 when
    all are the same. It is at most min(D, n − 1). Source: Roy & Vetterli 2007, "The effective rank".
    """
    unit = functional.normalize(_evenly(vectors, SAMPLE).detach().cpu().double(), dim=1)
    if len(unit) == 0:
        return Spread(0.0, 1.0)
    centred = unit - unit.mean(0)
    variance = float(centred.square().sum(1).mean()) / unit.shape[1]
    narrow = centred if centred.shape[1] <= centred.shape[0] else centred.T
    singular = torch.linalg.eigvalsh(narrow.T @ narrow).clamp_(min=0).sqrt_()
    total = float(singular.sum())
    if total < 1e-6 * len(unit) ** 0.5:
        return Spread(variance, 1.0)
    share = singular / total
    return Spread(variance, float(torch.special.entr(share).sum().exp()))


def identical_lists(found: TopK) -> float:
    """(Q − different lists) / (Q − 1): 0 when every query has a list of its own, 1 when all have the same.

    Lists are the same when they name the same items in the same order. A query's seen items are left out of its list,
    so queries with one vector may still have different lists.
    """
    queries = min(len(found), LISTS)
    if queries < 2:
        return 0.0
    lengths = found.lengths()[:queries]
    padded = torch.full((queries, int(lengths.max())), -1, dtype=torch.int64)
    padded[torch.arange(padded.shape[1]) < lengths.unsqueeze(1)] = found.ids[: int(lengths.sum())].cpu()
    return (queries - len(torch.unique(padded, dim=0))) / (queries - 1)


def warnings_of(figures: dict[str, float], dim: int, queries: int, items: int) -> dict[str, str]:
    """Figure → what to tell, for each that has crossed its threshold.

    Args:
        figures: of :func:`collapse_figures`.
        dim: D.
        queries, items: how many vectors the figures are of.

    Thresholds: D · variance below 0.01; effective rank below 1 + 0.05 · (min(D, n − 1) − 1) for n vectors; more than
    half of the lists a repetition of another. Fewer than 3 vectors or lists say nothing.
    """
    said = {}
    for tower, number in zip(TOWERS, (min(queries, SAMPLE), min(items, SAMPLE)), strict=True):
        if number < 3:
            continue
        variance, rank = figures[f"{tower}_variance"], figures[f"{tower}_effective_rank"]
        most = min(dim, number - 1)
        lowest = 1 + LOW_RANK * (most - 1)
        if dim * variance < LOW_VARIANCE:
            said[f"{tower}_variance"] = f"nearly all {tower} vectors are the same: D · variance is {dim * variance:.2g}"
        if rank < lowest:
            said[f"{tower}_effective_rank"] = (
                f"the {tower} vectors use few directions: effective rank {rank:.2f} of {most}, below {lowest:.2f}"
            )
    if queries >= 3 and figures["identical_lists"] > MANY_IDENTICAL:
        said["identical_lists"] = f"{figures['identical_lists']:.0%} of the top lists repeat another query's"
    return {figure: f"warning: collapse: {text}; see {PAGE}" for figure, text in said.items()}


class Validated(NamedTuple):
    """One validation: the metrics, the figures of collapse and what they warn of, by figure."""

    metrics: dict[str, float]
    collapse: dict[str, float]
    warnings: dict[str, str]


class CollapseWatch:
    """The figures of each validation, over the same items every time: at most 1,024, one from each part of the
    catalogue.

    Args:
        num_items: N.
        seed: which items.
    """

    def __init__(self, num_items: int, seed: int) -> None:
        bounds = torch.arange(min(SAMPLE, num_items) + 1) * num_items // min(SAMPLE, num_items)
        within = torch.rand(len(bounds) - 1, generator=torch_generator(seed, "collapse"), dtype=torch.float64)
        self.items = bounds[:-1] + (within * bounds.diff()).long()

    def __call__(
        self, metrics: dict[str, float], query_vectors: Tensor, vectors: Vectors | None, found: TopK
    ) -> Validated:
        """What a validation that found ``found`` for these queries has to say. Reads the sample's vectors only.

        ``vectors``: None where items have none; then the figures are of the queries and the lists.
        """
        items = query_vectors[:0] if vectors is None else vectors.take(self.items)
        figures = collapse_figures(query_vectors, items, found)
        warnings = warnings_of(figures, items.shape[1], len(found), len(items))
        if vectors is None:
            figures = {name: value for name, value in figures.items() if not name.startswith("item_")}
        return Validated(metrics, figures, warnings)


def _evenly(rows: Tensor, most: int) -> Tensor:
    return rows if len(rows) <= most else rows[torch.arange(most, device=rows.device) * len(rows) // most]
