"""Do the bits of training still come out as they did? Hashes of tiny runs, before a change and after it.

    python benchmarks/golden.py --write FILE     before the change
    python benchmarks/golden.py --check FILE     after it: names every run that differs, exit code 1

Each run is made through the command line only (ingest, train, index, retrieve, evaluate), so that the code behind it
can move. Together they name every head, loss, sampler, query tower, row optimiser, storage and scorer, and the shipped
configurations of configs/tiny. Of each run the SHA-256 of its weights, of the lists with their scores, and of the
metrics are kept. Bits depend on the processor, the number of threads and the libraries: the file says which they were,
and a check on another machine is refused.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "2")

import numpy as np
import polars as pl
import tomli_w
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

DATASETS = {
    "pairs": "planted:items=500,queries=800,pairs=20000,topics=10,seed=0",
    "documents": "planted-documents:documents=1000,features=300,labels=240,themes=60",
    "text": "planted-text:items=300,words=9000,classes=8,length=8",
}
TINY = {"text": "documents"}  # shipped configuration → dataset; the others are for pairs

SHORT = {"train": {"epochs": 1, "steps": 12, "checkpoint_every_s": 1000, "batch": {"size": 256}}}
ALL = {"sampler": {"kind": "all"}}
NONE = {"sampler": None}
PAIRS: dict[str, dict[str, Any]] = {
    # output layers
    "head balanced tree": {"head": {"kind": "hierarchical", "tree": "balanced", "arity": 4}, **NONE},
    "head huffman tree": {"head": {"kind": "hierarchical", "tree": "huffman"}, **NONE},
    "head clustered tree": {"head": {"kind": "hierarchical", "tree": "clustered"}, **NONE},
    "head differentiated": {"head": {"kind": "differentiated", "cuts": [0.2], "dims": [12, 4]}, **NONE},
    "head adaptive": {"head": {"kind": "adaptive", "cuts": [0.2, 0.5], "dims": [8, 4]}, **NONE},
    "head cnn": {"head": {"kind": "cnn", "correction": 4}, "sampler": {"num_sampled": 64}},
    # losses
    "loss importance": {"loss": {"kind": "importance", "effective_size": 8.0, "sample_block": 8}},
    "loss full-softmax": {"loss": {"kind": "full-softmax"}, **ALL},
    "loss self-normalised": {
        "loss": {"kind": "full-softmax", "normaliser_weight": 0.1, "normalised_share": 0.5},
        **ALL,
    },
    "loss nce": {"loss": {"kind": "nce", "log_z": "items", "learn_log_z": True}},
    "loss sampled-logistic": {"loss": {"kind": "sampled-logistic", "calibration": 0.5}},
    "loss negative-sampling": {"loss": {"kind": "negative-sampling"}},
    "loss bpr": {"loss": {"kind": "bpr"}},
    "loss full-sigmoid": {"loss": {"kind": "full-sigmoid"}, **ALL},
    "loss joint": {"loss": {"positives": "joint"}, "train": {"batch": {"by": "query", "size": 64}}},
    "loss per-positive": {"loss": {"positives": "per-positive"}, "train": {"batch": {"by": "query", "size": 64}}},
    "loss top-k": {"loss": {"top_k": 10, "item_weights": "effective-number"}},
    "loss powers": {"loss": {"denominator_power": 1.2, "positive_in_denominator": False}},
    # samplers
    "sampler log-uniform": {"sampler": {"kind": "log-uniform", "replacement": False}},
    "sampler fixed-unigram": {"sampler": {"kind": "fixed-unigram", "power": 0.5, "per_query": True, "num_sampled": 32}},
    "sampler learned-unigram": {"sampler": {"kind": "learned-unigram"}},
    "sampler window": {"sampler": {"kind": "learned-unigram", "window": 500}},
    "sampler decay": {"sampler": {"kind": "learned-unigram", "decay": 0.9}},
    "sampler in-batch": {"sampler": {"kind": "in-batch"}},
    "sampler streaming": {"sampler": {"kind": "in-batch", "frequency": "streaming"}},
    "sampler target": {"sampler": {"kind": "target", "num_sampled": 200, "corrected": True}},
    "sampler hard": {"sampler": {"kind": "hard", "num_sampled": 16, "depth": 20}},
    "sampler mixture": {"sampler": {"kind": "mixture", "parts": [{"kind": "in-batch"}, {"kind": "uniform"}]}},
    # towers
    "tower id": {"model": {"query": {"kind": "id"}}},
    "tower id+history": {"model": {"query": {"kind": "id+history", "hidden": [32], "history_weights": "degree"}}},
    "tower shared table": {"model": {"query": {"share_item_table": True}}},
    # tables, optimisers, numbers
    "optimiser adam": {"optimizer": "adam"},
    "optimiser rmsprop": {"optimizer": "rmsprop"},
    "optimiser sgd": {"optimizer": "sgd"},
    "tables host bfloat16": {"tables": {"storage": "host", "dtype": "bfloat16"}},
    "tables mapped": {"tables": {"storage": "mapped"}},
    "products bfloat16": {"product_dtype": "bfloat16"},
    "start spectral": {"model": {"init": "spectral", "normalize": False, "temperature": 0.02}},
}
DOCUMENTS: dict[str, dict[str, Any]] = {
    "tower features": {"model": {"query": {"kind": "features", "features": {"weighting": "tf-idf", "dropout": 0.1}}}},
    "start documents": {"model": {"init": "documents", "query": {"kind": "features"}}},
    "scorers": {"documents": {"scorers": ["linear", "neighbours"]}},
    "scorers mined": {"documents": {"scorers": ["linear"], "linear": {"negatives": "mined"}}},
}
CONTEXT = {"normalize": False, "temperature": 1.0}
TEXT: dict[str, dict[str, Any]] = {
    "tower context": {"model": {"query": {"kind": "context", "hidden": [32]}, **CONTEXT}},
    "tower context weighted": {"model": {"query": {"kind": "context", "context": {"mode": "weighted"}}, **CONTEXT}},
    "sampler adaptive": {
        "model": {"query": {"kind": "context"}, **CONTEXT},
        "sampler": {"kind": "adaptive", "num_sampled": 32},
        "loss": {"kind": "importance", "effective_size": 8.0, "sample_block": 8, "exact_when_short": True},
    },
}
# Which parameters a search takes is chosen by measured time, so of an index its files are compared and not its lists.
INDEXES = {
    "index flat": ["--kind", "flat"],
    "index ivf": ["--factory", "IVF8,Flat"],
    "index hnsw": ["--factory", "HNSW8"],
    "index lsh": ["--kind", "lsh", "--factory", "LSH8x6"],
}
TOLD = {"index.json", "frontier.parquet", "frontier.png"}  # of an index: they hold times
BASE = {"model": {"embedding_dim": 16}, "sampler": {"kind": "uniform", "num_sampled": 128}, **SHORT}


def joined(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """The two, the second before the first; None takes a section away."""
    result = dict(first)
    for key, value in second.items():
        inner = result.get(key)
        result[key] = joined(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return {key: value for key, value in result.items() if value is not None}


def xclass(*arguments: object) -> dict[str, Any]:
    """Run a command in this process; the JSON that it printed."""
    from xclass.cli import main

    printed, said = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(said):
        code = main([*map(str, arguments), "--json"])
    if code:
        raise RuntimeError(f"xclass {' '.join(map(str, arguments))}\n{said.getvalue()}")
    found: dict[str, Any] = json.loads(printed.getvalue())
    return found


def digest(*parts: bytes) -> str:
    """The first 24 digits of the SHA-256."""
    return hashlib.sha256(b"".join(parts)).hexdigest()[:24]


def weights_of(run: Path) -> str:
    """Every file of weights: its bytes."""
    return digest(*(path.read_bytes() for path in sorted(run.glob("*.safetensors"))))


def lists_of(path: Path) -> str:
    """Queries, ranks, items and the bits of the scores."""
    frame = pl.read_parquet(path)
    columns = [
        series.to_numpy().tobytes() if series.dtype.is_numeric() else json.dumps(series.to_list()).encode()
        for series in frame.get_columns()
    ]
    return digest(json.dumps(frame.columns).encode(), *columns)


def metrics_of(found: dict[str, Any]) -> str:
    """Every number of an evaluation but times."""
    chosen = {name: value for name, value in found.items() if name.startswith(("metrics", "num_", "index_recall"))}
    return digest(json.dumps(chosen, sort_keys=True).encode())


def hashes_of(run: Path, folder: Path) -> dict[str, str]:
    lists = folder / "lists.parquet"
    lists.unlink(missing_ok=True)
    xclass("retrieve", run, "--out", lists, "-k", 10)
    return {
        "weights": weights_of(run),
        "lists": lists_of(lists),
        "metrics": metrics_of(xclass("evaluate", run, "-k", 10)),
    }


def trained(name: str, dataset: Path, config: Path, folder: Path, *changes: str) -> tuple[Path, dict[str, str]]:
    run = folder / name.replace(" ", "-")
    given = [part for change in changes for part in ("--set", change)]
    xclass("train", dataset, "--config", config, "--out", run, "--device", "cpu", *given)
    return run, hashes_of(run, folder)


def all_hashes(folder: Path, only: str) -> dict[str, dict[str, str]]:
    """Name → hashes, of every run whose name has ``only`` in it."""
    found: dict[str, dict[str, str]] = {}
    for name, source in DATASETS.items():
        report = xclass("ingest", source, "--out", folder / name)
        assert report, source
    for name, kind, changes in [
        *((name, "pairs", changes) for name, changes in PAIRS.items()),
        *((name, "documents", changes) for name, changes in DOCUMENTS.items()),
        *((name, "text", changes) for name, changes in TEXT.items()),
    ]:
        if only in name:
            config = folder / "config.toml"
            config.write_text(tomli_w.dumps(joined(BASE, changes)))
            found[name] = trained(name, folder / kind, config, folder)[1]
            print(f"{name:26} {found[name]}", file=sys.stderr)
    for path in sorted((ROOT / "configs" / "tiny").glob("*.toml")):
        if only in f"tiny {path.stem}":
            changes = ["train.epochs=1", "train.steps=20", "train.checkpoint_every_s=1000"]
            dataset = folder / TINY.get(path.stem, "pairs")
            found[f"tiny {path.stem}"] = trained(f"tiny {path.stem}", dataset, path, folder, *changes)[1]
    indexes = {name: how for name, how in INDEXES.items() if only in name}
    if indexes:
        (folder / "config.toml").write_text(tomli_w.dumps(BASE))
        run, found["index of"] = trained("index of", folder / "pairs", folder / "config.toml", folder)
        for name, how in indexes.items():
            xclass("index", run, *how, "-k", 10, "--target-recall", 0.1, "--deterministic", "--replace")
            files = sorted(path for path in (run / "index").iterdir() if path.name not in TOLD)
            found[name] = {"files": digest(*(path.read_bytes() for path in files))}
    return found


def machine() -> dict[str, Any]:
    """What bits depend on."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    versions = {module.__name__: module.__version__ for module in (torch, np, pl)}
    return {
        "processor": processor or platform.processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **versions,
    }


def differences(wanted: dict[str, dict[str, str]], got: dict[str, dict[str, str]]) -> list[str]:
    """One line for each run that is not as it was."""
    lines = [f"{name}: was not made" for name in wanted if name not in got]
    for name, hashes in got.items():
        other = [part for part, value in hashes.items() if wanted.get(name, {}).get(part) != value]
        if name not in wanted:
            lines.append(f"{name}: not in the file")
        elif other:
            lines.append(f"{name}: other {', '.join(other)}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--write", type=Path)
    way.add_argument("--check", type=Path)
    parser.add_argument("--only", default="", help="runs with this in their name")
    options = parser.parse_args()
    known = json.loads(options.check.read_text()) if options.check else None
    if known and known["machine"] != machine():
        sys.exit(f"made on another machine: {known['machine']}, this one is {machine()}")
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        found = all_hashes(Path(folder), options.only)
    print(f"{len(found)} runs in {time.perf_counter() - started:.0f} s")
    if known:
        lines = differences({name: h for name, h in known["runs"].items() if options.only in name}, found)
        print(*lines, sep="\n") if lines else print("every bit as before")
        sys.exit(1 if lines else 0)
    options.write.write_text(json.dumps({"machine": machine(), "runs": found}, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
