"""The cheapest search that finds enough of the exact answer: over an index's search parameters, and over builds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from torch import Tensor

from xclass.errors import InputError
from xclass.index.approximate import ApproximateIndex
from xclass.index.build import Index
from xclass.index.tuning.measure import INDEX_RECALL, HeldOut, Point, flat_queries_per_s
from xclass.runtime.progress import Progress
from xclass.types import Ragged

FINE = 2**0.25
FINE_STEPS = 4
CLOSE = 0.8
ROUNDS = 3
LAST_ROUNDS = 5
RIVALS = 4


@dataclass(frozen=True, slots=True)
class IndexReport:
    """What tuning found. ``index`` is the one to use: the tuned one, or the exact one.

    frontier: every setting that was measured, in that order.
    fell_back: why the exact search is used instead, None when it is not.
    flat_queries_per_s: Faiss's exact search in the same run, None without Faiss.
    """

    index: Index
    k: int
    target_recall: float
    index_recall: float
    queries_per_s: float
    exact_queries_per_s: float
    flat_queries_per_s: float | None
    num_queries: int
    build_s: float
    memory_bytes: int
    frontier: list[Point] = field(default_factory=list)
    fell_back: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """What ``xclass index --json`` prints."""
        best = {id(point) for point in optimal(self.frontier)}
        return {
            **self.index.describe(),
            "num_items": self.index.num_items,
            "dim": self.index.dim,
            "k": self.k,
            f"index_recall@{self.k}": self.index_recall,
            "definition": INDEX_RECALL.format(k=self.k),
            "target_recall": self.target_recall,
            "queries_per_s": self.queries_per_s,
            "flat_queries_per_s": self.flat_queries_per_s,
            "exact_queries_per_s": self.exact_queries_per_s,
            "num_queries": self.num_queries,
            "memory_bytes": self.memory_bytes,
            "build_s": self.build_s,
            "frontier": [{**asdict(point), "optimal": id(point) in best} for point in self.frontier],
            "fell_back": self.fell_back,
        }


def tune(
    index: Index,
    query_BD: Tensor,
    k: int,
    target_recall: float,
    exclude: Ragged | None = None,
) -> IndexReport:
    """Set the search parameters of a built index to the cheapest that find ``target_recall`` of the exact top k.

    With two parameters (how many lists are visited, how many finds are scored again) the settings that just meet the
    target lie on a falling line; it is followed once in steps of 2, then around its cheapest place in steps of 2^¼,
    and the fastest few are timed again. A setting meets the target when the mean over the queries less its standard
    error does.

    Args:
        index: built. An index without search parameters is only measured.
        query_BD: held-out query vectors, of the kind that will be searched with. A few thousand are plenty.
        k: the cut-off that the index is for.
        target_recall: in (0, 1], of :func:`index_recall` averaged over the queries.
        exclude: Ragged (B), items to leave out of both searches, as they will be in use.

    Returns:
        The report; ``report.index`` is exact when the target cannot be reached, and ``report.fell_back`` says so.
    """
    check_goal(query_BD, target_recall)
    held = HeldOut(query_BD, k, exclude)
    exact = held.against(index.vectors)
    best = cheapest(index, held, target_recall)
    if best is not None:
        return report(index, best, held, target_recall)
    return report(exact, None, held, target_recall, reason([index.kind], held.points, target_recall))


def report(index: Index, best: Point | None, held: HeldOut, target: float, fell_back: str | None = None) -> IndexReport:
    """``index`` set as ``best`` says, and all that was measured; without ``best`` the exact search is measured, too."""
    if best is None:
        best = held.measure(index, rounds=1)
    elif isinstance(index, ApproximateIndex):
        index.set_parameters(**best.parameters)
    return IndexReport(
        index=index,
        k=held.k,
        target_recall=target,
        index_recall=best.index_recall,
        queries_per_s=best.queries_per_s,
        exact_queries_per_s=held.exact_queries_per_s,
        flat_queries_per_s=flat_queries_per_s(index.vectors, held.query_BD, held.k),
        num_queries=len(held.query_BD),
        build_s=best.build_s,
        memory_bytes=best.memory_bytes,
        frontier=held.points,
        fell_back=fell_back,
    )


def check_goal(query_BD: Tensor, target_recall: float) -> None:
    """InputError for a target outside (0, 1] or no query to measure with."""
    if not 0 < target_recall <= 1:
        raise InputError("target recall is out of range", wanted="above 0, at most 1", got=target_recall)
    if not len(query_BD):
        raise InputError("an index is tuned on held-out queries", wanted="one or more", got="none")


def cheapest(index: Index, held: HeldOut, target: float) -> Point | None:
    """The fastest setting of this index that meets the target; None when none does."""
    if not isinstance(index, ApproximateIndex) or not index.parameters:
        point = held.measure(index)
        return point if meets(point, target) else None
    first = len(held.points)
    with Progress(f"tune {index.factory}", None, "settings") as progress:
        search = _Contour(index, held, target, progress)
        ranges = [index.choices(name, held.k) for name in index.parameters]
        search.follow(*ranges)
        rough = _fastest(held.points[first:], target)
        if rough is None:
            return None
        search.follow(
            *(_around(rough.parameters[name], all_) for name, all_ in zip(index.parameters, ranges, strict=True))
        )
    return faster(held, [(index, point) for point in _close(held.points[first:], target)])[1]


def meets(point: Point, target: float) -> bool:
    """Whether the recall less its standard error reaches the target."""
    return point.least_recall >= target


def optimal(points: Sequence[Point]) -> list[Point]:
    """Those that no other beats in both recall and speed, by rising recall."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda point: (-point.index_recall, -point.queries_per_s)):
        if not kept or point.queries_per_s > kept[-1].queries_per_s:
            kept.append(point)
    return kept[::-1]


class _Contour:
    """Measures the settings along the line that just meets the target, none twice."""

    def __init__(self, index: ApproximateIndex, held: HeldOut, target: float, progress: Progress) -> None:
        self._index, self._held, self._target, self._progress = index, held, target, progress
        self._known: dict[tuple[int, ...], bool] = {}

    def follow(self, reaches: list[int], depths: Sequence[int] = ()) -> None:
        """From the first reach and the last depth (each finds more than the one before): an earlier depth while the
        target is met, a later reach when it is not."""
        reach, depth = 0, len(depths) - 1
        while reach < len(reaches) and depth >= min(0, len(depths) - 1):
            if self._met(reaches[reach], *depths[depth : depth + 1]):
                if depth <= 0:
                    return
                depth -= 1
            else:
                reach += 1

    def _met(self, *values: int) -> bool:
        if values not in self._known:
            self._index.set_parameters(**dict(zip(self._index.parameters, values, strict=True)))
            self._known[values] = meets(self._held.measure(self._index, ROUNDS), self._target)
            self._progress.advance()
        return self._known[values]


def _around(value: int, choices: list[int]) -> list[int]:
    """Up to a factor of 2 below and above, in steps of 2^¼; all choices where more finds less."""
    if choices[0] > choices[-1]:
        return choices
    steps = (round(value * FINE**step) for step in range(-FINE_STEPS, FINE_STEPS + 1))
    return sorted({min(max(step, 1), choices[-1]) for step in steps})


def _fastest(points: Sequence[Point], target: float) -> Point | None:
    good = [point for point in points if meets(point, target)]
    return max(good, key=lambda point: point.queries_per_s, default=None)


def faster(held: HeldOut, rivals: Sequence[tuple[ApproximateIndex, Point]]) -> tuple[ApproximateIndex, Point]:
    """Of settings that meet the target the fastest, timed in turn: what disturbs a timing disturbs all of them.

    The points come back with the better of both timings, also in ``held.points``.
    """
    rates = [point.queries_per_s for _, point in rivals]
    for _ in range(LAST_ROUNDS if len(rivals) > 1 else 0):
        for place, (index, point) in enumerate(rivals):
            index.set_parameters(**point.parameters)
            rates[place] = max(rates[place], held.rate(index))
    timed = [replace(point, queries_per_s=rate) for (_, point), rate in zip(rivals, rates, strict=True)]
    for (_, old), new in zip(rivals, timed, strict=True):
        held.points[next(place for place, point in enumerate(held.points) if point is old)] = new
    best = max(range(len(rivals)), key=lambda place: rates[place])
    return rivals[best][0], timed[best]


def _close(points: Sequence[Point], target: float) -> list[Point]:
    """The few that meet the target and were nearly the fastest."""
    good = sorted((point for point in points if meets(point, target)), key=lambda point: -point.queries_per_s)
    return [point for point in good[:RIVALS] if point.queries_per_s >= CLOSE * good[0].queries_per_s]


def reason(kinds: Sequence[str], points: Sequence[Point], target: float) -> str:
    """Why exact search is used instead of these kinds."""
    best = max(points, key=lambda point: point.index_recall)
    setting = "".join(f" {name} {value}" for name, value in best.parameters.items())
    what = f"{best.factory or best.kind}{' at' if setting else ''}{setting}"
    return f"{', '.join(kinds)} reached {best.index_recall:.4f} ({what}), not {target}: exact search is used"
