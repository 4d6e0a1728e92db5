"""Runs whose output layer brings its own search: train, resume, retrieve, filter, evaluate, estimate, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from xclass.cli import main
from xclass.data.dataset import Dataset
from xclass.errors import ConfigError, InputError
from xclass.estimate import calibration, estimate
from xclass.heads import OwnSearch
from xclass.ingest.synthetic.pairs import PlantedModel
from xclass.recommender import Recommender
from xclass.runs.inspect import describe
from xclass.runs.train import resolve_config, train_run
from xclass.training.trainer import Trainer
from xclass.types import Ragged

HEADS: dict[str, dict[str, Any]] = {
    "balanced": {"kind": "hierarchical", "tree": "balanced", "arity": 3},
    "huffman": {"kind": "hierarchical", "tree": "huffman"},
    "clustered": {"kind": "hierarchical", "tree": "clustered", "beam": 4},
    "differentiated": {"kind": "differentiated", "cuts": [0.2, 0.6], "dims": [6, 4, 2]},
    "adaptive": {"kind": "adaptive", "cuts": [0.2, 0.6], "dims": [6, 3]},
}
TINY = {
    "model": {"embedding_dim": 12, "normalize": False, "temperature": 1.0, "query": {"kind": "history", "hidden": [8]}},
    "train": {
        "epochs": 6,
        "learning_rate": 0.3,
        "checkpoint_every_s": 1e-9,
        "batch": {"by": "query", "size": 64},
        "validation": {"queries": 100},
    },
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    path = tmp_path_factory.mktemp("planted") / "dataset"
    return PlantedModel(num_items=150, num_queries=400, pairs=9_000, num_topics=6, seed=4).write_dataset(path)


@pytest.fixture(scope="module")
def runs(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("heads")
    return {name: train_run(dataset, config(name), folder / name) for name in HEADS}


def config(name: str, *changes: str) -> Any:
    return resolve_config({**TINY, "head": HEADS[name]}, list(changes))


@pytest.mark.parametrize("name", HEADS)
def test_it_learns_and_is_evaluated(runs: dict[str, Path], name: str) -> None:
    recommender = Recommender.load(runs[name])
    table = recommender.evaluate(k=[10])
    row = dict(zip(table["metric"], table["model"], strict=True))
    popular = dict(zip(table["metric"], table["popularity"], strict=True))
    assert row["recall@10"] > 1.5 * popular["recall@10"]
    searched_by_beam = recommender.model.head.searched_by == "beam"
    assert ("index" in table.columns) == searched_by_beam  # the beam beside the exact search


@pytest.mark.parametrize("name", HEADS)
def test_a_resumed_run_has_the_bits_of_an_undisturbed_one(
    dataset: Dataset, runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    step = Trainer._step

    def dying(self: Trainer, ready: Any) -> int:
        if self.position.step == 15:
            raise MemoryError
        return step(self, ready)

    monkeypatch.setattr(Trainer, "_step", dying)
    with pytest.raises(MemoryError):
        train_run(dataset, config(name), tmp_path / "run")
    monkeypatch.setattr(Trainer, "_step", step)
    train_run(dataset, config(name), tmp_path / "run", resume=True)
    first, second = (load_file(run / "model.safetensors") for run in (runs[name], tmp_path / "run"))
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", HEADS)
def test_lists_are_the_likeliest_items(runs: dict[str, Path], name: str) -> None:
    recommender = Recommender.load(runs[name])
    model, histories = (
        recommender.model,
        [recommender.run.item_ids[:3].to_list(), recommender.run.item_ids[7:8].to_list()],
    )
    found = recommender.retrieve(histories=histories, k=5, exact=True, include_seen=True)
    batch = next(iter(recommender.queries_of(_file(histories)).batches()))[1]
    every = Ragged(torch.tensor([0, 150, 300]), torch.arange(150).repeat(2))
    logs = model.log_probability(model.query_vectors(batch), every).view(2, -1)
    torch.testing.assert_close(logs.exp().sum(1), torch.ones(2), rtol=1e-4, atol=1e-4)
    best = logs.topk(5)
    ids = recommender.run.item_ids
    assert found["item_id"].to_list() == [ids[i] for i in best.indices.flatten().tolist()]
    if name != "differentiated":  # whose scores are inner products
        torch.testing.assert_close(torch.tensor(found["score"].to_list()), best.values.flatten(), rtol=1e-4, atol=1e-4)


def _file(histories: list[list[str]]) -> Any:
    from xclass.queries.queries import histories_of

    return histories_of(histories)


@pytest.mark.parametrize("name", HEADS)
def test_filters(runs: dict[str, Path], name: str) -> None:
    recommender = Recommender.load(runs[name])
    ids, queries = recommender.run.item_ids.to_list(), recommender.run.query_ids[:3].to_list()
    plain = recommender.retrieve(query_ids=queries, k=4, exact=True)
    best = {query: part["item_id"].to_list() for (query,), part in plain.group_by("query_id", maintain_order=True)}
    denied = recommender.retrieve(query_ids=queries, k=4, exact=True, exclude=[row[:1] for row in best.values()])
    own = recommender.retrieve(query_ids=queries, k=4, candidates=[row[::-1] for row in best.values()])
    some = recommender.retrieve(query_ids=queries, k=4, exact=True, candidates=ids[:30], exclude=ids[:2])
    assert own["item_id"].to_list() == plain["item_id"].to_list()
    for query in queries:
        assert denied.filter(pl.col("query_id") == query)["item_id"].to_list()[:3] == best[query][1:]
    assert set(some["item_id"]) <= set(ids[2:30]) and len(some) == 12
    filled = recommender.retrieve(query_ids=queries, k=4, candidates=ids[:2], short="popular")
    assert len(filled) <= 6


def test_the_job_of_the_command_line(runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(runs["clustered"])
    assert main(["retrieve", run, "--out", str(tmp_path / "beam.parquet"), "-k", "3"]) == 0
    assert main(["retrieve", run, "--out", str(tmp_path / "exact.parquet"), "-k", "3", "--exact"]) == 0
    beam, exact = (pl.read_parquet(tmp_path / f"{name}.parquet") for name in ("beam", "exact"))
    assert len(beam) == len(exact) == 3 * 400 and float(exact["score"].max()) < 0  # type: ignore[arg-type]
    assert float(exact["score"].sum()) >= float(beam["score"].sum())
    capsys.readouterr()
    assert main(["evaluate", run, "-k", "3", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert 0.5 < told["index_recall@3"] <= 1.0


def test_what_has_no_vectors_is_not_indexed(runs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    recommender = Recommender.load(runs["huffman"])
    assert isinstance(recommender.exact_index, OwnSearch)
    with pytest.raises(InputError, match="no item vectors"):
        _ = recommender.item_vectors
    with pytest.raises(InputError, match="no vectors"):
        _ = recommender.exact_index.vectors
    assert main(["index", str(runs["huffman"])]) == 1
    assert "brings a search of its own" in capsys.readouterr().err
    assert main(["export", str(runs["huffman"]), "--item-vectors", str(runs["huffman"].parent / "x.npy")]) == 1
    assert main(["export", str(runs["huffman"]), "--query-vectors", str(runs["huffman"].parent / "q.parquet")]) == 0


def test_inspect_names_the_head(runs: dict[str, Path]) -> None:
    assert describe(runs["clustered"])["config"]["head"]["tree"] == "clustered"
    assert "dense.head.leaf_of: torch.int32" not in str(load_file(runs["huffman"] / "model.safetensors").keys())
    assert load_file(runs["clustered"] / "model.safetensors")["dense.head.leaf_of"].sort().values.tolist() == list(
        range(150)
    )


@pytest.mark.parametrize("name", HEADS)
def test_the_estimate_knows_the_layer(
    dataset: Dataset, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "TIMED_S", 0.05)
    found = estimate(dataset, config(name), torch.device("cpu"), tmp_path / "run", calibration=name == "huffman")
    components = found.to_json()["memory"]["components"]
    assert ("output layer: what it knows of items" in components) == (HEADS[name]["kind"] == "hierarchical")
    rows = {key: size for key, size in components.items() if key.startswith("table ") and key.endswith(": weight")}
    wanted = 4 * sum(parameters_of(HEADS[name]))
    assert abs(sum(rows.values()) - rows["table history: weight"] - wanted) <= 0.02 * wanted


def parameters_of(head: dict[str, Any]) -> list[int]:
    """Numbers in the layer's tables over 150 items with 12 dimensions."""
    if head["kind"] == "hierarchical":
        return [149 * 12]
    if head["kind"] == "differentiated":
        return [30 * 6, 60 * 4, 60 * 2]
    return [32 * 12, 60 * 6, 60 * 3]


def test_collapse_is_told_of_queries_alone(runs: dict[str, Path]) -> None:
    records = [json.loads(line) for line in (runs["huffman"] / "metrics.jsonl").read_text().splitlines()]
    told = [record["collapse"] for record in records if "collapse" in record]
    assert told and all("query_variance" in each and "item_variance" not in each for each in told)


def test_growing_is_refused(dataset: Dataset, runs: dict[str, Path]) -> None:
    from xclass.runs.grow import grow_run

    with pytest.raises(ConfigError, match="item vectors can grow"):
        grow_run(dataset, config("huffman"), runs["huffman"])


@pytest.mark.parametrize(
    "change",
    [
        'sampler.kind="log-uniform"', 'loss.kind="nce"', "model.item.hidden=[4]", 'model.init="spectral"',
        "model.query.share_item_table=true", 'product_dtype="bfloat16"',
    ],
)  # fmt: skip
def test_a_key_that_would_do_nothing_is_refused(change: str) -> None:
    with pytest.raises(ConfigError, match=r"is for head\.kind"):
        config("huffman", change)


def test_short_vectors_can_be_indexed(runs: dict[str, Path]) -> None:
    run = runs["differentiated"]
    assert main(["index", str(run), "--kind", "exact", "-k", "5"]) == 0
    recommender = Recommender.load(run)
    queries = recommender.run.query_ids[:20].to_list()
    one, other = (recommender.retrieve(query_ids=queries, k=5, exact=exact) for exact in (True, False))
    assert isinstance(recommender.exact_index, OwnSearch) and not isinstance(recommender.index, OwnSearch)
    assert one["item_id"].to_list() == other["item_id"].to_list()
    torch.testing.assert_close(torch.tensor(one["score"].to_list()), torch.tensor(other["score"].to_list()))


def test_keys_of_another_head_are_refused(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="arity is not a key"):
        resolve_config({"head": {"kind": "dot", "arity": 4}})
    with pytest.raises(ConfigError, match="cluster_by goes with"):
        config("huffman", 'head.cluster_by="text"')
    for head, words in (
        ({"kind": "differentiated", "cuts": [0.2], "dims": [6, 5]}, "add up to 11"),
        ({"kind": "differentiated", "cuts": [0.2], "dims": [12]}, "dims has 2"),
        ({"kind": "adaptive", "cuts": [0.5, 0.2], "dims": [4, 2]}, "rising shares"),
        ({"kind": "hierarchical", "dims": [4]}, "dims is not a key"),
    ):
        with pytest.raises(ConfigError, match=words):
            resolve_config({**TINY, "head": head})
    with pytest.raises(ConfigError, match="no item features"):
        train_run(dataset, config("clustered", 'head.cluster_by="text"'), tmp_path / "run")
