"""Retrieval as a Ray Data job: the lists of one process. The worker's own part is tested without Ray."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from xclass.api import train
from xclass.batch.ray import Worker, query_file, retrieve_with_ray
from xclass.batch.retrieve import Job, retrieve_to_file
from xclass.errors import ArtefactError, ConfigError, DataError, XclassError
from xclass.ingest.ingest import ingest
from xclass.ingest.options import IngestOptions
from xclass.recommender import Recommender

SETTINGS = {"k": 6, "exact": True, "include_seen": False}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ray")
    source = "planted:items=120,queries=90,pairs=1500"
    config = {"model": {"embedding_dim": 8, "query": {"kind": "history"}}, "train": {"epochs": 1}}
    return train(ingest(source, folder / "dataset", IngestOptions()), config, folder / "run", device="cpu").run.path


@pytest.fixture(scope="module")
def wanted(run: Path) -> pl.DataFrame:
    retrieve_to_file(Recommender.load(run), run.parent / "alone.parquet", Job(k=6, exact=True))
    return pl.read_parquet(run.parent / "alone.parquet")


def same(found: pl.DataFrame, wanted: pl.DataFrame) -> None:
    found = found.sort("query_id", "rank")
    assert found.drop("score").equals(wanted.drop("score"))
    assert (found["score"] - wanted["score"]).abs().max() < 1e-5  # type: ignore[operator]


def test_a_worker_gives_the_lists_of_one_process(run: Path, wanted: pl.DataFrame) -> None:
    worker = Worker(str(run), None, SETTINGS)
    queries = worker.recommender.dataset.queries
    same(pl.concat([worker.lists(queries[40:]), worker.lists(queries[:40])]), wanted)
    assert worker.lists(pl.DataFrame({"query_id": ["nobody"]})).is_empty()


def test_a_worker_reads_histories(run: Path) -> None:
    worker = Worker(str(run), None, SETTINGS)
    items = worker.recommender.run.item_ids
    lists = [items[:3].to_list(), [], items[5:6].to_list()]
    found = worker.lists(pl.DataFrame({"query_id": ["new", "empty", "other"], "history": lists}))
    assert found.filter(pl.col("query_id") == "new")["rank"].to_list() == [1, 2, 3, 4, 5, 6]
    assert not set(lists[0]) & set(found.filter(pl.col("query_id") == "new")["item_id"])
    alone = worker.recommender.retrieve(histories=[lists[2]], k=6, exact=True)
    assert found.filter(pl.col("query_id") == "other")["item_id"].to_list() == alone["item_id"].to_list()


@pytest.mark.parametrize(
    "table", [{"id": ["a"], "x": [1]}, {"query_id": ["a"], "history": ["b"]}, {"history": [["b"]]}]
)
def test_tables_that_are_no_queries(table: dict[str, list[object]]) -> None:
    with pytest.raises(DataError):
        query_file(pl.DataFrame(table))


def test_without_ray_it_is_said(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(XclassError, match="Ray is not installed") as raised:
        retrieve_with_ray(run, tmp_path / "queries", tmp_path / "out")
    assert "xclass[ray]" in str(raised.value)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'xclass[ray]'")
    pytest.importorskip("ray.data", reason="Ray Data is not installed: pip install 'xclass[ray]'")
    root = str(Path(__file__).resolve().parents[2])
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": root}})
    yield
    ray.shutdown()


@pytest.mark.filterwarnings("ignore")  # of Ray itself
def test_a_job_on_ray(run: Path, wanted: pl.DataFrame, tmp_path: Path, cluster: None) -> None:
    queries = Recommender.load(run).dataset.queries
    (tmp_path / "queries").mkdir()
    for number, part in enumerate(queries.iter_slices(25)):
        part.write_parquet(tmp_path / "queries" / f"part-{number}.parquet")
    retrieve_with_ray(run, tmp_path / "queries", tmp_path / "out", k=6, exact=True, workers=2, queries_at_once=20)
    files = list((tmp_path / "out").glob("*.parquet"))
    same(pl.read_parquet(files), wanted)
    with pytest.raises(ConfigError, match="too few cores"):
        retrieve_with_ray(run, tmp_path / "queries", tmp_path / "more", workers=4)
    with pytest.raises(ArtefactError, match="there already"):
        retrieve_with_ray(run, tmp_path / "queries", tmp_path / "out")


@pytest.mark.filterwarnings("ignore")
def test_what_a_worker_says_comes_back(run: Path, tmp_path: Path, cluster: None) -> None:
    pl.DataFrame({"id": ["a"], "x": [1]}).write_parquet(tmp_path / "queries.parquet")
    with pytest.raises(XclassError, match="a column is missing"):
        retrieve_with_ray(run, tmp_path / "queries.parquet", tmp_path / "out", exact=True)
