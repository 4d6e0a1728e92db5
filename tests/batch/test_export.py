"""Vectors out of a run: the ids, the numbers, and that scores are their inner products."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import xclass.batch.export as export_module
from xclass.api import train
from xclass.batch.export import export_vectors
from xclass.cli import main
from xclass.errors import DataError, InputError
from xclass.ingest.ingest import ingest
from xclass.ingest.options import IngestOptions
from xclass.recommender import Recommender

CONFIG = {
    "model": {"embedding_dim": 8},
    "sampler": {"num_sampled": 32},
    "train": {"epochs": 1, "batch": {"by": "query", "size": 64}},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    dataset = ingest("planted:items=150,queries=200,pairs=3000", folder / "dataset", IngestOptions())
    return train(dataset, CONFIG, folder / "run", device="cpu").run.path


def test_scores_are_inner_products_of_what_is_exported(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(export_module, "ROWS_AT_ONCE", 64)
    files = ["--item-vectors", str(tmp_path / "i.parquet"), "--query-vectors", str(tmp_path / "q.parquet")]
    assert main(["export", str(run), *files, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == {"dim": 8, "items": 150, "queries": 200, "unknown_queries": 0}
    items, queries = pl.read_parquet(tmp_path / "i.parquet"), pl.read_parquet(tmp_path / "q.parquet")
    assert items.schema == {"item_id": pl.String, "vector": pl.Array(pl.Float32, 8)}
    assert queries.columns == ["query_id", "vector"]
    recommender = Recommender.load(run)
    assert items["item_id"].to_list() == recommender.run.item_ids.to_list()
    assert queries["query_id"].to_list() == recommender.run.query_ids.to_list()
    products = queries["vector"].to_numpy() @ items["vector"].to_numpy().T
    wanted = recommender.retrieve(queries["query_id"].to_list(), k=5, include_seen=True, exact=True)
    assert np.allclose(-np.sort(-products, axis=1)[:, :5].ravel(), wanted["score"].to_numpy(), atol=1e-5)
    assert sorted(os.listdir(tmp_path)) == ["i.parquet", "q.parquet"]


def test_some_queries_by_id_or_history(run: Path, tmp_path: Path) -> None:
    recommender = Recommender.load(run)
    everybody = tmp_path / "q.parquet"
    export_vectors(recommender, queries=everybody)
    ids = recommender.run.query_ids.to_list()
    (tmp_path / "ids.txt").write_text(f"{ids[7]}\nnobody\n{ids[3]}\n")
    said = export_vectors(recommender, queries=tmp_path / "some.parquet", of=tmp_path / "ids.txt")
    assert (said["queries"], said["unknown_queries"]) == (2, 1)
    some = pl.read_parquet(tmp_path / "some.parquet")
    whole = pl.read_parquet(everybody)
    assert some["query_id"].to_list() == [ids[7], ids[3]]
    assert np.allclose(some["vector"].to_numpy(), whole["vector"].to_numpy()[[7, 3]], atol=1e-6)
    (tmp_path / "h.jsonl").write_text(json.dumps({"query_id": "new", "history": [recommender.run.item_ids[0]]}))
    export_vectors(recommender, queries=tmp_path / "new.parquet", of=tmp_path / "h.jsonl")
    assert pl.read_parquet(tmp_path / "new.parquet")["query_id"].to_list() == ["new"]


def test_what_can_not_be_exported(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(run)]) == 2
    assert "say what to export" in capsys.readouterr().err
    with pytest.raises(InputError, match="say what to export"):
        export_vectors(Recommender.load(run))
    (tmp_path / "ids.txt").write_text("nobody\n")
    with pytest.raises(DataError, match="no vector"):
        export_vectors(Recommender.load(run), queries=tmp_path / "q.parquet", of=tmp_path / "ids.txt")
    assert os.listdir(tmp_path) == ["ids.txt"]
