"""The whole flow on planted data, whose best possible recall is known: what ``xclass demo`` runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from xclass.api import index_run
from xclass.errors import ArtefactError
from xclass.evaluation.evaluate import metrics_at
from xclass.index import IndexConfig
from xclass.ingest.ingest import ingest
from xclass.ingest.synthetic.pairs import best_recall
from xclass.io.files import A_DIRECTORY, atomic_file, check_target
from xclass.io.frames import scan_parquet
from xclass.recommender import Recommender
from xclass.retrieval.parts import write_topk
from xclass.runs.train import resolve_config, train_run
from xclass.runtime.progress import say

SOURCE = "planted:items=5000,queries=20000,pairs=800000"
K = 20
CONFIG = """\
product_dtype = "bfloat16"

[model]
embedding_dim = 64
normalize = false
temperature = 1.0

[model.query]
kind = "history"
hidden = [128]

[sampler]
kind = "uniform"
num_sampled = 1024

[train]
epochs = 20
learning_rate = 0.2

[train.batch]
by = "query"
size = 256

[train.validation]
every_epochs = 5
"""


def run_demo(out: Path) -> dict[str, Any]:
    """Plant, ingest, train, index, retrieve, evaluate below ``out``; each step says the command that does the same.

    Returns:
        What was reached beside the best possible, and the paths.

    Raises:
        ArtefactError: ``out`` is there already.
    """
    out = Path(out)
    check_target(out, A_DIRECTORY)
    if out.exists() and any(out.iterdir()):
        raise ArtefactError("this directory is not empty", where=out, do="choose another --out, or remove it first")
    out.mkdir(parents=True, exist_ok=True)
    with atomic_file(out / "demo.toml") as temporary:
        temporary.write_text(CONFIG, encoding="utf-8")
    say(f"$ xclass ingest {SOURCE} --out {out / 'dataset'}")
    dataset = ingest(SOURCE, out / "dataset")
    say(f"$ xclass train {out / 'dataset'} --config {out / 'demo.toml'} --out {out / 'run'}")
    train_run(dataset, resolve_config(out / "demo.toml"), out / "run")
    recommender = Recommender.load(out / "run")
    say(f"$ xclass index {out / 'run'} --kind hnsw -k {K}")
    index_run(recommender, IndexConfig(kind=_index_kind()), target_recall=0.95, k=K)
    say(f"$ xclass retrieve {out / 'run'} --out {out / 'topk.parquet'} -k {K}")
    _retrieve(recommender, out / "topk.parquet")
    say(f"$ xclass evaluate {out / 'run'} -k {K}")
    return _evaluate(recommender, out)


def _index_kind() -> str:
    """The demo also runs where Faiss is not installed."""
    from xclass.index.faiss.factory import faiss_installed

    return "hnsw" if faiss_installed() else "exact"


def _retrieve(recommender: Recommender, path: Path) -> None:
    from xclass.queries.queries import dataset_queries

    queries = dataset_queries(recommender.dataset)
    write_topk(path, recommender.lists(queries, K), queries.ids, recommender.run.item_ids, K)


def _evaluate(recommender: Recommender, out: Path) -> dict[str, Any]:
    found = recommender.measure(metrics_at([K]))
    best = best_recall(recommender.dataset, K)
    name = f"recall@{K}"
    rows = {
        "best possible": best,
        "this model, exact search": found.metrics[name],
        "this model, through the index": found.metrics_index.get(name),
        "most popular items": found.popularity[name],
    }
    return {
        "metric": name,
        "rows": {what: value for what, value in rows.items() if value is not None},
        "share_of_best": found.metrics[name] / best,
        **found.index_recall,
        "first_lists": _first_lists(out / "topk.parquet"),
        "out": str(out),
    }


def _first_lists(path: Path) -> dict[str, list[str]]:
    """The first three queries' five best items, as an example of what was written."""
    table = scan_parquet(path).head(3 * K).filter(pl.col("rank") <= 5).collect()
    lists = table.group_by("query_id", maintain_order=True).agg("item_id")
    return dict(zip(lists["query_id"].to_list(), lists["item_id"].to_list(), strict=True))
