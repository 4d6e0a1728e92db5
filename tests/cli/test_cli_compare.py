"""compare, and evaluate over files, from the command line and from Python."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

import xclass
from xclass.cli import main
from xclass.errors import ArtefactError, InputError
from xclass.metrics import parse_metrics

CONFIG = """
[model]
embedding_dim = 8
normalize = false
temperature = 1.0

[sampler]
num_sampled = 64

[train]
epochs = 1
learning_rate = 0.3
[train.batch]
by = "query"
size = 64
"""
ROWS = [("q1", "a", 1), ("q1", "b", 2), ("q2", "c", 1), ("q2", "a", 2), ("q3", "a", 1)]
TRUTH = [("q1", "b"), ("q2", "c"), ("q3", "z")]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compare")
    (folder / "config.toml").write_text(CONFIG)
    for name, seed in (("dataset", 0), ("other", 1)):
        assert (
            main(["ingest", f"planted:items=200,queries=300,pairs=6000,seed={seed}", "--out", str(folder / name)]) == 0
        )
    for name, data, epochs in (
        ("a", "dataset", 1),
        ("b", "dataset", 6),
        ("c", "dataset", 2),
        ("elsewhere", "other", 1),
    ):
        command = ["train", str(folder / data), "--config", str(folder / "config.toml"), "--out", str(folder / name)]
        assert main([*command, "--device", "cpu", "--set", f"train.epochs={epochs}"]) == 0
    columns = {"query_id": pl.String, "item_id": pl.String}
    pl.DataFrame(ROWS, schema={**columns, "rank": pl.Int64}, orient="row").write_parquet(folder / "p.parquet")
    pl.DataFrame(ROWS[2:], schema={**columns, "rank": pl.Int64}, orient="row").write_parquet(folder / "less.parquet")
    pl.DataFrame(TRUTH, schema=columns, orient="row").write_csv(folder / "t.csv")
    return folder


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict:
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_compare_runs(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [place / name for name in ("a", "b", "c")]
    found = run(
        capsys, "compare", *paths, "-k", 10, "--metric", "recall", "--metric", "psp", "--resamples", 500, "--json"
    )
    assert [entry["run"] for entry in found["runs"]] == [str(path) for path in paths]
    alone = run(capsys, "evaluate", place / "b", "-k", 10, "--metric", "recall", "--metric", "psp", "--exact", "--json")
    assert found["runs"][1]["metrics"] == alone["metrics"]
    first = found["runs"][0]["metrics"]
    assert [(c["run"], c["metric"]) for c in found["comparisons"]] == [
        (str(paths[1]), "recall@10"), (str(paths[2]), "recall@10"), (str(paths[1]), "psp@10"), (str(paths[2]), "psp@10"),
    ]  # fmt: skip
    for entry in found["comparisons"]:
        other = next(line for line in found["runs"] if line["run"] == entry["run"])["metrics"]
        assert entry["difference"] == pytest.approx(other[entry["metric"]] - first[entry["metric"]], abs=1e-15)
        assert entry["interval"][0] < entry["difference"] < entry["interval"][1]
        assert 1 / 501 <= entry["p"] <= entry["p_holm"] <= 1
    six_epochs = found["comparisons"][0]
    assert six_epochs["difference"] > 0.02 and six_epochs["p_holm"] < 0.05  # six epochs against one
    assert found["num_queries"] == alone["num_queries"]
    assert {"recall@10", "p", "interval", "difference"} <= set(found["definitions"])
    assert (
        run(capsys, "compare", *paths, "-k", 10, "--metric", "recall", "--metric", "psp", "--resamples", 500, "--json")
        == found
    )


def test_compare_shows_tables(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    same = str(place / "a")
    assert (
        main(["compare", same, same, "-k", "5", "--metric", "ndcg", "--max-queries", "50", "--resamples", "200"]) == 0
    )
    shown = capsys.readouterr().out
    assert f"{same} #2" in shown and "p (Holm)" in shown and "queries measured: 50" in shown
    line = next(line for line in shown.splitlines() if "#2" in line and "ndcg@5" in line)
    assert [cell.strip() for cell in line.split("|")[3:8]] == ["0.0000", "0.0000", "0.0000", "1.0000", "1.0000"]


def test_runs_of_different_seeds_are_sampled_alike(place: Path) -> None:
    command = ["train", str(place / "dataset"), "--config", str(place / "config.toml"), "--out", str(place / "seed5")]
    assert main([*command, "--device", "cpu", "--set", "train.seed=5"]) == 0
    found = xclass.compare_runs([place / "a", place / "seed5"], [10], max_queries=40, resamples=100)
    assert {entry.num_queries for entry in found.runs.values()} == {40}


def test_compare_refuses(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["compare", str(place / "a"), str(place / "elsewhere")]) == 1
    assert "another dataset" in capsys.readouterr().err
    assert main(["compare", str(place / "a")]) == 1
    assert "two or more" in capsys.readouterr().err
    assert main(["compare", str(place / "a"), str(place / "dataset")]) == 1
    assert main(["compare", str(place / "a"), str(place / "b"), "--train", "x"]) == 2
    assert main(["compare", "x", "y", "--truth", "t", "--max-queries", "3"]) == 2
    assert main(["compare", "x", "y", "--truth", "t", "--split", "valid"]) == 2
    with pytest.raises(InputError, match="list of paths or tables"):
        xclass.compare_runs(str(place / "a"))
    with pytest.raises(ArtefactError):
        xclass.compare_runs([place / "a", place / "nothing"])


def test_compare_files(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = place / "p.parquet", place / "less.parquet"
    found = run(
        capsys,
        "compare",
        *files,
        "--truth",
        place / "t.csv",
        "-k",
        2,
        "--metric",
        "recall",
        "--resamples",
        999,
        "--json",
    )
    assert [entry["metrics"]["recall@2"] for entry in found["runs"]] == pytest.approx([2 / 3, 1 / 3])
    assert [entry["num_missing"] for entry in found["runs"]] == [0, 1]
    (one,) = found["comparisons"]
    assert one["difference"] == pytest.approx(-1 / 3)
    assert one["p"] == 1.0  # one query differs: either sign is as far from 0
    again = xclass.compare_predictions(files, place / "t.csv", metrics=parse_metrics(["recall@2"]), resamples=999)
    assert again.to_dict()["comparisons"] == [one]


def test_evaluate_files(place: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    command = ["evaluate", "--predictions", place / "p.parquet", "--truth", place / "t.csv", "-k", 1, "-k", 2]
    found = run(capsys, *command, "--num-items", 10, "--bootstrap", 200, "--out", tmp_path / "m.json", "--json")
    assert found["metrics"]["recall@2"] == pytest.approx(2 / 3)
    assert found["catalogue"]["coverage@2"] == 0.3
    assert set(found["intervals"]) == set(found["metrics"]) and "intervals" in found["definitions"]
    assert found["files"]["num_items"] == 10
    assert json.loads((tmp_path / "m.json").read_text()) == found
    assert main([str(part) for part in [*command, "--per-query", tmp_path / "q.parquet"]]) == 0
    assert "lists for queries that the truth does not have, left out: 0" in capsys.readouterr().out
    table = pl.read_parquet(tmp_path / "q.parquet")
    assert table.select("query_id", "recall@2").rows() == [("q1", 1.0), ("q2", 1.0), ("q3", 0.0)]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--predictions", "p.parquet"],
        ["run", "--predictions", "p.parquet", "--truth", "t.csv"],
        ["run", "--truth", "t.csv"],
        ["run", "--num-items", "4"],
        ["--predictions", "p.parquet", "--truth", "t.csv", "--exact"],
        ["--predictions", "p.parquet", "--truth", "t.csv", "--split", "valid"],
    ],
)
def test_evaluate_says_what_goes_with_what(arguments: list[str]) -> None:
    assert main(["evaluate", *arguments]) == 2


def test_intervals_of_a_run(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run(
        capsys,
        "evaluate",
        place / "b",
        "-k",
        10,
        "--metric",
        "recall",
        "--metric",
        "psndcg",
        "--bootstrap",
        300,
        "--json",
    )
    for name, value in found["metrics"].items():
        low, high = found["intervals"][name]
        assert low < value < high
    assert found["by_history"]["warm"]["num_queries"] == found["num_queries"]
    assert found["catalogue"]["mean_popularity@10"] > 0
