"""From vectors and a target to an index: every build worth trying, tuned; the cheapest that meets the target."""

from __future__ import annotations

from torch import Tensor

from xclass.index.approximate import ApproximateIndex
from xclass.index.build import AUTO_EXACT_ITEMS, Index, IndexConfig, built, candidates
from xclass.index.checks import checked_vectors
from xclass.index.tuning.cost import expected_cost
from xclass.index.tuning.measure import HeldOut, Point
from xclass.index.tuning.tune import IndexReport, cheapest, check_goal, faster, reason, report
from xclass.runtime.progress import duration, say
from xclass.types import Ragged
from xclass.types.vectors import Vectors, as_vectors


def find_index(
    vectors: Tensor | Vectors,
    config: IndexConfig,
    query_BD: Tensor,
    k: int,
    target_recall: float,
    exclude: Ragged | None = None,
) -> IndexReport:
    """Build every candidate of the kind, tune each as :func:`tune` does, and take the cheapest that meets the target.

    Says before each build how many vectors there are, and about how much memory and time it takes. At most two indexes
    are held at once: the best so far and the one that is tried.

    Args:
        vectors: (N,D), a matrix or a source.
        config: a kind with several builds (other numbers of lists, other codes) has all of them tried; "auto" tries
            one kind of :func:`candidates` after the other until one meets the target, and is exact for at most 100,000
            items or without Faiss.

    Returns:
        The report over all builds. ``report.index`` is exact when no build reaches the target.
    """
    check_goal(query_BD, target_recall)
    source = as_vectors(vectors)
    say(f"{len(source):,} vectors of {source.dim} dimensions, {source.nbytes / 1e6:,.0f} MB as they are stored")
    held = HeldOut(query_BD, k, exclude)
    tried = candidates(config, len(source), source.dim)
    exact = held.against(checked_vectors(source))
    best: tuple[Index, Point] | None = None
    for candidate in tried:
        if best is not None and candidate.kind != best[0].kind:
            break
        index = _built(source, candidate)
        point = cheapest(index, held, target_recall)
        if point is not None:
            best = (index, point) if best is None else _better(held, best, (index, point))
    if best is not None and best[0].kind != exact.kind:
        return report(*best, held, target_recall)
    if config.kind == "exact":
        return report(exact, None, held, target_recall)
    if best is not None:
        why = f"{len(source):,} items are few (at most {AUTO_EXACT_ITEMS:,}), or Faiss is not installed"
        return report(*best, held, target_recall, f"{why}: exact search is used")
    return report(exact, None, held, target_recall, reason([config.kind], held.points, target_recall))


def _better(held: HeldOut, first: tuple[Index, Point], second: tuple[Index, Point]) -> tuple[Index, Point]:
    rivals = [(index, point) for index, point in (first, second) if isinstance(index, ApproximateIndex)]
    return faster(held, rivals)


def _built(source: Vectors, config: IndexConfig) -> Index:
    expected = expected_cost(source, config)
    if expected is not None:
        size, seconds = f"{expected.memory_bytes / 1e6:,.0f} MB beside the vectors", duration(expected.build_s)
        say(f"build {expected.factory}: about {seconds} and {size}")
    index = built(source, config)
    if isinstance(index, ApproximateIndex):
        say(f"built {index.factory} in {duration(index.build_s)}, {index.extra_bytes() / 1e6:,.0f} MB beside them")
    return index
