"""Configurations trained on one dataset side by side: from the command line, from Python, and number by number."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import xclass
from xclass.cli import main
from xclass.comparison import Contest, Target, parse_target
from xclass.comparison.curves import Point, curve, examples_per_s, reached_s, target_of
from xclass.comparison.result import as_markdown
from xclass.comparison.timing import layer_of, medians
from xclass.errors import ConfigError, InputError
from xclass.io.markdown import Brief
from xclass.recommender import Recommender
from xclass.runs.train import resolve_config, train_run

COMMON = """
[model]
embedding_dim = 8
normalize = false
temperature = 1.0
[model.query]
kind = "history"
[train]
epochs = 2
learning_rate = 0.3
[train.batch]
by = "query"
size = 64
"""
CONFIGS = {
    "full": COMMON + '[sampler]\nkind = "all"\n[loss]\nkind = "full-softmax"\n',
    "tree": COMMON + '[head]\nkind = "hierarchical"\n',
    "bands": COMMON + '[head]\nkind = "differentiated"\ncuts = [0.25]\ndims = [6, 2]\n',
}
ITEMS = 150
MEASURED = {"probability_us", "probability_batch_us", "topk_us", "topk_batch_us", "score_us", "score_batch_us"}


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Each call is timed once: what is tested is not how fast it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("xclass.comparison.timing.LEAST_S", 0.0)
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("contest")
    source = f"planted:items={ITEMS},queries=300,pairs=4000"
    assert main(["ingest", source, "--out", str(folder / "dataset")]) == 0
    for name, text in CONFIGS.items():
        (folder / f"{name}.toml").write_text(text)
    return folder


@pytest.fixture(scope="module")
def contest(place: Path) -> Contest:
    configs = [place / f"{name}.toml" for name in CONFIGS]
    return xclass.compare_configs(place / "dataset", configs, place / "out", [10], turns=2, resamples=200)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict:
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_every_entry_has_the_promised_keys(place: Path, contest: Contest) -> None:
    found = contest.to_dict()
    assert [entry["config"] for entry in found["runs"]] == [str(place / f"{name}.toml") for name in CONFIGS]
    for entry in found["runs"]:
        promised = {"config", "metrics", "examples_per_s", "train_s", "probability_us", "topk_us", "parameters"}
        assert promised | {"memory_bytes"} <= set(entry)
        assert set(entry["metrics"]) >= {"recall@10", "ndcg@10"}
        assert entry["examples_per_s"] > 0 and entry["train_s"] > 0
        assert {name for name in MEASURED if entry[name] is None} == (
            {"score_us", "score_batch_us"} if entry["name"] == "tree" else set()
        ) | ({"score_us", "score_batch_us"} if entry["name"] == "bands" else set())
        assert [point["step"] for point in entry["curve"]] == sorted({point["step"] for point in entry["curve"]})
        assert len(entry["curve"]) == 2
    assert found["target"]["metric"] == "recall@20" and found["runs"][0]["reached_s"] is not None
    assert [difference["run"] for difference in found["comparisons"]] == ["tree", "bands"] * 2


def test_metrics_are_those_of_evaluate(place: Path, contest: Contest, capsys: pytest.CaptureFixture[str]) -> None:
    for entry in contest.to_dict()["runs"]:
        command = ["evaluate", place / "out" / entry["name"], "-k", 10, "--metric", "recall", "--metric", "ndcg"]
        alone = run(capsys, *command, "--json")
        assert {name: entry["metrics"][name] for name in alone["metrics"]} == alone["metrics"]
        if entry["name"] == "tree":
            assert entry["index_recall"] == {"index_recall@10": alone["index_recall@10"]}
            assert entry["metrics_index"] == alone["metrics_index"]
        else:
            assert "index_recall" not in entry


def test_sizes_of_the_layers(place: Path, contest: Contest) -> None:
    layers = {entry.name: entry.layer for entry in contest.entries}
    assert layers["full"].parameters == ITEMS * 8
    assert layers["full"].memory_bytes == 4 * ITEMS * 8
    assert layers["tree"].parameters == (ITEMS - 1) * 8
    tree = Recommender.load(place / "out" / "tree").model.head.tree
    arrays = sum(part.nbytes for part in (tree.offsets, tree.children, tree.parent, tree.place))
    assert layers["tree"].memory_bytes >= 4 * (ITEMS - 1) * 8 + arrays
    head = round(0.25 * ITEMS)
    assert abs(layers["bands"].parameters - (head * 6 + (ITEMS - head) * 2)) <= 4


def test_bfloat16_halves_memory_and_not_parameters(place: Path) -> None:
    dataset = xclass.open_dataset(place / "dataset")
    config = resolve_config(place / "full.toml", ["tables.dtype=bfloat16", "train.epochs=0"])
    layer = layer_of(Recommender.load(train_run(dataset, config, place / "half", device="cpu")))
    assert layer is not None and (layer.parameters, layer.memory_bytes) == (ITEMS * 8, 2 * ITEMS * 8)


def test_files_and_a_second_call_that_adds_one(
    place: Path, contest: Contest, capsys: pytest.CaptureFixture[str]
) -> None:
    out = place / "out"
    assert json.loads((out / "comparison.json").read_text())["runs"][0]["name"] == "full"
    assert (out / "comparison.png").read_bytes().startswith(b"\x89PNG")
    page = (out / "comparison.md").read_text()
    assert "| full " in page and "recall@10: hits" in page and "(comparison.png)" in page
    (place / "more").mkdir()
    (place / "more" / "tree.toml").write_text(CONFIGS["tree"].replace("epochs = 2", "epochs = 1"))
    again = run(
        capsys, "compare", place / "dataset", "--config", place / "tree.toml", "--config", place / "more" / "tree.toml",
        "--out", out, "-k", 10, "--metric", "recall", "--target", "recall@20=0.9", "--resamples", 100, "--json",
    )  # fmt: skip
    first, second = again["runs"]
    assert (first["name"], second["name"]) == ("tree", "tree-2")
    assert first["train_s"] == contest.entries[1].train_s, "a finished run is taken as it is"
    assert first["metrics"]["recall@10"] == contest.entries[1].metrics["recall@10"]
    assert len(second["curve"]) == 1 and second["reached_s"] is None
    assert again["target"] == {"metric": "recall@20", "value": 0.9}
    with pytest.raises(ConfigError, match="another configuration"):
        xclass.compare_configs(place / "dataset", [place / "full.toml"], out, overrides=["train.epochs=1"])


def test_an_interrupted_one_goes_on(place: Path, contest: Contest, tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def kill(step: int, metrics: dict[str, float]) -> None:
        raise Killed

    dataset, every = xclass.open_dataset(place / "dataset"), ["train.checkpoint_every_s=0"]
    whole = xclass.compare_configs(dataset, [place / "full.toml"], tmp_path / "a", [10], overrides=every, turns=1)
    config = resolve_config(place / "full.toml", every)
    with pytest.raises(Killed):
        train_run(dataset, config, tmp_path / "b" / "full", on_validation=kill, device="cpu")
    half = xclass.compare_configs(dataset, [place / "full.toml"], tmp_path / "b", [10], overrides=every, turns=1)
    hashes = {Recommender.load(tmp_path / part / "full").run.model_hash for part in "ab"}
    assert len(hashes) == 1 and half.entries[0].metrics == whole.entries[0].metrics
    assert half.comparison is None and "comparisons" not in half.to_dict()


def test_without_out_and_without_a_plotting_library(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    command = ["compare", place / "dataset", "--config", place / "full.toml", "--set", "train.epochs=1", "-k", 5]
    assert main([str(each) for each in [*command, "--max-queries", 50]]) == 0
    shown = capsys.readouterr()
    assert "recall@5" in shown.out and "top-5" in shown.out and "no picture" in shown.err
    assert list(tmp_path.iterdir()) == []


def test_what_is_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset, config = str(place / "dataset"), str(place / "full.toml")
    assert main(["compare", dataset]) == 2
    assert "say with --config" in capsys.readouterr().err
    assert main(["compare", dataset, dataset, "--config", config]) == 2
    assert main(["compare", dataset, "--config", config, "--truth", "t"]) == 2
    assert main(["compare", "a", "b", "--target", "recall@20=1"]) == 2
    assert main(["compare", "a", "b", "--truth", "t", "--out", "o"]) == 2
    assert main(["compare", dataset, "--config", config, "--target", "recall@20"]) == 1
    assert "METRIC=VALUE" in capsys.readouterr().err
    assert main(["compare", dataset, "--config", config, "--target", "recall@7=1"]) == 1
    assert "validated by" in capsys.readouterr().err
    assert main(["compare", str(place / "none"), "--config", config]) == 1
    with pytest.raises(InputError, match="nothing to compare"):
        xclass.compare_configs(dataset, [], place / "never")
    with pytest.raises(ConfigError):
        xclass.compare_configs(dataset, [place / "full.toml"], place / "never", overrides=["model.dims=3"])
    assert not (place / "never").exists()


def test_the_rate_is_a_median_over_time() -> None:
    records = [
        {"step": 1, "train_s": 5.0, "positives_per_s": 10.0},  # a slow second half minute of compiling
        {"step": 2, "train_s": 11.0, "positives_per_s": 100.0},
        {"step": 2, "train_s": 11.0, "positives_per_s": None},
        {"step": 3, "train_s": 12.0, "positives_per_s": 900.0},
        {"event": "end", "train_s": 12.0, "positives_per_s": 1.0},
    ]
    assert examples_per_s(records) == 100.0
    assert examples_per_s([]) is None


def test_when_a_target_is_reached() -> None:
    records = [
        {"step": 1, "train_s": 1.0, "valid": {"perplexity": 300.0, "recall@20": 0.1}},
        {"step": 2, "train_s": 2.0},
        {"step": 3, "train_s": 3.0, "valid": {"perplexity": 200.0, "recall@20": 0.2}},
        {"step": 4, "train_s": 4.0, "valid": {"perplexity": 210.0, "recall@20": 0.2}},
    ]
    points = curve(records)
    assert points[1] == Point(3, 3.0, {"perplexity": 200.0, "recall@20": 0.2})
    assert target_of(points, "perplexity") == Target("perplexity", 202.0)
    assert target_of(points, "recall@20") == Target("recall@20", pytest.approx(0.198))
    assert target_of(points, "ndcg@20") is None and target_of([], "recall@20") is None
    assert reached_s(points, Target("perplexity", 250.0)) == 3.0
    assert reached_s(points, Target("perplexity", 300.0)) == 1.0
    assert reached_s(points, Target("recall@20", 0.15)) == 3.0
    assert reached_s(points, Target("recall@20", 0.3)) is None
    assert reached_s(points, Target("ndcg@20", 0.0)) is None and reached_s(points, None) is None
    assert parse_target("recall@20=.18") == Target("recall@20", 0.18)
    for wrong in ("recall@20", "=3", "recall@20=nan", "recall@20=many"):
        with pytest.raises(InputError, match="no quality to reach"):
            parse_target(wrong)


def test_medians_of_turns() -> None:
    turns = [{"topk_us": value, "topk_batch_us": 2 * value} for value in (3.0, 100.0, 2.0)]
    found = medians(turns)
    assert (found["topk_us"], found["topk_batch_us"], found["probability_us"]) == (3.0, 6.0, None)


def test_tables_read_well() -> None:
    table = as_markdown(["a", "b"], [["x", Brief(1234.5)], ["y", None]])
    assert table.splitlines()[2:] == ["| x | 1,234 |", "| y |       |"]
