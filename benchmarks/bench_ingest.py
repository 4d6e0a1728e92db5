"""Ingest of generated pairs from CSV: seconds and peak memory of the whole command's work.

    python benchmarks/bench_ingest.py [--pairs 20000000] [--split time|random] [--ids int|string]

The CSV has user_id, item_id and timestamp, rows in random order. Ingest runs in a process of its own, so that its peak
memory is its own. Before anything is printed the dataset is checked against the generated arrays. The bar is 20
million pairs in 60 s and 6 GiB on two cores; the last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from xclass.data.dataset import Dataset, open_dataset
from xclass.runtime.rng import numpy_generator

BAR_S, BAR_GIB = 60.0, 6.0
INGEST = """
import sys
from xclass.ingest.ingest import ingest
from xclass.ingest.options import IngestOptions
ingest(sys.argv[1], sys.argv[2], IngestOptions(split=sys.argv[3], test_fraction=0.1, valid_fraction=0.05))
"""


def generate(path: Path, pairs: int, ids: str) -> pl.DataFrame:
    """Write the CSV; return its rows."""
    draw = numpy_generator(0, "bench ingest")
    num_queries, num_items = max(pairs // 20, 1), max(pairs // 100, 1)
    frame = pl.DataFrame(
        {
            "user_id": draw.integers(0, num_queries, pairs),
            "item_id": (num_items * draw.random(pairs) ** 3).astype(np.int64),
            "timestamp": draw.integers(1_500_000_000, 1_600_000_000, pairs),
        }
    )
    if ids == "string":
        frame = frame.with_columns(
            pl.format("user-{}", "user_id").alias("user_id"), pl.format("item-{}", "item_id").alias("item_id")
        )
    frame.write_csv(path)
    return frame


def measured(source: Path, out: Path, split: str) -> tuple[float, float, float]:
    """Wall seconds, processor seconds and peak GiB of a process that ingests."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", INGEST, str(source), str(out), split], check=True, env=environment)
    wall_s = time.perf_counter() - started
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall_s, used.ru_utime + used.ru_stime, used.ru_maxrss / 2**20


def check(dataset: Dataset, rows: pl.DataFrame, split: str) -> None:
    """Every distinct pair once; item counts, and the lists of a sample of queries, equal to the generated rows."""
    distinct = rows.group_by("user_id", "item_id").agg(pl.col("timestamp").min())
    assert sum(part["pairs"] for part in dataset.manifest["splits"].values()) == len(distinct)
    assert dataset.num_queries == distinct["user_id"].n_unique()
    assert dataset.num_items == distinct["item_id"].n_unique()
    if split == "time":
        cut = dataset.manifest["report"]["cut_offs"]
        train = distinct.filter(pl.col("timestamp") < cut["valid"])
        assert int(dataset.split("train").offsets[-1]) == len(train)
        wanted = train.group_by("item_id").len()
        got = dataset.items.filter(pl.col("train_count") > 0).join(wanted, on="item_id")
        assert len(got) == len(wanted)
        assert (got["train_count"] == got["len"]).all()
    chosen = dataset.queries["query_id"].gather_every(max(dataset.num_queries // 500, 1))
    lists = distinct.filter(pl.col("user_id").is_in(chosen.implode())).group_by("user_id").agg("item_id")
    wanted_items = {row["user_id"]: sorted(row["item_id"]) for row in lists.iter_rows(named=True)}
    names, number = dataset.items["item_id"], {query: at for at, query in enumerate(dataset.queries["query_id"])}
    parts = [dataset.split(name) for name in dataset.splits]
    for query, items in wanted_items.items():
        at = number[query]
        numbers = np.concatenate([part.values[part.offsets[at] : part.offsets[at + 1]].numpy() for part in parts])
        assert sorted(names.gather(numbers.astype(np.int64)).to_list()) == items


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20_000_000)
    parser.add_argument("--split", choices=["time", "random", "leave-last"], default="time")
    parser.add_argument("--ids", choices=["int", "string"], default="int")
    parser.add_argument("--folder", type=Path, default=None, help="where the files go for the time being")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        source, out = Path(folder) / "pairs.csv", Path(folder) / "dataset"
        rows = generate(source, arguments.pairs, arguments.ids)
        wall_s, cpu_s, peak_gib = measured(source, out, arguments.split)
        check(open_dataset(out), rows, arguments.split)
        csv_bytes = source.stat().st_size
    print(f"{arguments.pairs:,} pairs, {csv_bytes / 2**20:,.0f} MiB of CSV, {arguments.split} split: ", end="")
    print(f"{wall_s:.1f} s ({cpu_s:.1f} s of processor time), peak {peak_gib:.2f} GiB; the dataset is correct")
    figures = {"pairs": arguments.pairs, "wall_s": wall_s, "cpu_s": cpu_s, "peak_gib": peak_gib, "csv_bytes": csv_bytes}
    print(json.dumps(figures))
    if arguments.pairs == 20_000_000 and (wall_s > BAR_S or peak_gib > BAR_GIB):
        sys.exit(f"the bar is {BAR_S:.0f} s and {BAR_GIB:.0f} GiB")


if __name__ == "__main__":
    main()
