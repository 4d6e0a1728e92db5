"""Batch retrieval at size: memory above the index, queries/s, a kill in the middle, and what filters cost above Faiss.

    python benchmarks/bench_retrieve.py prepare DIR [--items 1000000] [--queries 1000000] [--pairs 10000000]
    python benchmarks/bench_retrieve.py whole DIR [-k 100] [--queries FILE] [--out NAME]
    python benchmarks/bench_retrieve.py kill DIR [-k 100]
    python benchmarks/bench_retrieve.py filters [--items 200000] [--factory HNSW32,Flat] [--parameter 128] [--narrow]

`whole` checks the file before it reports: every query has k distinct items, none of which it has seen. `kill` sends
SIGKILL when a third of the parts are there, resumes, and compares the two files. `filters` compares with Faiss called
directly, with the same search parameters and as many items asked for, in turn, medians of the rounds; with candidate
lists of a sixteenth and fewer Faiss gets 64 queries only: it looks at nearly all items for each of them.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import torch
from bench_index import timed
from index_data import clustered_vectors

from xclass.api import train
from xclass.batch.retrieve import PART_QUERIES
from xclass.index import ExactIndex, FaissIndex, IndexConfig, SubsetIndex, build_index, index_recall, save_index
from xclass.ingest.ingest import ingest
from xclass.ingest.options import IngestOptions
from xclass.recommender import Recommender
from xclass.retrieval.formats import PART_ROWS
from xclass.runtime.rng import torch_generator
from xclass.types import Ragged, TopK, offsets_of

CONFIG = {
    "model": {"embedding_dim": 64, "normalize": True, "temperature": 0.1},
    "sampler": {"num_sampled": 1024},
    "train": {"epochs": 1, "learning_rate": 0.05, "batch": {"by": "query", "size": 4096}},
}
SEARCH = {"nprobe": 40, "refine": 6, "efSearch": 128}
ROUNDS = 5
SLOW_QUERIES = 64


def rss_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class Peak:
    """The largest resident memory while it runs, looked at every 20 ms."""

    def __enter__(self) -> Peak:
        self.before = self.peak = rss_bytes()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            self.peak = max(self.peak, rss_bytes())


def prepare(options: argparse.Namespace) -> None:
    """A dataset, a run of one epoch over it, and its index."""
    folder = Path(options.folder)
    source = f"planted:items={options.items},queries={options.queries},pairs={options.pairs}"
    if not (folder / "dataset").exists():
        ingest(source, folder / "dataset", IngestOptions())
    if not (folder / "run").exists():
        train(folder / "dataset", CONFIG, folder / "run", device="cpu")
    recommender = Recommender.load(folder / "run")
    started = time.perf_counter()
    index = build_index(recommender.item_vectors, IndexConfig(kind="factory", factory=options.factory))
    index.set_parameters(**{name: value for name, value in SEARCH.items() if name in index.parameters})
    print(f"{index.describe()} built in {time.perf_counter() - started:.0f} s")
    save_index(index, folder / "run" / "index", recommender.run.model_hash, replace=True)
    queries = next(dataset_batches(recommender))
    exact = ExactIndex()
    exact.build(recommender.item_vectors)
    vectors, seen = queries
    recall = index_recall(index.search(vectors, options.k, seen), exact.search(vectors, options.k, seen))
    print(f"index recall@{options.k} {float(recall.mean()):.4f}")


def dataset_batches(recommender: Recommender) -> Any:
    from xclass.queries.queries import dataset_slice

    queries = dataset_slice(recommender.dataset, 0, 1024)
    for _, batch in queries.batches():
        yield recommender.model.query_vectors(batch), batch.history


def whole(options: argparse.Namespace) -> None:
    """All queries to a file in this process."""
    from xclass.batch.retrieve import Job, retrieve_to_file

    recommender = Recommender.load(Path(options.folder) / "run")
    index = recommender.index or recommender.exact_index
    out = Path(options.folder) / options.out
    vectors = recommender.item_vectors.tensor()  # the pages that a search touches anyway are the index's, not ours
    float(vectors.sum())
    with Peak() as memory:
        written = retrieve_to_file(recommender, out, Job(k=options.k), resume=options.resume)
    above = (memory.peak - memory.before) / 2**30
    said = {name: round(value) for name, value in written.to_dict().items()}
    print(json.dumps({"index": index.describe(), **said, "seconds": round(written.seconds, 1)}))
    print(f"resident with the index {memory.before / 2**30:.2f} GiB, at most {above:.2f} GiB above it")
    print(f"{out.stat().st_size / 1e9:.2f} GB written; {written.resumed_parts} parts were there")
    check(recommender, out, options.k)


def check(recommender: Recommender, out: Path, k: int) -> None:
    """Every 97th query's list: k distinct items, best first, none seen."""
    ids = recommender.run.query_ids
    rows = torch.arange(0, len(ids), 97)
    asked = ids.gather(rows.numpy())
    table = pl.scan_parquet(out).filter(pl.col("query_id").is_in(asked.implode())).collect()
    seen = recommender.dataset.seen("test").take(rows).long()
    items = recommender.run.item_ids
    lists = dict(table.group_by("query_id").agg("item_id").rows())
    for query, history in zip(asked, seen.to_lists(), strict=True):
        found = lists[query]
        assert len(found) == k == len(set(found)), f"{query}: {len(found)} items"
        assert not set(found) & set(items.gather(history).to_list()), f"{query} gets what it has seen"
    print(f"checked {len(rows):,} lists")


def kill(options: argparse.Namespace) -> None:
    """SIGKILL at a third of the parts; resume; the same rows as the file of `whole`."""
    folder = Path(options.folder)
    parts = folder / ".killed.parquet.parts"
    command = [
        sys.executable,
        __file__,
        "whole",
        options.folder,
        "-k",
        str(options.k),
        "--out",
        "killed.parquet",
        "--resume",
    ]
    part = max(round(PART_ROWS / options.k / PART_QUERIES), 1) * PART_QUERIES
    total = -(-Recommender.load(folder / "run").run.num_queries // part)
    with subprocess.Popen(command) as process:
        while len(list(parts.glob("part-*.json"))) < total // 3:
            assert process.poll() is None, "it ended before it was killed"
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    finished = len(list(parts.glob("part-*.json")))
    begun = len(list(parts.glob("part-*.parquet")) + list(parts.glob(".part-*.tmp")))
    print(f"killed with {finished} parts finished, {begun - finished} begun")
    subprocess.run(command, check=True)
    columns = ["query_id", "rank", "item_id", "score"]
    hashes = [
        pl.scan_parquet(folder / name).select(pl.struct(columns).hash(0).sum()).collect(engine="streaming").item()
        for name in ("killed.parquet", "whole.parquet")
    ]
    print(f"the same rows as without a kill: {hashes[0] == hashes[1]}")


def filters(options: argparse.Namespace) -> None:
    """What the contract costs above Faiss called directly."""
    vectors, queries = clustered_vectors(options.items, options.queries, 64)
    index = FaissIndex("factory", options.factory)
    seconds = timed(lambda: index.build(vectors))
    assert index.reach is not None
    index.set_parameters(**{index.reach: options.parameter})
    print(
        f"{options.factory} of {options.items:,} vectors built in {seconds:.0f} s; {index.parameters}; k = {options.k}"
    )
    exact = ExactIndex()
    exact.build(vectors)
    generator = torch_generator(0, "bench retrieve")
    for seen in () if options.narrow else (0, 20, 50, 100):
        side_by_side(index, exact, queries, options.k, None, seen, generator)
    narrow = 0.1, 0.01, 0.001, (options.k // 2) / options.items
    for share in narrow if options.narrow else (0.99, 0.5, 0.3, 0.25, *narrow):
        some = torch.randperm(options.items, generator=generator)[: max(int(options.items * share), 1)]
        side_by_side(index, exact, queries, options.k, some, 0, generator)


def side_by_side(
    index: FaissIndex,
    exact: ExactIndex,
    queries: torch.Tensor,
    k: int,
    some: torch.Tensor | None,
    seen: int,
    generator: Any,
) -> None:
    """Ours and Faiss directly: as many items fetched, the same bitmap and the same parameters."""
    import faiss

    values = torch.randint(index.num_items, (len(queries) * seen,), generator=generator)
    exclude = Ragged(offsets_of(torch.full((len(queries),), seen)), values) if seen else None
    ours = index if some is None else SubsetIndex(index, some)
    found, truth = ours.search(queries, k, exclude), exact_lists(exact, queries, k, exclude, some)
    recall = float(index_recall(found, truth).mean())
    assert bool((found.lengths() == min(k, index.num_items if some is None else len(some))).all())
    if some is None:
        name, parameters = f"{seen} excluded a query", None
    else:
        name = f"{len(some):,} ({len(some) / index.num_items:.2%}) allowed"
        mask = torch.zeros(index.num_items, dtype=torch.bool)
        mask[some] = True
        import numpy as np

        bits = np.packbits(mask.numpy(), bitorder="little")
        kind = faiss.SearchParametersHNSW if index.reach == "efSearch" else faiss.SearchParametersIVF
        reach = min(-(-index.parameters[str(index.reach)] * index.num_items // len(some)), index.num_items)
        parameters = kind(sel=faiss.IDSelectorBitmap(bits), **{str(index.reach): reach})
    few = queries if some is None or 16 * len(some) > index.num_items else queries[:SLOW_QUERIES]
    actions: dict[str, Callable[[], object]] = {
        "ours": lambda: ours.search(queries, k, exclude),
        "faiss": lambda: index.faiss.search(few.numpy(), k + seen, params=parameters),
    }
    times: dict[str, list[float]] = {label: [] for label in actions}
    for _ in range(ROUNDS):
        for label, action in actions.items():
            times[label].append(timed(action))
    asked = {"ours": len(queries), "faiss": len(few)}
    rate = {label: asked[label] / statistics.median(taken) for label, taken in times.items()}
    print(
        f"{name:<26} ours {rate['ours']:>9,.0f} queries/s, Faiss {rate['faiss']:>9,.0f}, "
        f"ours takes {rate['faiss'] / rate['ours']:.2f} times as long; recall@{k} of the filtered {recall:.4f}"
    )


def exact_lists(exact: ExactIndex, queries: torch.Tensor, k: int, exclude: Ragged | None, some: Any) -> TopK:
    return (exact if some is None else SubsetIndex(exact, some)).search(queries, k, exclude)


def main() -> None:
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    for name, action in (("prepare", prepare), ("whole", whole), ("kill", kill)):
        command = commands.add_parser(name)
        command.set_defaults(action=action)
        command.add_argument("folder")
        command.add_argument("-k", type=int, default=100)
        if name == "prepare":
            command.add_argument("--items", type=int, default=1_000_000)
            command.add_argument("--queries", type=int, default=1_000_000)
            command.add_argument("--pairs", type=int, default=10_000_000)
            command.add_argument("--factory", default="IVF1024,PQ32x4fs")
        command.add_argument("--out", default="whole.parquet")
        command.add_argument("--resume", action="store_true")
    command = commands.add_parser("filters")
    command.set_defaults(action=filters)
    command.add_argument("--items", type=int, default=200_000)
    command.add_argument("--queries", type=int, default=2048)
    command.add_argument("--factory", default="HNSW32,Flat")
    command.add_argument("--parameter", type=int, default=128)
    command.add_argument("--narrow", action="store_true", help="candidate lists of a tenth and fewer alone")
    command.add_argument("-k", type=int, default=20)
    options = parser.parse_args(sys.argv[1:] or ["filters"])
    cores = f"{torch.get_num_threads()} threads of {os.cpu_count()} cores"
    print(f"torch {torch.__version__}, {cores}, load {os.getloadavg()[0]:.1f}")
    options.action(options)


if __name__ == "__main__":
    main()
