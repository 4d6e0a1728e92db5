"""Inverted lists that are ranked by what they may hold, not by their mean alone: ``Spread,IVF…``.

Faiss ranks lists by ⟨q, c⟩. A list whose items lie far from its centroid c holds better ones than ⟨q, c⟩ says: where
norms differ, or where popularity is a coordinate, the best items stand at the ends of their lists.
"""

from __future__ import annotations

import re
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xclass.errors import ConfigError
from xclass.index.faiss.factory import faiss_bytes, faiss_module, threads
from xclass.types.vectors import Vectors

PREFIX = "Spread,"
DEVIATIONS = 2.0
ROUNDS = 10
GRAPH = re.compile(r"_HNSW(\d+)")
EF_CONSTRUCTION = 80


class SpreadLists:
    """An IVF index of Faiss whose lists are made and ranked by us.

    Taking the same vector off all items changes no ranking, so the items are centred. Lists are clusters by k-means
    with squared distances: for queries of any direction, |x − c|² |q|² / D is the mean square of what the score of c
    tells wrongly of the score of x. A list of centroid c and root mean squared distance s from it is ranked by

        ⟨q, c⟩ + 2 |q| s / √D,

    about the score that one in fifty of its items reaches: scores in a list have the variance qᵀΣq, on the average
    over directions |q|² s² / D. It is an inner product of one dimension more, so finding the first lists costs what
    it costs Faiss; in ``Spread,IVF4096_HNSW32,…`` the graph is over these vectors.

    Memory: 4·(D + 1) bytes a list, and the graph.

    Args:
        faiss_index: an IVF index over the centred items.
        table: float32 (lists, D+1): c, and 2 s / √D.
        factory: the string that made it, with the prefix.

    Attributes:
        train_s: seconds that training took; 0 for an index that was read.
    """

    def __init__(self, faiss_index: Any, table: np.ndarray[Any, Any], factory: str) -> None:
        self.table, self.train_s = np.ascontiguousarray(table, np.float32), 0.0
        self._index = faiss_module().downcast_index(faiss_index)
        graph = GRAPH.search(factory)
        self._router = _graph(self.table, int(graph[1])) if graph else _flat(self.table)

    @classmethod
    def fill(cls, faiss_index: Any, vectors: Vectors, training: Tensor, block: int, factory: str) -> SpreadLists:
        """Train an empty index of :func:`without_spread` and add all of ``vectors``.

        Args:
            training: some of the rows; each of them meets each centroid ten times.
            block: rows that are given to Faiss at once.

        Raises:
            ConfigError: no IVF index, or one with something around it.
        """
        faiss, started = faiss_module(), time.perf_counter()
        index = faiss.downcast_index(faiss_index)
        if not isinstance(index, faiss.IndexIVF):
            raise ConfigError("only inverted lists can be spread", got=factory, wanted="Spread,IVF… and codes")
        mean = _mean(vectors)
        training = training.cpu() - mean
        clusters = faiss.Kmeans(vectors.dim, index.nlist, niter=ROUNDS)
        clusters.train(training.numpy())
        quantizer = faiss.downcast_index(index.quantizer)
        quantizer.metric_type = faiss.METRIC_L2
        quantizer.add(clusters.centroids)
        index.train(training.numpy())
        train_s = time.perf_counter() - started
        for _, rows in vectors.blocks(block):
            index.add((rows.cpu() - mean).numpy())
        made = cls(index, _table(index, vectors, mean), factory)
        made.train_s = train_s
        return made

    @property
    def nbytes(self) -> int:
        """Of the lists' vectors and the graph over them."""
        return faiss_bytes(self._router)

    def search(self, query_BD: Tensor, fetch: int, parameters: Any = None) -> Tensor:
        """int64 (B, fetch): proposals from the ``nprobe`` first lists, −1 behind the last."""
        faiss = faiss_module()
        norms = torch.linalg.vector_norm(query_BD, dim=1, keepdim=True)
        nprobe = min((self._index if parameters is None else parameters).nprobe, len(self.table))
        ranks, lists = self._router.search(torch.cat([query_BD, norms], 1).numpy(), nprobe)
        ranks -= norms.numpy() * self.table[lists, -1]  # where codes say what is left of c, they add to ⟨q, c⟩
        parameters = faiss.SearchParametersIVF() if parameters is None else parameters
        parameters.nprobe = nprobe
        scores, found = np.empty((len(query_BD), fetch), np.float32), np.empty((len(query_BD), fetch), np.int64)
        given = [faiss.swig_ptr(array) for array in (query_BD.numpy(), lists, ranks, scores, found)]
        self._index.search_preassigned_c(len(query_BD), given[0], fetch, *given[1:], False, parameters)
        return torch.from_numpy(found)


def is_spread(factory: str) -> bool:
    """Whether a factory string asks for such lists."""
    return factory.startswith(PREFIX)


def without_spread(factory: str) -> str:
    """What Faiss is told to make.

    >>> without_spread("Spread,IVF4096_HNSW32,PQ64x4fs"), without_spread("IVF64_HNSW32,SQ8")
    ('IVF4096,PQ64x4fs', 'IVF64_HNSW32,SQ8')
    """
    return GRAPH.sub("", factory.removeprefix(PREFIX)) if is_spread(factory) else factory


def _mean(vectors: Vectors) -> Tensor:
    """float32 (D,)."""
    total = torch.zeros(vectors.dim, dtype=torch.float64)
    for _, rows in vectors.blocks():
        total += rows.cpu().double().sum(0)
    return (total / len(vectors)).float()


def _table(index: Any, vectors: Vectors, mean: Tensor) -> np.ndarray[Any, Any]:
    """Centroids and spreads of the lists, over all of their items."""
    centroids = torch.from_numpy(index.quantizer.reconstruct_n(0, index.nlist))
    which, squares = _lists_of(index), torch.zeros(index.nlist, dtype=torch.float64)
    for start, rows in vectors.blocks():
        there = which[start : start + len(rows)]
        squares.index_add_(0, there, (rows.cpu() - mean - centroids[there]).square_().sum(1).double())
    sizes = torch.bincount(which, minlength=index.nlist).clamp_(min=1)
    spread = DEVIATIONS * (squares / sizes / vectors.dim).sqrt_()
    return torch.cat([centroids, spread[:, None].float()], 1).numpy()


def _lists_of(index: Any) -> Tensor:
    """int64 (N,): the list that holds each item."""
    faiss = faiss_module()
    which = np.empty(index.ntotal, np.int64)
    for part in range(index.nlist):
        size = index.invlists.list_size(part)
        if size:
            which[faiss.rev_swig_ptr(index.invlists.get_ids(part), size)] = part
    return torch.from_numpy(which)


def _flat(table: np.ndarray[Any, Any]) -> Any:
    router = faiss_module().IndexFlatIP(table.shape[1])
    router.add(table)
    return router


def _graph(table: np.ndarray[Any, Any], degree: int) -> Any:
    """Built on one thread: an index that is opened again finds the same."""
    faiss = faiss_module()
    router = faiss.IndexHNSWFlat(table.shape[1], degree, faiss.METRIC_INNER_PRODUCT)
    router.hnsw.efConstruction = EF_CONSTRUCTION
    with threads(1):
        router.add(table)
    return router
