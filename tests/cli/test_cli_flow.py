"""train, index, retrieve, evaluate and demo from the command line: what they print, write and refuse."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from xclass.cli import main

CONFIG = """
[model]
embedding_dim = 16
normalize = false
temperature = 1.0

[sampler]
num_sampled = 128

[train]
epochs = 3
learning_rate = 0.3
[train.batch]
by = "query"
size = 64
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flow")
    (folder / "config.toml").write_text(CONFIG)
    assert main(["ingest", "planted:items=300,queries=800,pairs=20000", "--out", str(folder / "dataset")]) == 0
    train = ["train", str(folder / "dataset"), "--config", str(folder / "config.toml"), "--out", str(folder / "run")]
    assert main([*train, "--device", "cpu"]) == 0
    assert main(["index", str(folder / "run"), "--kind", "hnsw", "-k", "10"]) == 0
    return folder


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict:
    assert main([str(argument) for argument in arguments]) == 0
    return json.loads(capsys.readouterr().out)


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main([str(argument) for argument in arguments]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and "Traceback" not in captured.err
    return captured.err


def test_evaluate_prints_what_scripts_read(place, capsys):
    found = run(capsys, "evaluate", place / "run", "-k", 10, "-k", 20, "--json")
    assert {
        "recall@10",
        "recall@20",
        "ndcg@20",
        "capped_recall@20",
        "precision@10",
        "hit_rate@20",
        "map@20",
        "mrr@20",
    } <= set(found["metrics"])
    assert found["num_queries"] + found["num_skipped"] == 800
    assert 0.9 < found["index_recall@20"] <= 1
    assert set(found["metrics"]) <= set(found["definitions"]) and "positives" in found["definitions"]["recall@20"]
    assert found["popularity"]["recall@20"] < found["metrics"]["recall@20"]
    exact = run(capsys, "evaluate", place / "run", "-k", 20, "--exact", "--json")
    assert "index_recall@20" not in exact and exact["metrics"]["recall@20"] == found["metrics"]["recall@20"]


def test_evaluate_by_popularity_and_per_query(place, capsys, tmp_path):
    file = tmp_path / "per-query.parquet"
    found = run(
        capsys,
        "evaluate",
        place / "run",
        "-k",
        20,
        "--metric",
        "recall",
        "--by-popularity",
        "--per-query",
        file,
        "--json",
    )
    assert list(found["by_popularity"]) == ["head", "torso", "tail", "cold"]
    rows = pl.read_parquet(file)
    assert len(rows) == 800 and rows["recall@20"].mean() == pytest.approx(found["metrics"]["recall@20"], abs=1e-6)
    assert main(["evaluate", str(place / "run"), "-k", "5", "--by-popularity"]) == 0
    assert "popularity" in capsys.readouterr().out


def test_retrieve_everybody(place, capsys, tmp_path):
    said = run(capsys, "retrieve", place / "run", "--out", tmp_path / "topk.parquet", "-k", 7, "--json")
    assert {"queries", "queries_per_s", "short_lists", "unknown_queries", "peak_rss_bytes"} <= set(said)
    rows = pl.read_parquet(tmp_path / "topk.parquet")
    assert said["queries"] == 800 and rows.columns == ["query_id", "rank", "item_id", "score"]
    assert rows.group_by("query_id").len()["len"].to_list() == [7] * 800
    assert rows.group_by("query_id").agg(pl.col("item_id").n_unique())["item_id"].to_list() == [7] * 800
    assert rows["rank"].to_list() == [1, 2, 3, 4, 5, 6, 7] * 800


def test_retrieve_for_some(place, capsys, tmp_path):
    everybody = run(capsys, "retrieve", place / "run", "--out", tmp_path / "all.parquet", "-k", 5, "--exact", "--json")
    assert everybody["unknown_queries"] == 0
    rows = pl.read_parquet(tmp_path / "all.parquet")
    first = rows["query_id"][0]
    (tmp_path / "ids.txt").write_text(f"{first}\nnobody\n")
    said = run(
        capsys,
        "retrieve",
        place / "run",
        "--out",
        tmp_path / "some.parquet",
        "-k",
        5,
        "--exact",
        "--queries",
        tmp_path / "ids.txt",
        "--json",
    )
    assert said["queries"] == 1 and said["unknown_queries"] == 1
    some, same = pl.read_parquet(tmp_path / "some.parquet"), rows.filter(pl.col("query_id") == first)
    assert some.drop("score").equals(same.drop("score"))
    assert some["score"].to_list() == pytest.approx(same["score"].to_list(), rel=1e-5)
    items = rows.filter(pl.col("query_id") == first)["item_id"].to_list()
    (tmp_path / "histories.jsonl").write_text(json.dumps({"query_id": "new", "history": items[:2]}) + "\n")
    (tmp_path / "allow.txt").write_text("\n".join(items))
    (tmp_path / "deny.txt").write_text(items[4])
    restricted = ["--candidates", tmp_path / "allow.txt", "--exclude", tmp_path / "deny.txt"]
    said = run(
        capsys,
        "retrieve",
        place / "run",
        "--out",
        tmp_path / "new.jsonl",
        "-k",
        5,
        "--queries",
        tmp_path / "histories.jsonl",
        *restricted,
        "--json",
    )
    lines = [json.loads(line) for line in (tmp_path / "new.jsonl").read_text().splitlines()]
    assert {line["item_id"] for line in lines} == set(items[2:4]) and said["short_lists"] == 1


def test_index_says_what_it_tried(place, capsys, tmp_path):
    said = run(
        capsys,
        "index",
        place / "run",
        "--factory",
        "IVF4,Flat",
        "-k",
        10,
        "--target-recall",
        0.99,
        "--replace",
        "--json",
    )
    assert said["kind"] == "factory" and said["factory"] == "IVF4,Flat" and said["index_recall@10"] >= 0.99
    chosen = [point for point in said["frontier"] if point["parameters"] == said["search_parameters"]]
    assert [point["index_recall"] for point in chosen] == [said["index_recall@10"]] and said["memory_bytes"] > 0
    assert {"queries_per_s", "flat_queries_per_s", "build_s"} <= set(said) and len(said["frontier"]) > 1
    table = pl.read_parquet(place / "run" / "index" / "frontier.parquet")
    assert table["index_recall"].to_list() == [point["index_recall"] for point in said["frontier"]]
    assert "--replace" in fails(capsys, "index", place / "run")


def test_what_can_not_be_is_one_message(place, capsys, tmp_path):
    dataset, config, out = place / "dataset", place / "config.toml", tmp_path / "out"
    assert "did you mean" in fails(
        capsys, "train", dataset, "--config", config, "--out", out, "--set", "model.temperatur=1"
    )
    assert "no such configuration" in fails(capsys, "train", dataset, "--config", tmp_path / "none.toml", "--out", out)
    assert "is not a dataset" in fails(capsys, "train", place / "run", "--config", config, "--out", out)
    assert "exists already" in fails(capsys, "train", dataset, "--config", config, "--out", place / "run")
    assert "is not a run" in fails(capsys, "evaluate", dataset)
    assert "no split" in fails(capsys, "evaluate", place / "run", "--split", "tset")
    assert "recall" in fails(capsys, "evaluate", place / "run", "--metric", "recal")
    assert "no such file" in fails(capsys, "retrieve", place / "run", "--out", out, "--queries", tmp_path / "none.txt")
    assert 'did you mean "hnsw"' in fails(capsys, "index", place / "run", "--kind", "hnws", "--replace")
    assert "not one query id" in fails(
        capsys, "retrieve", place / "run", "--out", out, "--queries", _file(tmp_path, "nobody\n")
    )
    assert not out.exists()


def _file(folder: Path, text: str) -> Path:
    (folder / "queries.txt").write_text(text)
    return folder / "queries.txt"


def test_train_resumes_a_finished_run_by_leaving_it(place, capsys):
    arguments = [
        "train",
        place / "dataset",
        "--config",
        place / "config.toml",
        "--out",
        place / "run",
        "--resume",
        "--json",
    ]
    said = run(capsys, *arguments)
    assert said["epochs"] == 3 and said["run"] == str(place / "run")


def test_demo_reaches_most_of_what_can_be_reached(monkeypatch, capsys, tmp_path):
    """On a smaller planted world than the real demo's, with its own configuration cut to a few epochs."""
    import xclass.cli.commands.demo_flow as demo

    monkeypatch.setattr(demo, "SOURCE", "planted:items=1000,queries=3000,pairs=100000")
    monkeypatch.setattr(demo, "CONFIG", demo.CONFIG.replace("epochs = 20", "epochs = 6"))
    said = run(capsys, "demo", "--out", tmp_path / "demo", "--json")
    assert said["share_of_best"] > 0.8
    assert (
        said["rows"]["most popular items"]
        < said["rows"]["this model, exact search"]
        <= said["rows"]["best possible"] * 1.02
    )
    assert (tmp_path / "demo" / "topk.parquet").exists() and len(said["first_lists"]) == 3
    assert "not empty" in fails(capsys, "demo", "--out", tmp_path / "demo")
