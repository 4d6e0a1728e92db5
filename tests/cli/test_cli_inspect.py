"""``xclass inspect``: says what is there, and refuses what is not whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import safetensors.numpy

from xclass.cli import main
from xclass.data.dataset import write_ragged
from xclass.io.manifest import write_json, write_manifest

REPORT = {
    "source": "log.csv",
    "formats": ["csv"],
    "read": {"all": 9},
    "dropped": {"duplicates": 3, "min_counts": {"pairs": 0, "queries": 0, "items": 0, "rounds": 0}},
    "kept": 6,
    "queries": 3,
    "items": 4,
    "splits": {},
    "cold_items": {},
    "queries_without_history": {},
    "queries_without_pairs": 0,
}

STARTED = {"dataset": "/somewhere", "fingerprint": "f00"}


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Three queries, four items; train lists of 2, 1 and 0 items, test lists of 0, 0 and 3."""
    path = tmp_path / "data"
    path.mkdir()
    pl.DataFrame({"item_id": ["b", "a", "c", "d"], "train_count": [2, 1, 0, 0]}).write_parquet(path / "items.parquet")
    pl.DataFrame({"query_id": ["q1", "q2", "q3"]}).write_parquet(path / "queries.parquet")
    write_ragged(path / "train", np.array([0, 2, 3, 3]), np.array([0, 1, 0], dtype=np.int32))
    write_ragged(path / "test", np.array([0, 0, 0, 3]), np.array([1, 2, 3], dtype=np.int32))
    fields = {
        "num_queries": 3,
        "num_items": 4,
        "splits": {"train": {"pairs": 3, "queries": 2}, "test": {"pairs": 3, "queries": 1}},
        "report": REPORT,
    }
    write_manifest(path, "dataset.json", "dataset", 1, fields)
    return path


def inspected(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    assert main(["inspect", *map(str, arguments), "--json"]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_a_dataset(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = inspected(capsys, dataset)
    assert found["kind"] == "dataset"
    assert (found["num_queries"], found["num_items"], found["format_version"]) == (3, 4, 1)
    assert found["splits"] == {
        "train": {"pairs": 3, "queries": 2, "pairs_per_query": 1.5, "longest_list": 2},
        "test": {"pairs": 3, "queries": 1, "pairs_per_query": 3.0, "longest_list": 3},
    }
    assert found["report"] == REPORT
    assert found["files"] == 6
    assert (
        found["bytes"]
        == sum(file.stat().st_size for file in dataset.rglob("*") if file.is_file())
        - (dataset / "dataset.json").stat().st_size
    )
    assert found["verified"] is True


def test_a_dataset_for_people(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(dataset)]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"dataset {dataset}\n")
    assert "\nread       9 pairs from log.csv, format csv\n" in text
    assert "report." not in text
    assert "| train  |     3 |       2 |          1.5000 |            2 |" in text


def test_an_altered_file_is_found_unless_hashes_are_not_wanted(
    dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = dataset / "train" / "values.npy"
    content = bytearray(values.read_bytes())
    content[-1] ^= 1
    values.write_bytes(content)
    assert main(["inspect", str(dataset)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"error: {values}: this file was altered")
    assert inspected(capsys, dataset, "--no-verify")["verified"] is False


def test_a_cut_file_is_found_always(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = dataset / "train" / "values.npy"
    values.write_bytes(values.read_bytes()[:-1])
    assert main(["inspect", str(dataset), "--no-verify"]) == 1
    assert f"{values}: this file was cut or altered" in capsys.readouterr().err


def test_another_format_version(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = json.loads((dataset / "dataset.json").read_text())
    write_json(dataset / "dataset.json", {**manifest, "format_version": 99})
    assert main(["inspect", str(dataset)]) == 1
    assert "another format version\n  wanted: 1\n  got: 99" in capsys.readouterr().err


def test_a_cut_manifest(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = dataset / "dataset.json"
    manifest.write_text(manifest.read_text()[:50])
    assert main(["inspect", str(dataset)]) == 1
    assert f"{manifest}: this file is not valid JSON" in capsys.readouterr().err


def test_what_lies_below_is_listed(tmp_path: Path, dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path)
    (run / "metrics.json").write_text("{half")
    (run / "index").mkdir()
    (run / "index" / "vectors.npy").touch()
    described = {"kind": "exact", "factory": None, "metric": "inner_product", "search_parameters": {}}
    fields = {"index": described, "num_items": 4, "dim": 2, "binding": None, "vectors_sha256": "0f"}
    write_manifest(run / "index", "index.json", "index", 2, fields)
    counts = {"num_items": 4, "num_queries": 3, "result": {"steps": 12, "train_s": 1.5}}
    write_manifest(run, "run.json", "run", 1, {"dataset": STARTED, **counts})
    found = inspected(capsys, run)
    assert (found["kind"], found["result"]["steps"]) == ("run", 12)
    assert found["contains"] == {"index": "index", "checkpoints/step-000000000007": "checkpoint"}
    assert found["config"] == {"train": {"epochs": 2}}
    assert inspected(capsys, run / "index")["index"] == described
    assert main(["inspect", str(tmp_path)]) == 1
    assert "do: it holds data, run, run/index: inspect one of them" in capsys.readouterr().err


def make_run(tmp_path: Path) -> Path:
    """A run that has been started and has one checkpoint."""
    run = tmp_path / "run"
    checkpoint = run / "checkpoints" / "step-000000000007"
    checkpoint.mkdir(parents=True)
    (checkpoint / "tensors.safetensors").touch()
    write_manifest(checkpoint, "checkpoint.json", "checkpoint", 1, {"state": {"step": 7}})
    write_json(run / "started.json", STARTED)
    (run / "config.toml").write_text("[train]\nepochs = 2\n")
    return run


def test_an_unfinished_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = inspected(capsys, make_run(tmp_path))
    assert (found["kind"], found["finished"]) == ("run", False)
    assert found["dataset"]["dataset"] == "/somewhere"
    assert found["contains"] == {"checkpoints/step-000000000007": "checkpoint"}
    assert inspected(capsys, tmp_path / "run" / "checkpoints" / "step-000000000007")["state"] == {"step": 7}


def test_topk_parquet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "topk.parquet"
    rows = {"query_id": ["a", "a", "b"], "rank": [1, 2, 1], "item_id": ["x", "y", "x"], "score": [0.5, 0.25, 1.0]}
    pl.DataFrame(rows).write_parquet(path)
    found = inspected(capsys, path)
    assert found["kind"] == "topk"
    counts = {key: found[key] for key in ("queries", "rows", "items", "longest_list", "shortest_list")}
    assert counts == {"queries": 2, "rows": 3, "items": 2, "longest_list": 2, "shortest_list": 1}


def test_other_parquet_and_safetensors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pl.DataFrame({"a": [1, 2]}).write_parquet(tmp_path / "a.parquet")
    found = inspected(capsys, tmp_path / "a.parquet")
    assert (found["kind"], found["rows"], found["columns"]) == ("parquet", 2, {"a": "Int64"})
    safetensors.numpy.save_file({"w": np.zeros((2, 3), np.float32)}, tmp_path / "m.safetensors", {"step": "7"})
    found = inspected(capsys, tmp_path / "m.safetensors")
    assert (found["tensors"], found["metadata"]) == ({"w": "F32 (2, 3)"}, {"step": "7"})


@pytest.mark.parametrize("name", ["topk.parquet", "model.safetensors"])
def test_a_cut_data_file(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / name
    if name.endswith("parquet"):
        pl.DataFrame({"a": [1, 2]}).write_parquet(path)
    else:
        safetensors.numpy.save_file({"w": np.zeros(9)}, path)
    path.write_bytes(path.read_bytes()[:-7])
    assert main(["inspect", str(path)]) == 1
    assert capsys.readouterr().err.startswith(f"error: {path}: this file can't be read: cut or altered")


@pytest.mark.parametrize("name", ["nothing", "a.csv", "folder"])
def test_what_is_not_ours(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.csv").write_text("x")
    (tmp_path / "folder").mkdir()
    assert main(["inspect", str(tmp_path / name)]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: {tmp_path / name}: ")
    assert "do: give the path of a dataset" in captured.err
