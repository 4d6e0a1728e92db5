"""Extreme classification beside napkinXC, PECOS and omikuji: precision, training, time a document, model size.

    python benchmarks/bench_extreme.py SOURCE [--config configs/bibtex.toml] [--seeds 0 1 2]
                                       [--napkinxc PYTHON] [--pecos PYTHON] [--omikuji PYTHON]

SOURCE is a directory with train.txt and test.txt in the text format of the extreme classification repository. Each
peer is run by a Python that has it; without one it is left out. Ours is `ingest`, `train` and a search of all test
documents, a process each; training is timed by the process itself, without its start and imports. Peers get rows as
TF-IDF of unit length (1 + ln tf, ln(n / df), as ours), made outside of their clocks; all of them use as many threads
as ours. The precision of every list is computed here, by one function. Time a document is that of all test
documents at once, divided.

The bars are those of the issue; whether they hold is printed, and the last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

ROOT = Path(__file__).resolve().parents[1]
CUT_OFFS = (1, 3, 5)
BARS = {"bibtex": (64.5, 39.7, 29.1), "delicious": (67.0, 61.2, 56.7), "citeulike-tags": (65.5, 48.3, 39.4)}
BAR_MS = 0.4
OURS = """
import json, sys, time
from xclass.recommender import Recommender
from xclass.queries.queries import dataset_queries
run, out = sys.argv[1:]
recommender = Recommender.load(run)


warm = dataset_queries(recommender.dataset, "test", True, 64)
list(recommender.lists(warm, 5, exact=True))
found, ids, items = {}, None, recommender.run.item_ids.to_list()
queries = dataset_queries(recommender.dataset, "test", True)
started = time.perf_counter()
lists = list(recommender.lists(queries, 5, exact=True))
seconds = time.perf_counter() - started
for positions, top in lists:
    for b, position in enumerate(positions.tolist()):
        part = top.ids[top.offsets[b] : top.offsets[b + 1]].tolist()
        found[str(queries.ids[position])] = [str(items[item]) for item in part]
json.dump({"predict_s": seconds, "lists": found}, open(out, "w"))
"""
READ = """
import json, sys, time
import numpy as np
import scipy.sparse as sp
folder, threads, out = sys.argv[1], int(sys.argv[2]), sys.argv[3]
def read(part):
    with open(f"{folder}/{part}.txt") as file:
        rows, size, labels = map(int, file.readline().split())
        lists, indices, values, offsets = [], [], [], [0]
        for line in file:
            head, _, rest = line.rstrip("\\n").partition(" ")
            if ":" in head:
                head, rest = "", line
            lists.append([int(label) for label in head.split(",") if label])
            for pair in rest.split():
                feature, value = pair.split(":")
                indices.append(int(feature)); values.append(float(value))
            offsets.append(len(indices))
    x = sp.csr_matrix((np.array(values, np.float32), np.array(indices), np.array(offsets)), shape=(rows, size))
    return x, lists, labels
def weigh(x, idf):
    x = x.copy(); x.data = ((1 + np.log(np.maximum(x.data, 1))) * idf[x.indices]).astype(np.float32)
    norm = np.sqrt(np.asarray(x.multiply(x).sum(1)).ravel()); norm[norm == 0] = 1
    return sp.diags(1 / norm).astype(np.float32).dot(x).tocsr().astype(np.float32)
x, y, labels = read("train"); xt, yt, _ = read("test")
df = np.bincount(x.indices, minlength=x.shape[1]); idf = np.where(df > 0, np.log(x.shape[0] / np.maximum(df, 1)), 0)
x, xt = weigh(x, idf), weigh(xt, idf)
x.sort_indices(); xt.sort_indices()
def done(train_s, predict_s, size, lists):
    json.dump({"train_s": train_s, "predict_s": predict_s, "bytes": size, "lists": lists}, open(out, "w"))
def size_of(path):
    import os
    return sum(os.path.getsize(os.path.join(a, f)) for a, _, files in os.walk(path) for f in files)
clock = time.perf_counter
"""
NAPKIN = """
import tempfile
from napkinxc.models import {kind}
path = tempfile.mkdtemp()
model = {kind}(path, threads=threads, seed=0)
started = clock(); model.fit(x, y); train_s = clock() - started
model.load() if hasattr(model, "load") else None
model.predict(xt[:10], top_k=5)
started = clock(); found = model.predict(xt, top_k=5); predict_s = clock() - started
done(train_s, predict_s, size_of(path), found)
"""
PECOS = """
import tempfile
from pecos.xmc import Indexer, LabelEmbeddingFactory
from pecos.xmc.xlinear.model import XLinearModel
indptr = np.cumsum([0, *map(len, y)])
matrix = sp.csr_matrix((np.ones(indptr[-1], np.float32), np.concatenate([np.array(l, int) for l in y]), indptr),
                       shape=(x.shape[0], labels))
matrix.sum_duplicates(); matrix.data[:] = 1
started = clock()
chain = Indexer.gen(LabelEmbeddingFactory.create(matrix, x, method="pifa"), indexer_type="hierarchicalkmeans")
model = XLinearModel.train(x, matrix, C=chain, threads=threads); train_s = clock() - started
path = tempfile.mkdtemp(); model.save(path)
model.predict(xt[:10], only_topk=5, threads=threads)
started = clock(); found = model.predict(xt, only_topk=5, threads=threads); predict_s = clock() - started
lists = []
for b in range(found.shape[0]):
    own = slice(found.indptr[b], found.indptr[b + 1])
    lists.append(found.indices[own][np.argsort(-found.data[own], kind="stable")].tolist())
done(train_s, predict_s, size_of(path), lists)
"""
OMIKUJI = """
import tempfile
import omikuji
path = tempfile.mkdtemp()
rows = [b for b in range(x.shape[0]) if y[b] and x.indptr[b + 1] > x.indptr[b]]  # it reads no others
with open(path + "/train.txt", "w") as file:
    file.write(f"{len(rows)} {x.shape[1]} {labels}\\n")
    for b in rows:
        own = slice(x.indptr[b], x.indptr[b + 1])
        pairs = " ".join(f"{f}:{v:.6g}" for f, v in zip(x.indices[own], x.data[own]))
        file.write(",".join(map(str, y[b])) + " " + pairs + "\\n")
settings = omikuji.Model.default_hyper_param()
if "{kind}" == "bonsai":
    settings.cluster_k, settings.cluster_balanced, settings.max_depth = 100, False, 3
started = clock()
model = omikuji.Model.train_on_data(path + "/train.txt", settings, threads); train_s = clock() - started
model.save(path + "/model")
rows = [list(zip(xt.indices[a:b].tolist(), xt.data[a:b].tolist())) for a, b in zip(xt.indptr[:-1], xt.indptr[1:])]
started = clock()
found = [[label for label, _ in model.predict(row, top_k=5)] for row in rows]; predict_s = clock() - started
done(train_s, predict_s, size_of(path + "/model"), found)
"""
PEERS = {
    "napkinXC one-vs-rest": ("napkinxc", NAPKIN.replace("{kind}", "OVR")),
    "napkinXC PLT": ("napkinxc", NAPKIN.replace("{kind}", "PLT")),
    "PECOS XR-Linear": ("pecos", PECOS),
    "omikuji Parabel": ("omikuji", OMIKUJI.replace("{kind}", "parabel")),
    "omikuji Bonsai": ("omikuji", OMIKUJI.replace("{kind}", "bonsai")),
}
MOST_LABELS_OF_ONE_VS_REST = 5000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="a directory with train.txt and test.txt")
    parser.add_argument("--config", type=Path, help="configs/<name of SOURCE>.toml unless given")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    for peer in ("napkinxc", "pecos", "omikuji"):
        parser.add_argument(f"--{peer}", metavar="PYTHON")
    chosen = parser.parse_args()
    truth = read_truth(chosen.source / "test.txt")
    labels = int((chosen.source / "test.txt").open().readline().split()[2])
    config = chosen.config or ROOT / "configs" / f"{chosen.source.name}.toml"
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as place:
        rows["xclass"] = ours(chosen, config, Path(place), truth)
        for name, (peer, program) in PEERS.items():
            python = getattr(chosen, peer)
            if python and not (name.endswith("one-vs-rest") and labels > MOST_LABELS_OF_ONE_VS_REST):
                try:
                    rows[name] = theirs(python, program, chosen, Path(place), truth)
                except SystemExit as failed:
                    print(f"{name}: {failed}", file=sys.stderr)
    show(chosen.source.name, rows)


def read_truth(path: Path) -> list[set[str]]:
    """The labels of each test document."""
    found = []
    with path.open() as file:
        next(file)
        for line in file:
            head = line.rstrip("\n").partition(" ")[0]
            found.append(set() if ":" in head else {label for label in head.split(",") if label})
    return found


def precisions(lists: list[list[str]], truth: list[set[str]]) -> list[float]:
    """P@k in per cent over the documents that have a label, lists in their order."""
    pairs = [(found, wanted) for found, wanted in zip(lists, truth, strict=True) if wanted]
    return [100 * sum(len(set(found[:k]) & wanted) for found, wanted in pairs) / k / len(pairs) for k in CUT_OFFS]


def ours(chosen: argparse.Namespace, config: Path, place: Path, truth: list[set[str]]) -> dict[str, Any]:
    """Means over the seeds, from the files to the lists."""
    xclass(chosen, "ingest", str(chosen.source), "--format", "xmc", "--out", str(place / "dataset"))
    runs = []
    for seed in chosen.seeds:
        run, out = place / f"run-{seed}", place / "lists.json"
        set_seed = ("--set", f"train.seed={seed}")
        said = xclass(
            chosen, "train", str(place / "dataset"), "--config", str(config), *set_seed, "--out", str(run), "--json"
        )
        python(chosen, sys.executable, OURS, str(run), str(out))
        found = json.loads(out.read_text())
        with_labels = [wanted for wanted in truth if wanted]
        lists = [found["lists"][query] for query in sorted(found["lists"], key=number_of)]
        runs.append(
            {
                "precision": precisions(lists, with_labels),
                "train_s": json.loads(said)["train_s"],
                "ms": 1000 * found["predict_s"] / len(lists),
                "bytes": sum(file.stat().st_size for file in run.glob("*.safetensors")),
            }
        )
    mean = {key: sum(run[key] for run in runs) / len(runs) for key in ("train_s", "ms", "bytes")}
    each = [[run["precision"][c] for run in runs] for c in range(len(CUT_OFFS))]
    spread = [math.sqrt(sum((x - sum(one) / len(one)) ** 2 for x in one) / max(len(one) - 1, 1)) for one in each]
    return {"precision": [sum(one) / len(one) for one in each], "spread": spread, "seeds": chosen.seeds, **mean}


def number_of(query: str) -> int:
    """Ids of documents end with their line: test documents stand in the order of the file."""
    return int("".join(c for c in query if c.isdigit()))


def theirs(
    python_path: str, program: str, chosen: argparse.Namespace, place: Path, truth: list[set[str]]
) -> dict[str, Any]:
    """One run of a peer."""
    out = place / "peer.json"
    python(chosen, python_path, READ + program, str(chosen.source), str(chosen.threads), str(out))
    found = json.loads(out.read_text())
    lists = [[str(label) for label in one] for one in found["lists"]]
    return {
        "precision": precisions(lists, truth),
        "train_s": found["train_s"],
        "ms": 1000 * found["predict_s"] / len(lists),
        "bytes": found["bytes"],
    }


def xclass(chosen: argparse.Namespace, *arguments: str) -> str:
    return python(chosen, sys.executable, "import sys; from xclass.cli import main; main()", *arguments)


def python(chosen: argparse.Namespace, path: str, program: str, *arguments: str) -> str:
    """A process of its own; what it prints."""
    places = {"PYTHONPATH": str(ROOT)} if path == sys.executable else {}
    environment = {**os.environ, "OMP_NUM_THREADS": str(chosen.threads), **places}
    found = subprocess.run(
        [path, "-c", program, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    if found.returncode:
        sys.exit(f"{path} failed:\n{found.stderr[-2000:]}")
    return found.stdout


def show(name: str, rows: dict[str, dict[str, Any]]) -> None:
    print(f"| {name} | P@1 | P@3 | P@5 | training, s | ms a document | model, MB |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for system, row in rows.items():
        cells = [f"{value:.2f}" for value in row["precision"]]
        print(f"| {system} | {' | '.join(cells)} | {row['train_s']:.1f} | {row['ms']:.2f} | {row['bytes'] / 1e6:.1f} |")
    if name in BARS:
        wanted, got = BARS[name], rows["xclass"]["precision"]
        held = all(value >= bar for value, bar in zip(got, wanted, strict=True))
        print(f"bars {wanted}: {'held' if held else 'missed'}; {BAR_MS} ms: {rows['xclass']['ms'] <= BAR_MS}")
    print(json.dumps({"dataset": name, "time": time.strftime("%Y-%m-%d %H:%M"), "rows": rows}))


if __name__ == "__main__":
    main()
