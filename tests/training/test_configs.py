"""Every shipped configuration is read and checked; the tiny ones train."""

import json
from pathlib import Path

import pytest

from xclass.config import load_config, to_toml
from xclass.ingest.ingest import ingest
from xclass.ingest.synthetic.pairs import PlantedModel
from xclass.metrics import average, compute, parse_metrics, popular_topk
from xclass.runs.train import resolve_config, train_run
from xclass.training.run_config import RunConfig, reference

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").rglob("*.toml"))
TINY = [path for path in CONFIGS if path.parent.name == "tiny"]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_each_is_valid_and_survives_a_round_trip(path, tmp_path):
    config = load_config(RunConfig, path)
    (tmp_path / "again.toml").write_text(to_toml(config))
    assert load_config(RunConfig, tmp_path / "again.toml") == config


def test_the_reference_names_every_key_with_its_default():
    path = ROOT / "configs" / "reference.toml"
    assert path.read_text(encoding="utf-8") == reference()
    assert load_config(RunConfig, path) == RunConfig()


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    place = tmp_path_factory.mktemp("tiny") / "dataset"
    return PlantedModel(num_items=400, num_queries=1500, pairs=45_000, num_topics=10, seed=0).write_dataset(place)


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    place = tmp_path_factory.mktemp("tiny") / "documents"
    return ingest("planted-documents:documents=2000,features=600,labels=400,themes=60", place)


def popularity_of(dataset):
    found = popular_topk(dataset.seen("valid"), 20, dataset.item_counts)
    return average(compute(found, dataset.split("valid").long(), parse_metrics(["recall@20"])))["recall@20"]


@pytest.mark.parametrize("path", TINY, ids=lambda path: path.stem)
def test_each_tiny_one_beats_popularity(path, pairs, documents, tmp_path):
    dataset = documents if "features" in load_config(RunConfig, path).model.query.kind else pairs
    popularity = popularity_of(dataset)
    run = train_run(dataset, resolve_config(path, ["train.checkpoint_every_s=1000"]), tmp_path / "run")
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert max(record["valid"]["recall@20"] for record in records if "valid" in record) > 1.5 * popularity
