"""Evaluation of prediction files: seconds and peak memory for all metrics at four cut-offs, beside ranx.

    python benchmarks/bench_evaluate.py [--queries 1000000] [--predictions 100] [--ids int|text] [--runs 3]
                                        [--form together|shuffled] [--bootstrap 0] [--ranx PYTHON]

Lists of ``--predictions`` items with falling scores and 10 positives a query, of which 40% are in its list, over a
million items. Each measurement is a process of its own, from the files to the numbers, without imports; a first small
one has compiled what is compiled. With ``--ranx`` (a Python that has ranx; ids are then text, as ranx wants them) both
read the same two files, in turn, and their means must be equal to 1e-12 before a time is printed. ranx's average
precision has another denominator and is computed, but not compared here. The bars: 1M queries in 20 s; 5 times ranx.
The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import polars as pl

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from xclass.runtime.rng import numpy_generator

NUM_ITEMS, POSITIVES, QUERIES_AT_ONCE = 1_000_000, 10, 20_000
COMPARED = ("recall", "precision", "hit_rate", "ndcg", "mrr")
BAR_S, BAR_RATIO = 20.0, 5.0
OURS = """
import json, resource, sys, time
from xclass.evaluation.predictions import evaluate_predictions
started = time.perf_counter()
folder, cut_offs, bootstrap = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
found = evaluate_predictions(folder + "/predictions.parquet", folder + "/truth.parquet", cut_offs)
if bootstrap:
    found = found.with_intervals(bootstrap)
seconds = time.perf_counter() - started
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"seconds": seconds, "peak": peak, "metrics": found.metrics}))
"""
THEIRS = """
import json, resource, sys, time, warnings
warnings.simplefilter("ignore")
import ranx
folder, cut_offs = sys.argv[1], json.loads(sys.argv[2])
names = [f"{name}@{k}" for name in ("recall", "precision", "hit_rate", "ndcg", "map", "mrr") for k in cut_offs]
warm = ({"a": {"b": 1}}, {"a": {"b": 1.0}})
ranx.evaluate(ranx.Qrels.from_dict(warm[0]), ranx.Run.from_dict(warm[1]), names)
columns = {"q_id_col": "query_id", "doc_id_col": "item_id", "score_col": "score"}
started = time.perf_counter()
truth = ranx.Qrels.from_parquet(folder + "/truth.parquet", **columns)
run = ranx.Run.from_parquet(folder + "/predictions.parquet", **columns)
read = time.perf_counter()
found = ranx.evaluate(truth, run, names)
ended = time.perf_counter()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
metrics = {name: float(value) for name, value in found.items()}
print(json.dumps({"seconds": ended - started, "evaluate_s": ended - read, "peak": peak, "metrics": metrics}))
"""


def generate(folder: Path, queries: int, width: int, text: bool, shuffled: bool) -> int:
    """Write predictions.parquet and truth.parquet; the bytes of the first."""

    def ids(numbers: np.ndarray, letter: str) -> pl.Series:
        return pl.Series(numbers).cast(pl.String).str.pad_start(7, letter) if text else pl.Series(numbers)

    rng, truths = numpy_generator(0, "bench evaluate"), []
    for part, start in enumerate(range(0, queries, QUERIES_AT_ONCE)):
        rows = np.arange(start, min(start + QUERIES_AT_ONCE, queries))
        steps = rng.integers(1, NUM_ITEMS // 2 // width, (len(rows), width))
        items = (rng.integers(0, NUM_ITEMS, (len(rows), 1)) + np.cumsum(steps, 1)) % NUM_ITEMS
        scores = -np.sort(-rng.random((len(rows), width)), axis=1)
        columns = {
            "query_id": ids(np.repeat(rows, width), "q"),
            "item_id": ids(items.ravel(), "i"),
            "score": scores.ravel(),
        }
        pl.DataFrame(columns).write_parquet(folder / f"part-{part:06d}.parquet")
        hits = items[np.arange(len(rows))[:, None], rng.integers(0, width, (len(rows), POSITIVES))]
        positives = np.where(rng.random(hits.shape) < 0.4, hits, rng.integers(0, NUM_ITEMS, hits.shape))
        pairs = {
            "query_id": ids(np.repeat(rows, POSITIVES), "q"),
            "item_id": ids(positives.ravel(), "i"),
            "score": np.ones(positives.size, np.int64),
        }
        truths.append(pl.DataFrame(pairs).unique(maintain_order=True))
    pl.concat(truths).write_parquet(folder / "truth.parquet")
    frame = pl.scan_parquet(folder / "part-*.parquet")
    if shuffled:
        frame = frame.collect().sample(fraction=1.0, shuffle=True, seed=0).lazy()
    frame.sink_parquet(folder / "predictions.parquet", row_group_size=1 << 20)
    for path in folder.glob("part-*.parquet"):
        path.unlink()
    return (folder / "predictions.parquet").stat().st_size


def measured(python: str, script: str, *arguments: str) -> dict:
    """What the script prints at its end."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    done = subprocess.run(
        [python, "-c", script, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def check(ours: dict[str, float], theirs: dict[str, float], cut_offs: list[int]) -> float:
    """The largest difference of what is defined alike; exits when it is above 1e-12."""
    gap = max(abs(ours[f"{name}@{k}"] - theirs[f"{name}@{k}"]) for name in COMPARED for k in cut_offs)
    if gap > 1e-12:
        sys.exit(f"the metrics differ by {gap}")
    return gap


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=1_000_000)
    parser.add_argument("--predictions", type=int, default=100)
    parser.add_argument("--ids", choices=("int", "text"), default="int")
    parser.add_argument("--form", choices=("together", "shuffled"), default="together")
    parser.add_argument("--bootstrap", type=int, default=0)
    parser.add_argument("--ranx", metavar="PYTHON")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the files lie for the while; a temporary one if left out")
    given = parser.parse_args()
    width = given.predictions
    cut_offs = sorted({max(1, width // 10), max(1, width // 5), max(1, width // 2), width})
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder, text = Path(name), given.ids == "text" or given.ranx is not None
        (folder / "small").mkdir()
        generate(folder / "small", 100, width, text, False)
        measured(sys.executable, OURS, str(folder / "small"), json.dumps(cut_offs), "0")
        size = generate(folder, given.queries, width, text, given.form == "shuffled")
        ours, theirs = [], []
        for _ in range(given.runs):
            ours.append(measured(sys.executable, OURS, name, json.dumps(cut_offs), str(given.bootstrap)))
            if given.ranx:
                theirs.append(measured(given.ranx, THEIRS, name, json.dumps(cut_offs)))
                gap = check(ours[-1]["metrics"], theirs[-1]["metrics"], cut_offs)
    seconds = statistics.median(run["seconds"] for run in ours)
    told = {
        "queries": given.queries, "rows": given.queries * width, "cut_offs": cut_offs, "file_MB": round(size / 1e6),
        "seconds": round(seconds, 2), "all_seconds": [round(run["seconds"], 2) for run in ours],
        "peak_GiB": round(max(run["peak"] for run in ours) / 2**20, 2),
    }  # fmt: skip
    if theirs:
        other = statistics.median(run["seconds"] for run in theirs)
        told |= {
            "ranx_seconds": round(other, 2), "times_ranx": round(other / seconds, 1),
            "ranx_evaluate_alone_s": round(statistics.median(run["evaluate_s"] for run in theirs), 2),
            "ranx_peak_GiB": round(max(run["peak"] for run in theirs) / 2**20, 2),
            "largest_difference": gap, "bar": f"{BAR_RATIO} times ranx",
        }  # fmt: skip
    print(json.dumps(told | {"bar_s": BAR_S}))


if __name__ == "__main__":
    main()
