"""Runs whose item vectors are computed from the items' texts: what they learn of items without a train pair, what a
finished run holds, resume, growth, new texts, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from xclass.api import train
from xclass.cli import main
from xclass.data.dataset import Dataset, open_dataset
from xclass.errors import ConfigError, InputError
from xclass.ingest.append import append
from xclass.ingest.ingest import ingest
from xclass.ingest.options import IngestOptions
from xclass.recommender import Recommender
from xclass.runs.grow import grow_run
from xclass.runs.train import resolve_config, train_run
from xclass.towers.item_texts import CORRECTION
from xclass.training.build import build_model
from xclass.training.trainer import Trainer

KINDS = ["stone", "river", "cloud", "maple"]
PER_KIND, UNSEEN = 25, 5
CONFIG: dict[str, Any] = {
    "model": {"embedding_dim": 12, "temperature": 0.2},
    "head": {"kind": "cnn", "filters": [4, 8, 8], "symbol_dim": 8, "correction": 4},
    "sampler": {"kind": "uniform", "num_sampled": 20},
    "train": {
        "epochs": 6,
        "learning_rate": 0.1,
        "dense_learning_rate": 0.01,
        "checkpoint_every_s": 1e-9,
        "batch": {"by": "query", "size": 64},
        "validation": {"queries": 100, "keep_best": False},
    },
}


def word(kind: int, number: int) -> str:
    return f"{KINDS[kind]}{number:02d}{'aeiou'[number % 5]}"


def pairs_of(queries: range, seed: int, new: int = 0) -> dict[str, list[tuple[str, str]]]:
    """A query likes words of one kind. Five words of each are in test alone; ``new`` more are in train."""
    rng = np.random.default_rng(seed)
    found: dict[str, list[tuple[str, str]]] = {"train": [], "valid": [], "test": []}
    for query in queries:
        known = rng.permutation(PER_KIND - UNSEEN)[:8]
        found["train"] += [(f"q{query}", word(query % 4, i)) for i in known[:6]]
        found["train"] += [(f"q{query}", word(query % 4, PER_KIND + i)) for i in range(new)]
        found["valid"] += [(f"q{query}", word(query % 4, i)) for i in known[6:7]]
        unseen = PER_KIND - 1 - rng.permutation(UNSEEN)[:2]
        found["test"] += [(f"q{query}", word(query % 4, i)) for i in (*known[7:], *unseen)]
    return found


def write(folder: Path, pairs: dict[str, list[tuple[str, str]]]) -> Path:
    folder.mkdir()
    for split, rows in pairs.items():
        pl.DataFrame(rows, schema=["query_id", "item_id"], orient="row").write_csv(folder / f"{split}.csv")
    return folder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    place = tmp_path_factory.mktemp("words")
    return ingest(write(place / "raw", pairs_of(range(240), 0)), place / "dataset")


@pytest.fixture(scope="module")
def run(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_run(dataset, resolve_config(CONFIG), tmp_path_factory.mktemp("cnn") / "run")


def test_items_without_a_train_pair_are_found_by_their_text(dataset: Dataset, run: Path) -> None:
    recommender = Recommender.load(run)
    counts, vectors = recommender.run.item_counts, recommender.item_vectors.tensor()
    assert int((counts == 0).sum()) == 4 * UNSEEN
    found = recommender.retrieve(query_ids=[f"q{i}" for i in range(40)], k=15, exact=True)
    unseen = set(recommender.run.item_ids.filter(pl.Series((counts == 0).tolist())))
    cold = found.filter(pl.col("item_id").is_in(list(unseen)))
    right = [
        item.startswith(KINDS[int(query[1:]) % 4])
        for query, item in zip(cold["query_id"], cold["item_id"], strict=True)
    ]
    assert len(cold) > 40 and np.mean(right) > 0.9  # a quarter by chance
    by_text = recommender.text_vectors(recommender.run.item_ids.to_list())
    torch.testing.assert_close(by_text[counts == 0], vectors[counts == 0])
    assert not torch.allclose(by_text[counts > 0], vectors[counts > 0], atol=1e-3)  # these have a correction


def test_a_finished_run_holds_vectors_and_the_network(dataset: Dataset, run: Path, tmp_path: Path) -> None:
    stored = load_file(run / "model.safetensors")
    assert stored["table.item.weight"].shape == (100, 12) and f"table.{CORRECTION}.weight" not in stored
    assert any(name.startswith("dense.head.encoder.cnn.") for name in stored)
    assert main(["index", str(run), "--kind", "flat", "-k", "5", "--json"]) == 0
    recommender = Recommender.load(run)
    ids = dataset.queries["query_id"][:20].to_list()
    one, other = (recommender.retrieve(query_ids=ids, k=5, exact=exact) for exact in (True, False))
    assert one["item_id"].to_list() == other["item_id"].to_list()
    moved = Recommender.load(run, tmp_path / "nowhere")  # new histories and new texts need no dataset
    assert len(moved.retrieve(histories=[[word(0, 1), word(0, 2)]], k=3)) == 3


def test_a_resumed_run_has_the_bits_of_an_undisturbed_one(
    dataset: Dataset, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Trainer._step

    def dying(self: Trainer, ready: Any) -> int:
        if self.position.step == 9:
            raise MemoryError
        return step(self, ready)

    monkeypatch.setattr(Trainer, "_step", dying)
    with pytest.raises(MemoryError):
        train_run(dataset, resolve_config(CONFIG), tmp_path / "run")
    monkeypatch.setattr(Trainer, "_step", step)
    train_run(dataset, resolve_config(CONFIG), tmp_path / "run", resume=True)
    first, second = (load_file(place / "model.safetensors") for place in (run, tmp_path / "run"))
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_items_added_later_start_from_their_text(tmp_path: Path) -> None:
    small = ingest(write(tmp_path / "raw", pairs_of(range(40), 0)), tmp_path / "dataset")
    config = resolve_config(CONFIG, ["train.epochs=1"])
    out = train_run(small, config, tmp_path / "run")
    before = Recommender.load(out).text_vectors([word(1, PER_KIND), word(1, 3)])
    more = pairs_of(range(40, 48), 1, new=2)["train"]
    pl.DataFrame(more, schema=["query_id", "item_id"], orient="row").write_csv(tmp_path / "more.csv")
    append(tmp_path / "more.csv", tmp_path / "dataset", IngestOptions())
    grown = open_dataset(tmp_path / "dataset")
    assert grown.num_items > small.num_items
    # as the grown run begins: before its first step
    frozen = resolve_config(config, ["train.learning_rate=1e-30", "train.dense_learning_rate=1e-30"])
    recommender = Recommender.load(grow_run(grown, frozen, out))
    number = recommender.run.item_ids.to_list().index(word(1, PER_KIND))
    torch.testing.assert_close(recommender.item_vectors.take(torch.tensor([number])), before[:1])


def test_new_texts_are_written_by_export(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "new.csv").write_text("item_id,text\n7,stone99z\n8,x\n")
    (tmp_path / "new.txt").write_text("stone99z\nriver77y\n")
    for name in ("new.csv", "new.txt"):
        out = tmp_path / f"{name}.parquet"
        assert main(["export", str(run), "--item-vectors", str(out), "--texts", str(tmp_path / name)]) == 0
    table, lines = (pl.read_parquet(tmp_path / f"{name}.parquet") for name in ("new.csv", "new.txt"))
    assert table["item_id"].to_list() == ["7", "8"] and lines["item_id"].to_list() == ["stone99z", "river77y"]
    wanted = Recommender.load(run).text_vectors(["stone99z", "x", "river77y"])
    torch.testing.assert_close(torch.tensor(table["vector"].to_list()), wanted[:2])
    torch.testing.assert_close(torch.tensor(lines["vector"].to_list()), wanted[::2])
    capsys.readouterr()
    assert main(["export", str(run), "--item-vectors", str(tmp_path / "x"), "--texts", str(tmp_path / "none.txt")]) == 1
    assert "none.txt" in capsys.readouterr().err


def test_titles_are_read_where_there_are_titles(dataset: Dataset, tmp_path: Path) -> None:
    assert dataset.item_texts.to_list() == dataset.items["item_id"].to_list()
    folder = tmp_path / "xmc"
    folder.mkdir()
    (folder / "train.txt").write_text("3 4 3\n0,2 0:1\n1 1:1\n0 2:1\n")
    (folder / "test.txt").write_text("1 4 3\n2 3:1\n")
    (folder / "label_names.txt").write_text("machine learning\nlong tail\nretrieval\n")
    documents = ingest(folder, tmp_path / "documents")
    titles = dict(zip(documents.items["item_id"], documents.item_texts, strict=True))
    assert sorted(titles.values()) == ["long tail", "machine learning", "retrieval"]
    config = resolve_config({"model": {"query": {"kind": "features"}}, "head": {"kind": "cnn", "filters": [2]}})
    head = build_model(config, documents, None).head
    assert [bytes(row).decode() for row in head.texts.to_lists()] == documents.item_texts.to_list()  # type: ignore[attr-defined,operator,union-attr]


def test_what_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    for change in ('model.init="spectral"', "model.query.share_item_table=true", 'model.item.kind="id+features"'):
        with pytest.raises(ConfigError, match=r"is for head\.kind|needs"):
            resolve_config(CONFIG, [change])
    with pytest.raises(ConfigError, match="one number above 0"):
        resolve_config(CONFIG, ["head.filters=[0, 0]"])
    with pytest.raises(ConfigError, match="filters is not a key"):
        resolve_config({"head": {"kind": "dot", "filters": [3]}})
    plain = train(dataset, {"train": {"steps": 1}}, tmp_path / "plain")
    with pytest.raises(InputError, match="makes no vectors of texts"):
        plain.text_vectors(["stone"])
