"""Search over a million vectors: exact through torch beside Faiss flat, and what the seam costs above Faiss itself.

    python benchmarks/bench_index.py [--items 1000000] [--queries 4096] [--dim 64] [-k 100] [--graph]

Correctness first: the two exact searches must find the same items (but for equal scores) before either is timed.
Faiss flat is several times slower with 1024 queries at once than with 4096, so it is given 4096. The searches are timed
in turn, in one process, with the same number of threads; compare the ratios of one run.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable

import faiss
import torch

from xclass.index import ExactIndex, FaissIndex, index_recall
from xclass.rng import torch_generator
from xclass.types import Ragged, TopK, offsets_of

ROUNDS = 3


def planted_vectors(num_items: int, num_queries: int, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Clustered unit vectors: 2000 centres, noise of .7 of their length per coordinate's spread."""
    generator = torch_generator(0, "bench index")
    centres = torch.randn(2000, dim, generator=generator)

    def draw(count: int) -> torch.Tensor:
        which = torch.randint(2000, (count,), generator=generator)
        return torch.nn.functional.normalize(centres[which] + 0.7 * torch.randn(count, dim, generator=generator), dim=1)

    return draw(num_items), draw(num_queries)


def timed(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def side_by_side(named: dict[str, Callable[[], object]], num_queries: int) -> dict[str, float]:
    """Best queries/s of each over a few rounds, taken in turn."""
    best = dict.fromkeys(named, float("inf"))
    for _ in range(ROUNDS):
        for name, action in named.items():
            best[name] = min(best[name], timed(action))
    return {name: num_queries / seconds for name, seconds in best.items()}


def as_topk(scores: object, ids: object) -> TopK:
    ids_BK, scores_BK = torch.from_numpy(ids), torch.from_numpy(scores)  # type: ignore[arg-type]
    return TopK(offsets_of(torch.full((len(ids_BK),), ids_BK.shape[1])), ids_BK.flatten(), scores_BK.flatten())


def bench_exact(vectors: torch.Tensor, queries: torch.Tensor, k: int, exclude: Ragged) -> None:
    exact = ExactIndex()
    exact.build(vectors)
    flat = faiss.IndexFlatIP(vectors.shape[1])
    flat.add(vectors.numpy())
    found = exact.search(queries, k)
    agreement = float(index_recall(found, as_topk(*flat.search(queries.numpy(), k))).mean())
    assert agreement > 0.99999, f"the two exact searches differ: {agreement}"
    seen = exclude.rows() * exact.num_items + exclude.values
    hidden = exact.search(queries, k, exclude)
    assert not torch.isin(hidden.rows() * exact.num_items + hidden.ids, seen).any(), "an excluded item was found"
    rates = side_by_side(
        {
            "exact, torch": lambda: exact.search(queries, k),
            "exact, torch, 50 excluded a query": lambda: exact.search(queries, k, exclude),
            "Faiss flat": lambda: flat.search(queries.numpy(), k),
        },
        len(queries),
    )
    show(rates, "Faiss flat")


def bench_graph(vectors: torch.Tensor, queries: torch.Tensor, k: int, exclude: Ragged) -> None:
    index = FaissIndex("hnsw")
    seconds = timed(lambda: index.build(vectors))
    print(f"\nHNSW built in {seconds:.0f} s, {index.faiss_bytes() / 1e6:,.0f} MB")
    exact = ExactIndex()
    exact.build(vectors)
    truth = exact.search(queries, k)
    for ef in (64, 128, 256, 512):
        index.set_search_parameter(ef)
        recall = float(index_recall(index.search(queries, k), truth).mean())
        rates = side_by_side(
            {
                "Faiss directly": lambda: index.faiss.search(queries.numpy(), k),
                "through the seam": lambda: index.search(queries, k),
                "through the seam, 50 excluded a query": lambda: index.search(queries, k, exclude),
            },
            len(queries),
        )
        print(f"\nefSearch {ef}: index recall@{k} {recall:.4f}")
        show(rates, "Faiss directly")


def show(rates: dict[str, float], reference: str) -> None:
    for name, rate in rates.items():
        print(f"{name:<40} {rate:>10,.0f} queries/s {rate / rates[reference]:>8.2f}×")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=4096)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("-k", type=int, default=100)
    parser.add_argument("--graph", action="store_true", help="also HNSW, which takes a minute or more to build")
    options = parser.parse_args()
    versions = f"torch {torch.__version__}, faiss {faiss.__version__}, {platform.machine()}"
    print(f"{versions}, {torch.get_num_threads()} threads of {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"{options.items:,} × {options.dim}, {options.queries:,} queries, k = {options.k}, best of {ROUNDS} in turn")
    vectors, queries = planted_vectors(options.items, options.queries, options.dim)
    generator = torch_generator(0, "bench index exclusions")
    lengths = torch.full((options.queries,), 50)
    values = torch.randint(options.items, (int(lengths.sum()),), generator=generator)
    exclude = Ragged(offsets_of(lengths), values)
    bench_exact(vectors, queries, options.k, exclude)
    if options.graph:
        bench_graph(vectors, queries, options.k, exclude)


if __name__ == "__main__":
    main()
