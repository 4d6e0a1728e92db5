"""Indexes over a million vectors: what tuning finds, an exhaustive sweep of Faiss beside it, hash tables.

    python benchmarks/bench_index.py exact|tuned|sweep|hash|large|calls|build|learn [--data planted|learned|clusters]
        [-k 10] [--items N] [--keep FOLDER]

exact   exact search through torch beside Faiss flat
tuned   what `find_index` settles on for a recall of .95 among builds in FOLDER, beside the best build that Faiss
        makes by itself, through the seam and called directly, and beside Faiss flat
sweep   every family of Faiss over a grid of its parameters, and the first builds of ours: the least processor time of
        one thread that each takes for .95
hash    LSH and winner-take-all: agreement of the top k, share of the items scored, queries/s
large   one fastscan build, kept in FOLDER: its time, memory and queries/s (--items 10000000)
calls   what the seam costs above Faiss in calls of 64 to 4096 queries
build   the builds of fastscan, kept in FOLDER
learn   train the run whose vectors are --data learned, in FOLDER (index_data.py says what the data are)

Correctness first: the two exact searches must find the same items (but for equal scores) before either is timed, and
every rate stands beside its recall. What is compared is timed in turn, in one process, with the same number of threads;
compare the ratios of one run. Builds are kept in FOLDER, so that a second run only times.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import torch
from index_data import clustered_vectors, learn, learned_vectors, planted_vectors

from xclass.index import ExactIndex, FaissIndex, HashIndex, IndexConfig, build_index, index_recall
from xclass.index.faiss.factory import builds
from xclass.index.faiss.spread import GRAPH, is_spread
from xclass.index.tuning.measure import HeldOut, Point
from xclass.index.tuning.tune import cheapest, faster
from xclass.runtime.rng import torch_generator
from xclass.types import Ragged, TopK, offsets_of
from xclass.types.vectors import TensorVectors

ROUNDS = 5
HELD = [4096]
SWEPT = 1024
ONLY: list[str] = []
KEPT = [""]
TARGET = 0.95
NPROBES = {
    "IVF256": (1, 2, 3, 4, 6, 8, 12, 16, 24, 32),
    "IVF1024": (1, 2, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 64, 96),
    "IVF2048": (2, 4, 8, 12, 16, 24, 32, 40, 48, 64, 96, 128),
    "IVF4096": (2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192),
}
REFINES = {10: (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32), 100: (1, 1.5, 2, 2.5, 3, 3.5, 4, 5, 6, 8, 10)}
FAMILIES = (
    "Spread,IVF4096_HNSW32,PQ64x4fs", "Spread,IVF4096,PQ64x4fs",
    *(f"{lists},PQ64x4fs,RFlat" for lists in NPROBES), "IVF1024,PQ32x4fs,RFlat", "IVF4096,PQ32x4fs,RFlat",
    "IVF4096_HNSW32,PQ64x4fs,RFlat", "OPQ64,IVF1024,PQ64x4fs,RFlat", "IVF1024,RaBitQfs,RFlat", "IVF1024,PQ32,RFlat",
    "IVF1024,SQ8", "IVF1024,Flat", "HNSW32,SQ8", "HNSW32,Flat",
)  # fmt: skip


def timed(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def side_by_side(named: dict[str, tuple[Callable[[], object], int]]) -> dict[str, float]:
    """Median queries/s of each (action, its queries) over a few rounds, taken in turn."""
    taken: dict[str, list[float]] = {name: [] for name in named}
    for _ in range(ROUNDS):
        for name, (action, _) in named.items():
            taken[name].append(timed(action))
    return {name: named[name][1] / statistics.median(seconds) for name, seconds in taken.items()}


def show(rates: dict[str, float], reference: str) -> None:
    for name, rate in rates.items():
        print(f"{name:<44} {rate:>10,.0f} queries/s {rate / rates[reference]:>8.2f}×", flush=True)


def as_topk(scores: np.ndarray, ids: np.ndarray) -> TopK:
    ids_BK, scores_BK = torch.from_numpy(ids), torch.from_numpy(scores)
    return TopK(offsets_of(torch.full((len(ids_BK),), ids_BK.shape[1])), ids_BK.flatten(), scores_BK.flatten())


def in_batches(search: Callable[[torch.Tensor], object], queries: torch.Tensor, size: int) -> Callable[[], object]:
    return lambda: [search(part) for part in queries.split(size)]


def some_excluded(num_queries: int, num_items: int) -> Ragged:
    """50 random items a query."""
    generator = torch_generator(0, "bench index exclusions")
    lengths = torch.full((num_queries,), 50)
    return Ragged(offsets_of(lengths), torch.randint(num_items, (int(lengths.sum()),), generator=generator))


def bench_exact(vectors: torch.Tensor, queries: torch.Tensor, k: int, keep: Path) -> None:
    exact = ExactIndex()
    exact.build(vectors)
    flat = faiss.IndexFlatIP(vectors.shape[1])
    flat.add(vectors.numpy())
    found = exact.search(queries, k)
    agreement = float(index_recall(found, as_topk(*flat.search(queries.numpy(), k))).mean())
    assert agreement > 0.99999, f"the two exact searches differ: {agreement}"
    exclude = some_excluded(len(queries), len(vectors))
    rates = side_by_side(
        {
            "Faiss flat": (lambda: flat.search(queries.numpy(), k), len(queries)),
            "exact, torch": (lambda: exact.search(queries, k), len(queries)),
            "exact, torch, 50 excluded a query": (lambda: exact.search(queries, k, exclude), len(queries)),
        }
    )
    show(rates, "Faiss flat")


def bench_tuned(vectors: torch.Tensor, queries: torch.Tensor, k: int, keep: Path) -> None:
    """The tuned index beside the best plain build of Faiss, through the seam and called directly, and beside flat."""
    held, others = queries[: HELD[0]], queries[HELD[0] :]
    index, plain = tuned_builds(vectors, held, k, keep)
    exact = ExactIndex()
    exact.build(vectors)
    few = others[: HELD[0]]
    truth = exact.search(few, k)
    size = min(index.queries_at_once, len(others))
    exclude = some_excluded(size, len(vectors))
    searches: dict[str, Callable[[torch.Tensor], TopK]] = {
        "the tuned index": lambda part: index.search(part, k),
        "the same, 50 excluded a query": lambda part: index.search(part, k, exclude.slice(0, len(part))),
    }
    if plain is not None:
        direct = faiss.IndexRefineFlat(plain.faiss, faiss.swig_ptr(vectors.numpy()))
        direct.k_factor = plain.parameters["refine"]
        searches[f"{plain.factory}, its best"] = lambda part: plain.search(part, k)
        searches["the same by Faiss alone, its own refinement"] = lambda part: as_topk(*direct.search(part.numpy(), k))
    for name in list(searches)[::2]:
        share = float(index_recall(TopK.concat([searches[name](part) for part in few.split(size)]), truth).mean())
        print(f"{name}: index recall@{k} on other queries {share:.4f}")
    timed_ones: dict[str, tuple[Callable[[], object], int]] = {
        name: (in_batches(search, others, size), len(others)) for name, search in searches.items()
    }
    timed_ones["Faiss flat"] = (
        lambda: faiss.knn(few.numpy(), vectors.numpy(), k, metric=faiss.METRIC_INNER_PRODUCT),
        len(few),
    )
    show(side_by_side(timed_ones), "Faiss flat")


def bench_sweep(vectors: torch.Tensor, queries: torch.Tensor, k: int, keep: Path) -> None:
    """Processor time of one thread, which other work on the machine disturbs least."""
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    others = queries[HELD[0] : HELD[0] + SWEPT]
    exact = ExactIndex()
    exact.build(vectors)
    truth = exact.search(others, k)
    flat_s = cpu_s(lambda: faiss.knn(others.numpy(), vectors.numpy(), k, metric=faiss.METRIC_INNER_PRODUCT), 1)
    print(f"Faiss flat {1e6 * flat_s / len(others):,.0f} µs a query")

    def recall_of(action: Callable[[], TopK]) -> float:
        return float(index_recall(action(), truth).mean())

    for factory in ONLY or FAMILIES:
        index: faiss.Index | AsFaiss = (
            AsFaiss(ours(factory, vectors, keep)) if is_spread(factory) else kept(factory, vectors, keep)
        )
        best = math.inf, "not reached"
        for reach in settings(factory, k):
            found, setting, seconds = cheapest_depth(index, reach, others, k, recall_of)
            best = min(best, (seconds, f"{found:.4f} {setting}"))
            if seconds > 1.5 * best[0]:
                break
        print(f"{factory:<34} {1e6 * best[0] / len(others):>8,.1f} µs a query {best[1]}", flush=True)


class AsFaiss:
    """An index of ours that searches as Faiss's do."""

    def __init__(self, own: FaissIndex) -> None:
        self.own = own

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        found = self.own.search(torch.from_numpy(queries), k)
        return found.scores.view(-1, k).numpy(), found.ids.view(-1, k).numpy()


def cheapest_depth(
    index: faiss.Index | AsFaiss,
    depths: list[dict[str, float]],
    queries: torch.Tensor,
    k: int,
    recall_of: Callable[[Callable[[], TopK]], float],
) -> tuple[float, dict[str, float], float]:
    """Recall, setting and processor time of the first depth that reaches the target; ∞ where the last does not."""

    def search() -> TopK:
        return as_topk(*index.search(queries.numpy(), k))

    def reached(setting: dict[str, float]) -> float:
        for name, value in setting.items():
            if isinstance(index, AsFaiss):
                index.own.set_parameters(**{name: int(value)})
            else:
                faiss.ParameterSpace().set_index_parameter(index, name, value)
        return recall_of(search)

    if len(depths) > 1 and (share := reached(depths[-1])) < TARGET:
        return share, depths[-1], math.inf
    for setting in depths:
        share = reached(setting)
        if share >= TARGET:
            return share, setting, cpu_s(search)
    return share, setting, math.inf


def tuned_builds(vectors: torch.Tensor, held: torch.Tensor, k: int, keep: Path) -> tuple[FaissIndex, FaissIndex | None]:
    """What `find_index` does with the builds of `fastscan`: the best of all, and the best of those that are Faiss's."""
    measured = HeldOut(held, k)
    rivals: list[tuple[FaissIndex, Point]] = []
    measured.against(TensorVectors(vectors))
    for factory in ONLY or builds("fastscan", *vectors.shape):
        index = ours(factory, vectors, keep)
        point = cheapest(index, measured, TARGET)
        print(
            f"    {factory}: {point and (point.parameters, round(point.index_recall, 4), round(point.queries_per_s))}",
            flush=True,
        )
        if point is not None:
            rivals.append((index, point))
    plain: FaissIndex | None = None
    for index, point in sorted(rivals, key=lambda rival: rival[1].queries_per_s):
        index.set_parameters(**point.parameters)
        plain = plain if is_spread(index.factory) else index
    chosen, point = faster(measured, rivals)
    assert isinstance(chosen, FaissIndex)
    chosen.set_parameters(**point.parameters)
    print(f"chosen: {chosen.factory} {point.parameters}, of {len(measured.points)} settings measured", flush=True)
    return chosen, plain


def ours(factory: str, vectors: torch.Tensor, keep: Path) -> FaissIndex:
    """The index that `build_index` makes, from ``keep``, built and written there the first time."""
    index = FaissIndex("fastscan", factory)
    same = GRAPH.sub("", factory) if is_spread(factory) else factory  # only the way to the lists differs
    name = f"ours-{same}-{len(vectors)}-{KEPT[0]}"
    path, table = keep / f"{name}.faiss", keep / f"{name}.npy"
    if path.exists():
        index.restore(faiss.read_index(str(path)), vectors, 0.0, np.load(table) if table.exists() else None)
        return index
    index.build(vectors)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"    {factory}: built in {index.build_s:.0f} s, load {os.getloadavg()[0]:.1f}, peak {peak:.1f} GiB in all")
    keep.mkdir(parents=True, exist_ok=True)
    faiss.write_index(index.faiss, str(path))
    if index.spread is not None:
        np.save(table, index.spread.table)
    return index


def cpu_s(action: Callable[[], object], rounds: int = 3) -> float:
    """The least processor time of a few rounds."""
    best = math.inf
    for _ in range(rounds):
        started = time.process_time()
        action()
        best = min(best, time.process_time() - started)
    return best


def settings(factory: str, k: int) -> list[list[dict[str, float]]]:
    """For each reach the depths from the least on: the first that reaches the target is the cheapest."""
    if factory.startswith("HNSW"):
        return [[{"efSearch": value}] for value in (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)]
    lists = max((name for name in NPROBES if name in factory), key=len)
    if is_spread(factory):
        depths = [{"refine": depth} for depth in REFINES[k] if depth == int(depth)]
        return [[{"nprobe": reach, **depth} for depth in depths] for reach in NPROBES[lists]]
    if "RFlat" not in factory:
        return [[{"nprobe": reach}] for reach in NPROBES[lists]]
    return [[{"nprobe": reach, "k_factor_rf": depth} for depth in REFINES[k]] for reach in NPROBES[lists]]


def kept(factory: str, vectors: torch.Tensor, keep: Path) -> faiss.Index:
    """A Faiss index from ``keep``, built and written there the first time. Refinement is added when it is read."""
    plain = factory.removesuffix(",RFlat")
    path = keep / f"{plain}-{len(vectors)}-{KEPT[0]}.faiss"
    if path.exists():
        index = faiss.read_index(str(path))
    else:
        index = faiss.index_factory(vectors.shape[1], plain, faiss.METRIC_INNER_PRODUCT)
        index.train(vectors[: 1 << 18].numpy())
        index.add(vectors.numpy())
        keep.mkdir(parents=True, exist_ok=True)
        faiss.write_index(index, str(path))
    if plain == factory:
        return index
    refined = faiss.IndexRefineFlat(index, faiss.swig_ptr(vectors.numpy()))
    refined.referenced_objects = [index]
    return refined


def bench_hash(vectors: torch.Tensor, queries: torch.Tensor, k: int, keep: Path) -> None:
    held, others = queries[: HELD[0]], queries[HELD[0] : 2 * HELD[0]]
    exact = ExactIndex()
    exact.build(vectors)
    truth, held_out = exact.search(others, k), HeldOut(held, k)
    held_out.against(TensorVectors(vectors))
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    flat_s = cpu_s(lambda: faiss.knn(others.numpy(), vectors.numpy(), k, metric=faiss.METRIC_INNER_PRODUCT), 1)
    print(f"one thread, processor time: Faiss flat {1e6 * flat_s / len(others):,.0f} µs a query")
    for kind in ("lsh", "wta"):
        index = build_index(vectors, IndexConfig(kind=kind))
        assert isinstance(index, HashIndex)
        point = cheapest(index, held_out, TARGET)
        assert point is not None
        print(f"\n{index.factory}: built in {index.build_s:.1f} s, {index.extra_bytes() / 1e6:,.0f} MB")
        for near in (0.25, 0.5, 1, 2):
            index.set_parameters(**{**point.parameters, "probes": max(round(point.parameters["probes"] * near), 1)})
            agreed = float(index_recall(index.search(others, k), truth).mean())
            share = index.scored_share
            seconds = cpu_s(in_batches(lambda part: index.search(part, k), others, 1024), 2)  # noqa: B023
            print(
                f"    {index.parameters}: agreement of the top {k} {agreed:.4f}, {share:.3%} of the items scored, "
                f"{1e6 * seconds / len(others):,.0f} µs a query, {flat_s / seconds:.1f}× Faiss flat"
            )


def bench_calls(vectors: torch.Tensor, queries: torch.Tensor, k: int, keep: Path) -> None:
    """A build of Faiss with usual parameters, through the seam and called directly, in calls of different sizes."""
    index = ours(next(name for name in builds("fastscan", *vectors.shape) if not is_spread(name)), vectors, keep)
    index.set_parameters(**({"nprobe": 19, "refine": 5} if k == 10 else {"nprobe": 45, "refine": 2}))
    direct = faiss.IndexRefineFlat(index.faiss, faiss.swig_ptr(vectors.numpy()))
    direct.k_factor = index.parameters["refine"]
    print(f"{index.factory} {index.parameters}")
    for size in (64, 256, 1024, 2048, 4096):
        exclude, total = some_excluded(size, len(vectors)), queries[: len(queries) // size * size]
        searches: dict[str, Callable[[torch.Tensor], object]] = {
            "Faiss alone": lambda part: direct.search(part.numpy(), k),
            "through the seam": lambda part: index.search(part, k),
            "50 excluded a query": lambda part: index.search(part, k, exclude),  # noqa: B023
        }
        rates = side_by_side({name: (in_batches(it, total, size), len(total)) for name, it in searches.items()})
        show(
            {f"{size:,} queries a call: {name}": rate for name, rate in rates.items()},
            f"{size:,} queries a call: Faiss alone",
        )


def bench_build(vectors: torch.Tensor, queries: torch.Tensor, k: int, keep: Path) -> None:
    for factory in ONLY or builds("fastscan", *vectors.shape):
        print(f"{factory}: {ours(factory, vectors, keep).extra_bytes() / 1e6:,.0f} MB beside the vectors", flush=True)


def bench_large(vectors: torch.Tensor, queries: torch.Tensor, k: int, keep: Path) -> None:
    held = HeldOut(queries, k)
    for factory in ONLY or builds("fastscan", *vectors.shape)[:1]:
        index = ours(factory, vectors, keep)
        size = index.extra_bytes()
        print(f"{(size + vectors.nbytes) / 2**30:.2f} GiB with the vectors, {size / 2**30:.2f} without", flush=True)
        held.against(TensorVectors(vectors))
        print(f"exact {held.exact_queries_per_s:,.0f} queries/s", flush=True)
        for target in (0.9, 0.95):
            point = cheapest(index, held, target)
            print(f"for {target}: {point}", flush=True)


STAGES = {
    "exact": bench_exact, "tuned": bench_tuned, "sweep": bench_sweep, "hash": bench_hash, "large": bench_large,
    "build": bench_build,
    "calls": bench_calls,
}  # fmt: skip


def main() -> None:
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", nargs="?", default="tuned", choices=[*STAGES, "learn"])
    parser.add_argument("--data", default="planted", choices=["planted", "learned", "clusters"])
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=12288)
    parser.add_argument("--held", type=int, default=HELD[0], help="queries to tune with")
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--noise", type=float, default=0.7)
    parser.add_argument("-k", type=int, default=10)
    parser.add_argument("--keep", type=Path, default=Path("indexes"))
    parser.add_argument("--family", action="append", help="these factory strings instead of all families or builds")
    options = parser.parse_args()
    ONLY.extend(options.family or [])
    KEPT[0], HELD[0] = options.data, options.held
    versions = f"torch {torch.__version__}, faiss {faiss.__version__}, {platform.machine()}"
    print(f"{versions}, {torch.get_num_threads()} threads of {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    if options.stage == "learn":
        learn(options.keep)
        return
    size = options.items, options.queries
    if options.data == "learned":
        vectors, queries = learned_vectors(options.keep, *size)
    elif options.data == "planted":
        vectors, queries = planted_vectors(*size, options.dim)
    else:
        vectors, queries = clustered_vectors(*size, options.dim, options.noise)
    print(f"{options.data}: {len(vectors):,} × {vectors.shape[1]}, {len(queries):,} queries, k = {options.k}")
    STAGES[options.stage](vectors, queries, options.k, options.keep)


if __name__ == "__main__":
    main()
