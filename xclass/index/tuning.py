"""How much of the exact answer an index finds, and the search parameter that finds enough of it."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from xclass.errors import InputError
from xclass.index.faiss_index import FaissIndex
from xclass.index.exact import ExactIndex
from xclass.index.kinds import Index
from xclass.progress import Progress
from xclass.types import Ragged, TopK

INDEX_RECALL = (
    "items of the index's first {k} that the exact first {k} hold, or that score as high as its last / length of the "
    "exact list; macro mean over queries with a list"
)
FIRST_PARAMETER = {"efSearch": 16, "nprobe": 1}
LARGEST_EF = 4096


@dataclass(frozen=True, slots=True)
class Point:
    """One setting of the search parameter and what it gives on the held-out queries."""

    value: int | None
    index_recall: float
    queries_per_s: float


@dataclass(frozen=True, slots=True)
class IndexReport:
    """What :func:`tune` found. ``index`` is the one to use: the tuned one, or the exact one.

    frontier: every setting tried, in order.
    fell_back: why the exact search is used instead, None when it is not.
    """

    index: Index
    k: int
    target_recall: float
    index_recall: float
    queries_per_s: float
    exact_queries_per_s: float
    num_queries: int
    build_s: float
    memory_bytes: int
    frontier: list[Point] = field(default_factory=list)
    fell_back: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """What ``xclass index --json`` prints."""
        return {
            **self.index.describe(),
            "num_items": self.index.num_items,
            "dim": self.index.dim,
            f"index_recall@{self.k}": self.index_recall,
            "definition": INDEX_RECALL.format(k=self.k),
            "target_recall": self.target_recall,
            "queries_per_s": self.queries_per_s,
            "exact_queries_per_s": self.exact_queries_per_s,
            "num_queries": self.num_queries,
            "memory_bytes": self.memory_bytes,
            "build_s": self.build_s,
            "frontier": [asdict(point) for point in self.frontier],
            "fell_back": self.fell_back,
        }


def index_recall(found: TopK, exact: TopK) -> Tensor:
    """float64 (B,): the share of the exact list that was found; NaN where the exact list is empty.

    An item that is not in the exact list but scores at least as high as its last one counts as found: among equal
    scores nobody is more right. The score must reach the last one's within 1e-6 of it.
    """
    if len(found) != len(exact):
        raise InputError("two results of different length", wanted=len(exact), got=len(found))
    stride = 1 + max((int(ids.max()) for ids in (found.ids, exact.ids) if len(ids)), default=0)
    rows = found.rows()
    in_exact = torch.isin(rows * stride + found.ids, exact.rows() * stride + exact.ids, assume_unique=True)
    lengths = exact.lengths()
    last = torch.full((len(exact),), torch.inf)
    some = lengths > 0
    last[some] = exact.scores[exact.offsets[1:][some] - 1]
    hits = in_exact | (found.scores >= last[rows] - 1e-6 * last[rows].abs().nan_to_num(posinf=0))
    counts = torch.bincount(rows[hits], minlength=len(exact)).minimum(lengths)
    return torch.where(some, counts.double() / lengths.clamp(min=1), torch.nan)


def tune(index: Index, query_BD: Tensor, k: int, target_recall: float, exclude: Ragged | None = None) -> IndexReport:
    """Double the search parameter until the index finds ``target_recall`` of the exact top k.

    Args:
        index: built. Its search parameter is set; an index without one is only measured.
        query_BD: held-out query vectors, of the kind that will be searched with. A thousand are plenty.
        k: the cut-off that the index is for.
        target_recall: in (0, 1], of :func:`index_recall` averaged over the queries.
        exclude: Ragged (B), items to leave out of both searches, as they will be in use.

    Returns:
        The report; ``report.index`` is exact when the target cannot be reached, and ``report.fell_back`` says so.
    """
    if not 0 < target_recall <= 1:
        raise InputError("target recall is out of range", wanted="above 0, at most 1", got=target_recall)
    if not len(query_BD):
        raise InputError("an index is tuned on held-out queries", wanted="one or more", got="none")
    exact = index if isinstance(index, ExactIndex) else ExactIndex()
    if exact is not index:
        exact.build(index.vectors)
    truth, exact_qps = _timed(exact, query_BD, k, exclude)
    frontier = []
    for value in _values(index):
        if isinstance(index, FaissIndex) and value is not None:
            index.set_search_parameter(value)
        frontier.append(_measure(index, query_BD, k, exclude, truth, value))
        if frontier[-1].index_recall >= target_recall:
            break
    best = frontier[-1]
    unreachable = best.index_recall < target_recall
    if unreachable:
        best = Point(None, 1.0, exact_qps)
    return IndexReport(
        index=exact if unreachable else index,
        k=k,
        target_recall=target_recall,
        index_recall=best.index_recall,
        queries_per_s=best.queries_per_s,
        exact_queries_per_s=exact_qps,
        num_queries=len(query_BD),
        build_s=index.build_s if isinstance(index, FaissIndex) else 0.0,
        memory_bytes=memory_bytes(exact if unreachable else index),
        frontier=frontier,
        fell_back=_reason(index, frontier, target_recall) if unreachable else None,
    )


def memory_bytes(index: Index) -> int:
    """Bytes of the vectors as they are stored, plus what a Faiss index holds beside them (its size as written)."""
    return index.vectors.nbytes + (index.faiss_bytes() if isinstance(index, FaissIndex) else 0)


def _values(index: Index) -> list[int | None]:
    """The parameter's values to try: powers of two up to what makes sense for this index."""
    if not isinstance(index, FaissIndex) or index.parameter is None:
        return [None]
    largest = min(LARGEST_EF, index.num_items) if index.parameter == "efSearch" else index.num_lists
    values, value = [], FIRST_PARAMETER[index.parameter]
    while value < largest:
        values.append(value)
        value *= 2
    return [*values, largest]


def _measure(index: Index, query_BD: Tensor, k: int, exclude: Ragged | None, truth: TopK, value: int | None) -> Point:
    found, queries_per_s = _timed(index, query_BD, k, exclude)
    return Point(value, float(torch.nanmean(index_recall(found, truth)).nan_to_num(1.0)), queries_per_s)


def _timed(index: Index, query_BD: Tensor, k: int, exclude: Ragged | None) -> tuple[TopK, float]:
    """Search in chunks, with progress; the result and queries per second."""
    parts, started = [], time.perf_counter()
    with Progress(f"measure {index.kind}", len(query_BD), "queries") as progress:
        for start in range(0, len(query_BD), 1024):
            stop = min(start + 1024, len(query_BD))
            hidden = None if exclude is None else exclude.slice(start, stop)
            parts.append(index.search(query_BD[start:stop], k, hidden))
            progress.advance(stop - start)
    return TopK.concat(parts), len(query_BD) / max(time.perf_counter() - started, 1e-9)


def _reason(index: Index, frontier: list[Point], target: float) -> str:
    best = max(frontier, key=lambda point: point.index_recall)
    setting = "" if best.value is None else f" at {getattr(index, 'parameter', 'parameter')} {best.value}"
    return f"{index.kind} reached {best.index_recall:.4f}{setting}, not {target}: exact search is used"
