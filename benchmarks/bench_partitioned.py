"""Ingest of partitioned Parquet, as Spark writes it: seconds, and peak memory of the process that ingests.

    python benchmarks/bench_partitioned.py [--pairs 200000000] [--files 2000] [--ids int|string] [--memory 4]

The files lie in folders ``day=…`` (20 of them), rows in no order, with a ``_SUCCESS`` mark; query and item ids are
integers all over 64 bits or strings of some 20 characters. Ingest runs in a process of its own. Before anything is
printed the dataset is checked against what the files hold: number of pairs, queries and items, train counts, and the
lists of a thousand queries. The bar is 200 million pairs in 2,000 files within 10 GiB; the last line is JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import polars as pl

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from xclass.data.dataset import Dataset, open_dataset
from xclass.runtime.rng import numpy_generator

BAR_GIB = 10.0
DAYS = 20
PRIME = 11_400_714_819_323_198_485  # spreads small numbers over 64 bits, one to one
INGEST = """
import sys
from xclass.ingest.ingest import ingest
from xclass.ingest.options import IngestOptions
out, memory, split = sys.argv[2], float(sys.argv[3]), sys.argv[4]
time_col = "day" if split == "time" else ""
chosen = {"split": split, "time_col": time_col, "test_fraction": 0.1, "valid_fraction": 0.05}
ingest(sys.argv[1], out, IngestOptions(memory=memory, **chosen))
"""


def external(numbers: np.ndarray, name: str, ids: str) -> pl.Series:
    """Ids of these numbers: all over 64 bits, or strings."""
    spread = (numbers.astype(np.uint64) * np.uint64(PRIME)).view(np.int64)
    if ids == "int":
        return pl.Series(name, spread)
    return pl.DataFrame({"n": spread}).select(pl.format("{}-{}", pl.lit(name[0]), pl.col("n")).alias(name)).to_series()


def drawn(file: int, pairs: int, num_queries: int, num_items: int) -> tuple[np.ndarray, np.ndarray]:
    """(query, item) numbers of one file; items by a law with a long tail."""
    draw = numpy_generator(0, "bench partitioned", file)
    return draw.integers(0, num_queries, pairs), (num_items * draw.random(pairs) ** 3).astype(np.int64)


def generate(root: Path, pairs: int, files: int, sizes: tuple[int, int], ids: str) -> tuple[np.ndarray, np.ndarray]:
    """Write the files; returns which queries and items there are (masks)."""
    queries, items = (np.zeros(size, dtype=bool) for size in sizes)
    for file in range(files):
        query, item = drawn(file, pairs // files, *sizes)
        queries[query], items[item] = True, True
        folder = root / f"day=2024-01-{file % DAYS + 1:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        frame = pl.DataFrame([external(query, "user_id", ids), external(item, "item_id", ids)])
        frame.write_parquet(folder / f"part-{file:05d}.snappy.parquet", compression="snappy")
    (root / "_SUCCESS").touch()
    return queries, items


def bytes_below(folder: Path) -> int:
    """Blocks that the files of a folder take, which change meanwhile."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += (Path(place) / name).stat().st_blocks * 512
    return total


class Watch(threading.Thread):
    """Largest anonymous memory of a process, ten times a second, and space below a folder, every two seconds."""

    def __init__(self, pid: int, folder: Path) -> None:
        super().__init__(daemon=True)
        self.pid, self.folder, self.anonymous, self.disk = pid, folder, 0, 0

    def run(self) -> None:
        """Until the process has ended."""
        looks = 0
        while True:
            try:
                status = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii")
            except OSError:
                return
            lines = [line for line in status.splitlines() if line.startswith("RssAnon")]
            if not lines:
                return
            self.anonymous = max(self.anonymous, int(lines[0].split()[1]) * 1024)
            if looks % 20 == 0:
                self.disk = max(self.disk, bytes_below(self.folder))
            looks += 1
            time.sleep(0.1)


def measured(source: Path, out: Path, memory: float, split: str) -> dict[str, float]:
    """Seconds, peak resident and anonymous GiB, GiB of disk at the most (source and dataset too)."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", INGEST, str(source), str(out), str(memory), split], env=environment
    )
    watch = Watch(process.pid, out.parent)
    watch.start()
    if process.wait():
        raise SystemExit(f"ingest ended with {process.returncode}")
    wall_s = time.perf_counter() - started
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "seconds": wall_s,
        "processor_seconds": used.ru_utime + used.ru_stime,
        "peak_resident_gib": used.ru_maxrss / 2**20,
        "peak_anonymous_gib": watch.anonymous / 2**30,
        "disk_gib": watch.disk / 2**30,
    }


def check(
    dataset: Dataset, args: argparse.Namespace, sizes: tuple[int, int], seen: tuple[np.ndarray, np.ndarray]
) -> None:
    """Against the generator: all ids and no other, distinct pairs of a sample of queries with their train counts."""
    assert dataset.num_queries == int(seen[0].sum()) and dataset.num_items == int(seen[1].sum())
    asked = np.flatnonzero(seen[0])[:: max(int(seen[0].sum()) // 1000, 1)]
    rows = [drawn(file, args.pairs // args.files, *sizes) for file in range(args.files)] if args.pairs <= 2e7 else None
    files = rows or (drawn(file, args.pairs // args.files, *sizes) for file in range(args.files))
    wanted: dict[int, set[int]] = {int(query): set() for query in asked}
    there = np.zeros(sizes[0], dtype=bool)
    there[asked] = True
    for query, item in files:
        chosen = there[query]
        for one, other in zip(query[chosen].tolist(), item[chosen].tolist(), strict=True):
            wanted[one].add(other)
    queries, items = dataset.queries["query_id"], dataset.items["item_id"]
    places = dict(zip(external(asked, "user_id", args.ids).to_list(), asked.tolist(), strict=True))
    numbers = queries.to_frame().with_row_index("n").filter(pl.col("query_id").is_in(list(places)))
    splits = [dataset.split(name) for name in dataset.splits]
    for name, number in zip(numbers["query_id"], numbers["n"], strict=True):
        got = [
            item
            for split in splits
            for item in split.values[int(split.offsets[number]) : int(split.offsets[number + 1])].tolist()
        ]
        names = set(items.gather(got).to_list())
        assert len(got) == len(names), "a pair comes twice"
        assert names == set(external(np.array(sorted(wanted[places[name]])), "item_id", args.ids).to_list())
    total = sum(part["pairs"] for part in dataset.manifest["splits"].values())
    assert total + dataset.manifest["report"]["dropped"]["duplicates"] == args.pairs // args.files * args.files
    assert int(dataset.item_counts.long().sum()) == dataset.manifest["splits"]["train"]["pairs"]


def main() -> None:
    """Generate, ingest, check, tell."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=200_000_000)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--ids", choices=("int", "string"), default="int")
    parser.add_argument("--memory", type=float, default=4.0, help="GiB that ingest may take for pairs and ids")
    parser.add_argument("--split", choices=("random", "time"), default="random")
    parser.add_argument("--folder", type=Path, default=None)
    args = parser.parse_args()
    sizes = max(args.pairs // 20, 1), max(args.pairs // 100, 1)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        root = Path(folder) / "raw"
        seen = generate(root, args.pairs, args.files, sizes, args.ids)
        source_gib = sum(file.stat().st_size for file in root.rglob("*.parquet")) / 2**30
        facts = measured(root, Path(folder) / "data", args.memory, args.split)
        shutil.rmtree(root)
        check(open_dataset(Path(folder) / "data"), args, sizes, seen)
    if args.pairs >= 200_000_000 and facts["peak_resident_gib"] > BAR_GIB:
        print("the bar is missed")
    told = {"pairs": args.pairs, "files": args.files, "ids": args.ids, "memory": args.memory, "split": args.split}
    print(json.dumps({**told, "source_gib": round(source_gib, 2), **{k: round(v, 2) for k, v in facts.items()}}))


if __name__ == "__main__":
    main()
