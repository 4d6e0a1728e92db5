"""Our metrics beside ranx's, query by query, on random lists: equal to 1e-12 where the definitions agree.

ranx has no ties in these lists: it leaves their order open, we count them against the positive. Its average precision
divides by the number of positives, ours by min(k, positives): they are compared after that factor.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from xclass.evaluation.predictions import evaluate_predictions
from xclass.metrics import Evaluation, MetricName
from xclass.runtime.rng import numpy_generator

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    ranx = pytest.importorskip("ranx", reason="ranx is not installed: nothing to compare with")

CASES = int(os.environ.get("XCLASS_COMPARISON_CASES", "40"))
BAR = 1e-12
THEIR_NAMES = {
    "recall": "recall",
    "precision": "precision",
    "hit_rate": "hit_rate",
    "ndcg": "ndcg",
    "map": "map",
    "mrr": "mrr",
}
CUT_OFFS = (1, 3, 10, 50)
METRICS = [MetricName(name, k) for name in THEIR_NAMES for k in CUT_OFFS]
pytestmark = pytest.mark.filterwarnings("ignore")


def case(number: int) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, int]]]:
    """Run and qrels: lists of 0 to 60 of 100 items, 1 to 20 positives, queries with no hit and with hits only."""
    rng = numpy_generator(0, "ranx", number)
    run, qrels = {}, {}
    for query in range(int(rng.integers(1, 30))):
        items = rng.permutation(100)[: int(rng.integers(1, 61))]
        scores = rng.permutation(1000)[: len(items)] / 7.0
        positives = rng.permutation(100)[: int(rng.integers(1, 21))]
        run[f"q{query}"] = {f"i{item}": float(score) for item, score in zip(items, scores, strict=True)}
        qrels[f"q{query}"] = {f"i{item}": 1 for item in positives}
    return run, qrels


def ours(folder: Path, run: dict, qrels: dict) -> Evaluation:
    rows = [(query, item, score) for query, items in run.items() for item, score in items.items()]
    pairs = [(query, item) for query, items in qrels.items() for item in items]
    pl.DataFrame(rows, schema=["query_id", "item_id", "score"], orient="row").write_parquet(folder / "p.parquet")
    pl.DataFrame(pairs, schema=["query_id", "item_id"], orient="row").write_parquet(folder / "t.parquet")
    return evaluate_predictions(folder / "p.parquet", folder / "t.parquet", metrics=METRICS)


def theirs(run: dict, qrels: dict) -> dict[str, dict[str, float]]:
    """Metric → query → value."""
    judged = ranx.Run.from_dict(run)
    ranx.evaluate(ranx.Qrels.from_dict(qrels), judged, [f"{THEIR_NAMES[m.name]}@{m.k}" for m in METRICS])
    return {str(m): dict(judged.scores[f"{THEIR_NAMES[m.name]}@{m.k}"]) for m in METRICS}


@pytest.mark.parametrize("number", range(CASES))
def test_every_query_of_a_random_case(tmp_path: Path, number: int) -> None:
    run, qrels = case(number)
    result, reference = ours(tmp_path, run, qrels), theirs(run, qrels)
    assert result.query_ids is not None
    queries = result.query_ids.to_list()
    for metric in METRICS:
        wanted = np.array([reference[str(metric)][query] for query in queries])
        if metric.name == "map":
            sizes = np.array([len(qrels[query]) for query in queries])
            wanted = wanted * sizes / np.minimum(sizes, metric.k)
        assert result.metrics[str(metric)] == pytest.approx(wanted.mean(), abs=BAR), metric
        assert np.abs(result.per_query[str(metric)].numpy() - wanted).max() < 1e-6  # float32


def test_a_missing_list_counts_zero_as_with_make_comparable(tmp_path: Path) -> None:
    run, qrels = case(0)
    del run["q0"]
    run["unknown"] = {"i1": 1.0}
    result = ours(tmp_path, run, qrels)
    wanted = ranx.evaluate(ranx.Qrels.from_dict(qrels), ranx.Run.from_dict(run), "recall@10", make_comparable=True)
    assert result.metrics["recall@10"] == pytest.approx(wanted, abs=BAR)
    assert (result.num_missing, result.files["num_unknown_queries"]) == (1, 1)
