"""Documents through the whole flow: a document by id, by its features and by its text gets the same labels; hidden pairs."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
import torch

from xclass.api import train
from xclass.batch.retrieve import Job, retrieve_to_file
from xclass.errors import ArtefactError, InputError
from xclass.ingest.ingest import ingest
from xclass.ingest.options import IngestOptions
from xclass.metrics import parse_metrics
from xclass.queries.queries import dataset_queries
from xclass.recommender import Recommender
from xclass.runtime.rng import numpy_generator
from xclass.types import Ragged

CONFIG = {
    "model": {"embedding_dim": 16, "query": {"kind": "features"}},
    "sampler": {"kind": "uniform", "num_sampled": 16},
    "train": {"epochs": 3, "learning_rate": 0.1, "batch": {"by": "query", "size": 32}},
}
TOPICS = ["red apple pie", "green grass field", "blue sea wave", "old stone wall", "fast car race", "warm bread oven"]


def rows() -> list[dict[str, object]]:
    generator = numpy_generator(0, "pages")
    found: list[dict[str, object]] = []
    for number in range(300):
        topic = int(generator.integers(len(TOPICS)))
        words = generator.permutation(TOPICS[topic].split() + [f"w{int(generator.integers(40))}" for _ in range(4)])
        found.append({"id": f"p{number:03d}", "text": " ".join(words), "labels": [f"t{topic}", f"s{topic % 2}"]})
    return found


@pytest.fixture(scope="module")
def recommender(tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    place = tmp_path_factory.mktemp("pages")
    (place / "pages.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))
    dataset = ingest(place / "pages.jsonl", place / "dataset", IngestOptions(format="text"))
    return train(dataset, CONFIG, place / "run", check_memory=False)


def test_by_id_by_features_and_by_text_are_the_same(recommender: Recommender) -> None:
    dataset = recommender.dataset
    numbers = (dataset.queries["split"] == "test").arg_true()
    ids = dataset.queries["query_id"].gather(numbers).to_list()
    texts = {row["id"]: str(row["text"]) for row in rows()}
    by_id = recommender.retrieve(query_ids=ids, k=3)
    lists = dataset.query_features["text"].take(torch.tensor(numbers.to_list()))
    by_features = recommender.retrieve(features={"text": lists}, k=3)
    by_text = recommender.retrieve(texts=[texts[name] for name in ids], k=3)
    assert by_features["query_id"].unique(maintain_order=True).to_list() == list(range(len(ids)))
    for other in (by_features, by_text):
        assert other["item_id"].to_list() == by_id["item_id"].to_list()
        assert other["score"].to_list() == pytest.approx(by_id["score"].to_list(), abs=1e-6)
    right = recommender.evaluate(k=[1]).filter(pl.col("metric") == "precision@1")
    assert right["model"][0] > 0.9


def test_features_that_are_not_there(recommender: Recommender) -> None:
    for wrong in (-1, 10**6):
        with pytest.raises(InputError, match='no feature "text" of this number'):
            recommender.retrieve(features={"text": Ragged.from_lists([[0], [wrong]], [[1.0], [1.0]])})
    nothing = recommender.retrieve(features={"text": Ragged.from_lists([[]], [[]])}, k=2)
    assert nothing["score"].to_list() == [0.0, 0.0]


def test_a_file_of_texts(recommender: Recommender, tmp_path: Path) -> None:
    (tmp_path / "new.jsonl").write_text('{"text": "apple red", "query_id": "a"}\n{"text": "unheard words"}\n')
    written = retrieve_to_file(recommender, tmp_path / "out.parquet", Job(k=2, queries=tmp_path / "new.jsonl"))
    found = pl.read_parquet(tmp_path / "out.parquet")
    assert written.to_dict()["queries"] == 2 and found["query_id"].to_list() == ["a", "a", "2", "2"]
    assert set(found.filter(pl.col("query_id") == "a")["item_id"]) == {"t0", "s0"}


def test_what_is_asked_for_must_be_one_thing(recommender: Recommender) -> None:
    for wrong in ({}, {"texts": ["a"], "query_ids": ["p001"]}):
        with pytest.raises(InputError, match="say whom"):
            recommender.retrieve(**wrong)  # type: ignore[arg-type]
    for texts in ("a text", ["a", 3]):
        with pytest.raises(InputError, match="a list of (texts|strings)"):
            recommender.retrieve(texts=texts)  # type: ignore[arg-type]


def test_hidden_pairs_are_never_shown(tmp_path: Path) -> None:
    documents = [f"{n % 5},{5 + n % 3} {n % 7}:1 {7 + n % 5}:1" for n in range(60)]
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "train.txt").write_text("40 12 8\n" + "\n".join(documents[:40]) + "\n")
    (tmp_path / "raw" / "test.txt").write_text("20 12 8\n" + "\n".join(documents[40:]) + "\n")
    plain = train(ingest(tmp_path / "raw", tmp_path / "plain"), CONFIG, tmp_path / "run", check_memory=False)
    pairs = [(n, n % 5) for n in range(20)]  # the first label of every test document
    (tmp_path / "raw" / "filter_labels_test.txt").write_text("".join(f"{n} {label}\n" for n, label in pairs))
    dataset = ingest(tmp_path / "raw", tmp_path / "hidden")
    model = train(dataset, CONFIG, tmp_path / "other", check_memory=False)
    for include_seen in (False, True):
        found = model.retrieve(query_ids=list(range(41, 61)), k=8, include_seen=include_seen)
        assert found.group_by("query_id").len()["len"].to_list() == [7] * 20
        assert not set(zip((found["query_id"] - 41).to_list(), found["item_id"].to_list(), strict=True)) & set(pairs)
    denied = model.retrieve(query_ids=[41, 42], k=8, exclude=[[5], [6]])
    assert set(denied.filter(pl.col("query_id") == 41)["item_id"]) == {1, 2, 3, 4, 6, 7}
    metrics = parse_metrics(["recall@8"])
    assert plain.measure(metrics).metrics["recall@8"] == 1.0
    assert model.measure(metrics).metrics["recall@8"] == 0.5
    queries = dataset_queries(dataset, "test", True)
    shown = torch.cat([lists.lengths() for _, lists in model.lists(queries, 8)])
    assert shown.tolist() == [7] * 20
    with pytest.raises(ArtefactError, match="not made from raw text"):
        model.retrieve(texts=["a"])


def test_propensities_are_the_dataset_s_unless_said(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    for name in ("train", "test"):
        text = "".join(f"{label} {label}:1\n" for label in (0, 0, 0, 1, 1, 2))
        (tmp_path / "raw" / f"{name}.txt").write_text(f"7 3 3\n{text} 1:1\n")
    options = IngestOptions(propensity_a=0.6, propensity_b=2.6)
    model = train(ingest(tmp_path / "raw", tmp_path / "data", options), CONFIG, tmp_path / "run", check_memory=False)
    metrics = parse_metrics(["psp@1"])
    stored, said = model.measure(metrics), model.measure(metrics, propensity=(0.55, 1.5))
    assert (stored.num_queries, stored.num_skipped) == (6, 1), "of test documents alone"
    assert "A = 0.6, B = 2.6, C = (ln(7)" in stored.definitions["propensity"], "all seven train documents count"
    assert "A = 0.55, B = 1.5" in said.definitions["propensity"]
