"""A run over a dataset that has grown: old rows bit for bit, new ones drawn, and no moment at which a kill does harm."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from reference.datasets import write
from safetensors.torch import load_file
from torch import Tensor

from xclass.api import train
from xclass.cli import main
from xclass.data.dataset import Dataset
from xclass.errors import ArtefactError, ConfigError, XclassError
from xclass.ingest.append import append
from xclass.ingest.ingest import ingest
from xclass.ingest.options import IngestOptions
from xclass.ingest.synthetic.pairs import PlantedModel
from xclass.recommender import Recommender
from xclass.runs import grow
from xclass.runs import grow_tensors as grown_module
from xclass.runs.directory import RunDirectory
from xclass.runs.grow import grow_run
from xclass.runs.grow_tensors import Numbers
from xclass.runs.train import resolve_config, train_run
from xclass.training import trainer
from xclass.training.run_config import RunConfig

CONFIG: dict[str, Any] = {
    "model": {"embedding_dim": 8, "query": {"kind": "id+history", "hidden": [8]}, "item": {"hidden": [8]}},
    "sampler": {"kind": "learned-unigram", "num_sampled": 32},
    "train": {
        "epochs": 2,
        "checkpoint_every_s": 0,
        "batch": {"size": 512},
        "validation": {"queries": 100, "keep_best": False},
    },
}


def config(**changes: Any) -> RunConfig:
    return resolve_config(CONFIG, [f"{key.replace('__', '.')}={json.dumps(value)}" for key, value in changes.items()])


def as_csv(rows: list[tuple[str, str]]) -> str:
    return "query,item\n" + "".join(f"{query},{item}\n" for query, item in rows)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str]]:
    """Pairs of a planted world by external id, shuffled."""
    model = PlantedModel(num_items=120, num_queries=250, pairs=5000, num_topics=6, seed=5)
    dataset = model.write_dataset(tmp_path_factory.mktemp("world") / "dataset", 0, 0)
    train_pairs, items, queries = dataset.split("train"), dataset.items["item_id"], dataset.queries["query_id"]
    rows = [(queries[q], items[i]) for q, row in enumerate(train_pairs.to_lists()) for i in row]
    order = np.random.Generator(np.random.Philox(0)).permutation(len(rows))
    return [rows[place] for place in order]


@pytest.fixture(scope="module")
def halves(pairs: list[tuple[str, str]]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """A fifth of the items and of the queries comes late."""
    items, queries = sorted({i for _, i in pairs})[::5], sorted({q for q, _ in pairs})[::5]
    late = [pair for pair in pairs if pair[1] in set(items) or pair[0] in set(queries)]
    return [pair for pair in pairs if pair not in set(late)], late


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory, halves: Any) -> tuple[Dataset, Dataset]:
    """The dataset as it was, and as it is after an append."""
    folder = tmp_path_factory.mktemp("datasets")
    old = ingest(write(folder / "a.csv", as_csv(halves[0])), folder / "old", IngestOptions(split="random"))
    return old, append(write(folder / "b.csv", as_csv(halves[1])), old.path, out=folder / "new")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, datasets: tuple[Dataset, Dataset]) -> Path:
    return train_run(datasets[0], config(), tmp_path_factory.mktemp("run") / "run")


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A finished run over the old dataset, to be changed."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def newest(run: Path) -> dict[str, Tensor]:
    return load_file(sorted(run.glob("checkpoints/step-*"))[-1] / "tensors.safetensors")


def records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def ids(dataset: Dataset, table: str) -> list[str]:
    found: list[str] = (dataset.queries["query_id"] if table == "query" else dataset.items["item_id"]).to_list()
    return found


def raw(tensor: Tensor) -> bytes:
    return tensor.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()


OPTIMIZERS = ["adagrad", "adam", "rmsprop", "sgd"]


@pytest.mark.parametrize(
    ("optimizer", "tables"),
    [
        *((name, {"dtype": dtype}) for name in OPTIMIZERS for dtype in ("float32", "bfloat16")),
        ("adam", {"dtype": "bfloat16", "storage": "mapped", "weight_decay": 0.05}),
        ("adagrad", {"storage": "mapped", "weight_decay": 0.05, "clip_norm": 1.0}),
        ("rmsprop", {"storage": "host", "weight_decay": 0.05}),
    ],
)
def test_old_rows_and_states_keep_their_bits(
    datasets: tuple[Dataset, Dataset], tmp_path: Path, optimizer: str, tables: dict[str, Any]
) -> None:
    old, new = datasets
    values = {**CONFIG, "optimizer": optimizer, "tables": tables}
    run = train_run(old, resolve_config(values, ["train.epochs=1"]), tmp_path / "run")
    before = newest(run)
    grow_run(new, resolve_config(values, ["train.epochs=0"]), run)
    after = newest(run)
    assert before.keys() == after.keys()
    rows = [name for name in before if name.startswith("table.") and before[name].dim()]
    assert {name.split(".")[1] for name in rows} == {"item", "history", "query"}
    for name in rows:
        table, key = name.split(".")[1:]
        was, now = ids(old, table), ids(new, table)
        assert len(now) > len(was) and was != now[: len(was)], "numbers have changed"
        assert before[name].dtype == after[name].dtype and len(after[name]) == len(now)
        place = {external: number for number, external in enumerate(was)}
        for number, external in enumerate(now):
            if external in place:
                assert raw(after[name][number]) == raw(before[name][place[external]])
        fresh = after[name][[external not in place for external in now]]
        if key == "weight":
            assert 0.08 < float(fresh.float().std()) < 0.12 and len(torch.unique(fresh, dim=0)) == len(fresh)
        elif key == "decayed":
            assert (fresh == before[f"table.{table}.decay"]).all(), "a new row owes no decay of steps before it"
        else:
            assert not fresh.any()
    for name in before.keys() - set(rows):
        if not name.startswith("sampler."):
            assert raw(before[name]) == raw(after[name]), name
    assert any(name.startswith("adam.") and before[name].any() for name in before)


def test_the_finished_run_is_of_the_new_dataset_and_says_what_grew(
    run: Path, datasets: tuple[Dataset, Dataset], capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = datasets
    grow_run(new, config(), run)
    grown = RunDirectory(run)
    assert grown.item_ids.equals(new.items["item_id"]) and grown.query_ids.equals(new.queries["query_id"])
    assert torch.equal(grown.item_counts, new.item_counts)
    assert grown.dataset().fingerprint == new.fingerprint
    (report,) = grown.manifest["grown"]
    size = {"before": old.num_items, "after": new.num_items, "new": new.num_items - old.num_items}
    assert report["items"] == size and report["tables"]["history"]["new"] == size["new"] > 0
    assert report["queries"]["new"] == new.num_queries - old.num_queries > 0
    assert report["train_pairs"]["before"] == len(old.split("train").values) < report["train_pairs"]["after"]
    assert report["from"]["dataset"] == str(old.path) and report["from"]["finished"]
    assert f"grown: {old.num_items} → {new.num_items} items" in capsys.readouterr().err
    told = records(run)
    place = next(number for number, record in enumerate(told) if record.get("event") == "grown")
    assert told[place - 1]["event"] == "end" and told[place]["items"] == size
    steps = [record["step"] for record in told[place + 1 :]]
    per_epoch = -(-len(new.split("train").values) // 512)
    assert steps == [per_epoch, 2 * per_epoch, 2 * per_epoch] and told[-1]["event"] == "end"
    assert grown.manifest["result"]["positives"] == 2 * len(new.split("train").values), "training began anew"
    assert not (run / "growing").exists() and not list(run.glob(".growing*"))
    grow_run(new, config(), run)
    assert records(run) == told, "there is nothing more to do"


def test_what_the_sampler_has_learned_moves_with_the_items(run: Path, datasets: tuple[Dataset, Dataset]) -> None:
    old, new = datasets
    before = newest(run)
    grow_run(new, config(train__epochs=0), run)
    after = newest(run)
    was, now = before["sampler.log"].long(), after["sampler.log"].long()
    assert len(was) == 2 * len(old.split("train").values)
    assert [ids(old, "item")[i] for i in was] == [ids(new, "item")[i] for i in now]


def test_another_sampler_begins_anew(
    run: Path, datasets: tuple[Dataset, Dataset], capsys: pytest.CaptureFixture[str]
) -> None:
    changed = resolve_config({**CONFIG, "sampler": {"kind": "target", "num_sampled": 16}}, ["train.epochs=1"])
    grow_run(datasets[1], changed, run)
    assert "what the sampler TargetSampling had learned does not fit" in capsys.readouterr().err
    assert RunDirectory(run).manifest["grown"][0]["samplers_restarted"] == ["TargetSampling"]


def weights_of(run: Path) -> dict[str, bytes]:
    return {name: raw(tensor) for name, tensor in load_file(run / "model.safetensors").items()}


class Killed(BaseException):
    """Stands for kill −9: nothing of ours catches it."""


def kill_after(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, calls: int) -> None:
    """The process ends at the given call of a function."""
    original, left = getattr(owner, name), [calls]

    def counted(*args: Any, **options: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        return original(*args, **options)

    monkeypatch.setattr(owner, name, counted)


KILLS = [
    ("source", grow, "_source", 0),
    ("rows", grown_module, "_move_rows", 2),
    ("checkpoint", grow.CheckpointStore, "save", 0),
    ("ids", grow, "keep_ids", 0),
    ("swap", grow, "_write_metrics", 0),
    ("train", grow, "train_run", 0),
    ("step", trainer.Trainer, "_step", 3),
    ("step of epoch 2", trainer.Trainer, "_step", 9),
    *((f"take over {number}", os, "replace", number) for number in range(8)),
]


@pytest.fixture(scope="module")
def undisturbed(
    finished: Path, datasets: tuple[Dataset, Dataset], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    run = Path(shutil.copytree(finished, tmp_path_factory.mktemp("undisturbed") / "run"))
    return weights_of(grow_run(datasets[1], config(), run))


@pytest.mark.parametrize(("owner", "name", "calls"), [kill[1:] for kill in KILLS], ids=[kill[0] for kill in KILLS])
def test_killed_anywhere_the_same_command_ends_with_the_same_bits(
    run: Path,
    datasets: tuple[Dataset, Dataset],
    undisturbed: dict[str, bytes],
    owner: Any,
    name: str,
    calls: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    with monkeypatch.context() as patch:
        if owner is os:
            patch.setattr(grow, "_take_over", counting_only(patch, grow._take_over, calls))
        else:
            kill_after(patch, owner, name, calls)
        with pytest.raises(Killed):
            grow_run(datasets[1], config(), run)
    if owner is os:
        with pytest.raises(ArtefactError, match=r"(?s)not finished.*--resume --grow-vocab"):
            RunDirectory(run)
        with pytest.raises(ArtefactError, match=r"(?s)a grown run is being put.*--grow-vocab"):
            train_run(datasets[1], config(), run, resume=True)
    else:
        assert {name: (run / name).read_bytes() for name in before} == before
        assert RunDirectory(run).num_items == datasets[0].num_items, "the old run serves"
    grow_run(datasets[1], config(), run)
    assert weights_of(run) == undisturbed
    assert not (run / "growing").exists() and not list(run.glob(".growing*"))


def counting_only(patch: pytest.MonkeyPatch, take_over: Any, calls: int) -> Any:
    """``_take_over``, killed at its move number ``calls``."""

    def killed(*args: Any) -> None:
        kill_after(patch, os, "replace", calls)
        take_over(*args)

    return killed


def test_the_old_index_goes_with_the_old_model(run: Path, datasets: tuple[Dataset, Dataset]) -> None:
    assert main(["index", str(run), "--kind", "flat", "-k", "10", "--json"]) == 0
    grow_run(datasets[1], config(), run)
    assert not (run / "index").exists()
    assert Recommender.load(run).retrieve(query_ids=ids(datasets[1], "query")[:2], k=5).height == 10


def test_an_interrupted_run_grows_from_its_checkpoint(
    tmp_path: Path, halves: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dataset grows in place meanwhile, so its old numbers are in the run only."""
    old = ingest(write(tmp_path / "a.csv", as_csv(halves[0])), tmp_path / "data", IngestOptions(split="random"))
    old_ids, run = ids(old, "item"), tmp_path / "run"
    with monkeypatch.context() as patch:
        kill_after(patch, trainer.Trainer, "_validate", 1)
        with pytest.raises(Killed):
            train_run(old, config(), run)
    before = newest(run)
    new = append(write(tmp_path / "b.csv", as_csv(halves[1])), old.path)
    with pytest.raises(ArtefactError, match=r"(?s)started with another dataset.*--grow-vocab"):
        train_run(new, config(), run, resume=True)
    with monkeypatch.context() as patch:
        kill_after(patch, trainer.Trainer, "_step", 0)
        with pytest.raises(Killed):
            grow_run(new, config(), run)
    after = newest(run / "growing")
    for number, external in enumerate(ids(new, "item")):
        if external in old_ids:
            was = before["table.item.weight"][old_ids.index(external)]
            assert raw(was) == raw(after["table.item.weight"][number])
    grow_run(new, config(), run)
    report = RunDirectory(run).manifest["grown"][0]
    assert not report["from"]["finished"] and report["from"]["step"] > 0
    assert next(record["step"] for record in records(run) if "loss" in record) <= report["from"]["step"]


def test_a_dataset_that_grows_while_a_run_trains_does_not_change_its_ids(tmp_path: Path, halves: Any) -> None:
    old = ingest(write(tmp_path / "a.csv", as_csv(halves[0])), tmp_path / "data", IngestOptions(split="random"))
    was = ids(old, "item")
    source, original = write(tmp_path / "b.csv", as_csv(halves[1])), trainer.Trainer.run

    def growing(self: trainer.Trainer) -> Any:
        append(source, old.path)
        return original(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer.Trainer, "run", growing)
        run = train_run(old, config(train__epochs=1), tmp_path / "run")
    assert RunDirectory(run).item_ids.to_list() == was


def test_growing_twice(run: Path, datasets: tuple[Dataset, Dataset], tmp_path: Path) -> None:
    new = datasets[1]
    grow_run(new, config(train__epochs=0), run)
    first, was = newest(run)["table.item.weight"], ids(new, "item")
    third = append(
        write(tmp_path / "c.csv", as_csv([("someone", f"more-{n}") for n in range(3)])), new.path, out=tmp_path / "d"
    )
    grow_run(third, config(train__epochs=0), run)
    second, now = newest(run)["table.item.weight"], ids(third, "item")
    assert all(raw(first[was.index(name)]) == raw(second[now.index(name)]) for name in was)
    added = [name for name in ids(new, "item") if name not in ids(datasets[0], "item")]
    drawn = {raw(second[now.index(name)]) for name in [*added, "more-0", "more-1", "more-2"]}
    assert len(drawn) == len(added) + 3, "each growth draws its own rows"
    assert [entry["items"]["new"] for entry in RunDirectory(run).manifest["grown"]] == [len(added), 3]
    assert [record["items"]["new"] for record in records(run) if record.get("event") == "grown"] == [len(added), 3]


def test_a_growth_to_a_dataset_that_grew_again_begins_anew(
    run: Path, datasets: tuple[Dataset, Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        kill_after(patch, trainer.Trainer, "_step", 2)
        with pytest.raises(Killed):
            grow_run(datasets[1], config(), run)
    with pytest.raises(ConfigError, match=r"(?s)growing with another configuration.*remove"):
        grow_run(datasets[1], config(train__epochs=1), run)
    third = append(write(tmp_path / "c.csv", as_csv([("someone", "one-more")])), datasets[1].path, out=tmp_path / "d")
    grow_run(third, config(train__epochs=1), run)
    assert RunDirectory(run).num_items == third.num_items
    assert len(RunDirectory(run).manifest["grown"]) == 1


def test_a_new_directory_is_trained_from_scratch(datasets: tuple[Dataset, Dataset], tmp_path: Path) -> None:
    plain = train_run(datasets[1], config(train__epochs=1), tmp_path / "plain")
    assert weights_of(grow_run(datasets[1], config(train__epochs=1), tmp_path / "new")) == weights_of(plain)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model__embedding_dim": 16}, ConfigError, "keeps its model|model"),
        ({"optimizer": "adam"}, ConfigError, "optimizer"),
        ({"tables__dtype": "bfloat16"}, ConfigError, "tables"),
    ],
)
def test_what_decides_the_tensors_can_not_change(
    run: Path, datasets: tuple[Dataset, Dataset], changes: dict[str, Any], error: type[XclassError], message: str
) -> None:
    with pytest.raises(error, match=message):
        grow_run(datasets[1], config(**changes), run)
    assert not (run / "growing").exists() and RunDirectory(run).num_items == datasets[0].num_items


def test_every_id_of_the_run_must_be_there(
    run: Path, datasets: tuple[Dataset, Dataset], tmp_path: Path, halves: Any
) -> None:
    lost = halves[0][0][1]
    fewer = [pair for pair in [*halves[0], *halves[1]] if pair[1] != lost]
    other = ingest(write(tmp_path / "a.csv", as_csv(fewer)), tmp_path / "other", IngestOptions(split="random"))
    with pytest.raises(ArtefactError, match=rf"(?s)lacks item ids of the run.*1 are missing: {lost}"):
        grow_run(other, config(), run)
    numbers = ingest(write(tmp_path / "n.csv", as_csv([("1", "2"), ("3", "4")])), tmp_path / "numbers")
    with pytest.raises(ArtefactError, match="item ids are of another type"):
        grow_run(numbers, config(), run)
    assert RunDirectory(run).num_items == datasets[0].num_items


def test_numbers_both_ways() -> None:
    numbers = Numbers.of(pl.Series(["b", "a"]), pl.Series(["x", "a", "c", "b"]), "ids", Path())
    assert numbers.new_of_old.tolist() == [3, 1] and numbers.old_of_new.tolist() == [-1, 1, -1, 0]
    assert numbers.added == 2


def test_blocks_of_any_size_give_the_same_rows(
    run: Path, datasets: tuple[Dataset, Dataset], undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grown_module, "BLOCK_ROWS", 7)
    assert weights_of(grow_run(datasets[1], config(), run)) == undisturbed


def test_new_rows_of_a_spectral_run_have_its_scale(datasets: tuple[Dataset, Dataset], tmp_path: Path) -> None:
    values = {
        "model": {"embedding_dim": 8, "init": "spectral", "normalize": False, "query": {"kind": "history"}},
        "train": {"epochs": 0, "checkpoint_every_s": 0},
    }
    run = train_run(
        datasets[0], resolve_config({**values, "train": {**values["train"], "steps": 1, "epochs": 1}}), tmp_path / "run"
    )
    before = newest(run)["table.item.weight"]
    grow_run(datasets[1], resolve_config(values), run)
    weight, old = newest(run)["table.item.weight"], ids(datasets[0], "item")
    fresh = weight[[name not in old for name in ids(datasets[1], "item")]]
    assert float(fresh.square().mean().sqrt()) == pytest.approx(float(before.square().mean(1).sqrt().median()), rel=0.2)


def test_new_items_are_learned_and_recommended(tmp_path: Path, halves: Any) -> None:
    """Before training on, a new item is found as often as chance has it; after it, several times as often."""
    settings = resolve_config(
        {
            "model": {"embedding_dim": 16, "query": {"kind": "history"}},
            "sampler": {"num_sampled": 64},
            "train": {"epochs": 8, "learning_rate": 0.1, "batch": {"size": 256}, "validation": {"keep_best": False}},
        }
    )
    old = ingest(write(tmp_path / "a.csv", as_csv(halves[0])), tmp_path / "old", IngestOptions(split="random"))
    new = append(write(tmp_path / "b.csv", as_csv(halves[1])), old.path, out=tmp_path / "new")
    added = set(ids(new, "item")) - set(ids(old, "item"))
    first = train_run(old, settings, tmp_path / "run")
    untouched = Path(shutil.copytree(first, tmp_path / "untouched"))
    untrained = recall_of(grow_run(new, resolve_config(settings, ["train.epochs=0"]), untouched), new, added)
    trained = recall_of(grow_run(new, settings, first), new, added)
    assert trained > 2 * untrained
    assert trained > 0.5


def recall_of(run: Path, dataset: Dataset, items: set[str]) -> float:
    """Share of the test pairs with one of ``items`` that is among the query's best 20."""
    test, names, queries = dataset.split("test").to_lists(), ids(dataset, "item"), ids(dataset, "query")
    wanted = {(queries[q], names[i]) for q, row in enumerate(test) for i in row if names[i] in items}
    found = Recommender.load(run).retrieve(query_ids=sorted({query for query, _ in wanted}), k=20)
    return len(wanted & set(found.select("query_id", "item_id").rows())) / len(wanted)


def test_from_python_and_from_the_shell(
    run: Path, datasets: tuple[Dataset, Dataset], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from xclass.config import to_toml

    (tmp_path / "c.toml").write_text(to_toml(config()))
    shell = Path(shutil.copytree(run, tmp_path / "shell"))
    command = [
        "train",
        str(datasets[1].path),
        "--config",
        str(tmp_path / "c.toml"),
        "--out",
        str(shell),
        "--grow-vocab",
    ]
    assert main(command) == 2
    capsys.readouterr()
    assert main([*command, "--resume", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["grown"] == RunDirectory(shell).manifest["grown"][0]
    recommender = train(datasets[1], config(), run, resume=True, grow_vocab=True)
    assert recommender.run.num_items == datasets[1].num_items
    assert weights_of(run) == weights_of(shell)
    with pytest.raises(XclassError, match="grow_vocab goes with resume"):
        train(datasets[1], config(), run, grow_vocab=True)
