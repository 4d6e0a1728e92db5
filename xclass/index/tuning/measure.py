"""How much of the exact answer an index finds, and how fast."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch
from torch import Tensor

from xclass.errors import InputError
from xclass.index.approximate import ApproximateIndex
from xclass.index.build import Index
from xclass.index.exact import ExactIndex
from xclass.types import Ragged, TopK
from xclass.types.vectors import TensorVectors, Vectors

INDEX_RECALL = (
    "items of the index's first {k} that the exact first {k} hold, or that score as high as its last / length of the "
    "exact list; macro mean over queries with a list"
)
LONG_ENOUGH_S = 0.4
MOST_ROUNDS = 5
FLAT_ROWS = 1 << 20


@dataclass(frozen=True, slots=True)
class Point:
    """One index with one setting of its search, and what it gives on the held-out queries.

    memory_bytes: of the item vectors as they are stored and of what the index holds beside them.
    least_recall: ``index_recall`` less its standard error over the queries; 1 when everything was found.
    """

    kind: str
    factory: str | None
    parameters: dict[str, int]
    index_recall: float
    queries_per_s: float
    memory_bytes: int
    build_s: float
    least_recall: float


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


@dataclass(slots=True)
class HeldOut:
    """Queries to measure with, and their exact lists, which are found once.

    Args:
        query_BD: of the kind that will be searched with. A few thousand are plenty.
        k: the cut-off that is measured.
        exclude: Ragged (B), left out of both searches, as in use.
    """

    query_BD: Tensor
    k: int
    exclude: Ragged | None = None
    truth: TopK | None = None
    exact_queries_per_s: float = 0.0
    points: list[Point] = field(default_factory=list)

    def against(self, vectors: Vectors) -> ExactIndex:
        """Find the exact lists among these vectors, once; the index that found them."""
        exact = ExactIndex()
        exact.vectors = vectors
        if self.truth is None:
            self.truth, self.exact_queries_per_s = searched(exact, self.query_BD, self.k, self.exclude, rounds=1)
        return exact

    def rate(self, index: Index) -> float:
        """Queries per second of one round with the index as it is set."""
        return searched(index, self.query_BD, self.k, self.exclude, rounds=1)[1]

    def measure(self, index: Index, rounds: int = MOST_ROUNDS) -> Point:
        """Search with the index as it is set; the point is kept in ``points``."""
        assert self.truth is not None
        found, rate = searched(index, self.query_BD, self.k, self.exclude, rounds)
        shares = index_recall(found, self.truth)
        shares = shares[~shares.isnan()]
        mean = float(shares.mean()) if len(shares) else 1.0
        error = float(shares.std()) / len(shares) ** 0.5 if len(shares) > 1 else 0.0
        about = index.describe()
        settings = dict(about["search_parameters"])
        size, seconds = memory_bytes(index), about.get("build_s", 0.0)
        point = Point(index.kind, about["factory"], settings, mean, rate, size, seconds, min(mean, mean - error))
        self.points.append(point)
        return point


def searched(
    index: Index, query_BD: Tensor, k: int, exclude: Ragged | None, rounds: int = MOST_ROUNDS
) -> tuple[TopK, float]:
    """The result and queries per second: the fastest of so many rounds, fewer where one takes long."""
    best, total, found = float("inf"), 0.0, None
    for _ in range(rounds):
        parts, started = [], time.perf_counter()
        for start in range(0, len(query_BD), index.queries_at_once):
            stop = min(start + index.queries_at_once, len(query_BD))
            hidden = None if exclude is None else exclude.slice(start, stop)
            parts.append(index.search(query_BD[start:stop], k, hidden))
        seconds = time.perf_counter() - started
        found, best, total = TopK.concat(parts), min(best, seconds), total + seconds
        if total > LONG_ENOUGH_S:
            break
    assert found is not None
    return found, len(query_BD) / max(best, 1e-9)


def memory_bytes(index: Index) -> int:
    """Bytes of the vectors as they are stored, plus what an index holds beside them (Faiss: its size as written)."""
    return index.vectors.nbytes + (index.extra_bytes() if isinstance(index, ApproximateIndex) else 0)


def flat_queries_per_s(vectors: Vectors, query_BD: Tensor, k: int) -> float | None:
    """Queries/s of Faiss's exact search over these vectors, nothing excluded; None where Faiss is not installed."""
    from xclass.index.faiss.factory import faiss_installed, faiss_module

    if not faiss_installed():
        return None
    faiss, seconds = faiss_module(), 0.0
    whole = isinstance(vectors, TensorVectors) and vectors.rows.dtype == torch.float32
    for _, block in vectors.blocks(len(vectors) if whole else FLAT_ROWS):
        rows = block.cpu().contiguous().numpy()
        started = time.perf_counter()
        faiss.knn(query_BD.numpy(), rows, min(k, len(rows)), metric=faiss.METRIC_INNER_PRODUCT)
        seconds += time.perf_counter() - started
    return len(query_BD) / max(seconds, 1e-9)
