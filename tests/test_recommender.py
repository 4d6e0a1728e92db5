"""A finished run behind one face: what goes in and comes out are external ids, and every path gives the same answer."""

import json
import shutil

import numpy as np
import polars as pl
import pytest
import torch

import xclass
from xclass.api import index_run
from xclass.errors import ArtefactError, DataError, InputError
from xclass.index import IndexConfig, build_index
from xclass.ingest.synthetic.pairs import PlantedModel, best_recall
from xclass.metrics import parse_metrics
from xclass.recommender import Recommender

CONFIG = {
    "model": {"embedding_dim": 16, "normalize": False, "temperature": 1.0, "query": {"hidden": [16]}},
    "sampler": {"num_sampled": 128},
    "train": {
        "epochs": 6,
        "learning_rate": 0.3,
        "batch": {"by": "query", "size": 64},
        "validation": {"every_epochs": 6},
    },
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recommender")
    dataset = PlantedModel(num_items=300, num_queries=800, pairs=20_000, num_topics=8, seed=1).write_dataset(
        folder / "dataset"
    )
    xclass.train(dataset, CONFIG, folder / "run")
    by_id = {**CONFIG, "model": {**CONFIG["model"], "query": {"kind": "id"}}}
    xclass.train(dataset.path, by_id, folder / "by-id", overrides=["train.epochs=1"])
    return folder


@pytest.fixture
def recommender(place):
    return Recommender.load(place / "run")


def known(recommender, query):
    row = recommender.dataset.queries["query_id"].to_list().index(query)
    return [recommender.run.item_ids[i] for i in recommender.dataset.seen("test").to_lists()[row]]


def test_lists_by_id_equal_the_plain_ranking(recommender):
    queries = recommender.dataset.queries["query_id"].to_list()[5:8]
    table = recommender.retrieve(query_ids=queries, k=7)
    assert table.columns == ["query_id", "rank", "item_id", "score"]
    vectors = recommender.item_vectors.tensor().double()
    for query in queries:
        rows = table.filter(pl.col("query_id") == query)
        seen = set(known(recommender, query))
        alone = recommender.retrieve(histories=[known(recommender, query)], k=7)
        assert rows["rank"].to_list() == list(range(1, 8)) and not seen & set(rows["item_id"])
        assert alone["item_id"].to_list() == rows["item_id"].to_list()
        number = recommender.dataset.queries["query_id"].to_list().index(query)
        from xclass.types import Batch

        history = recommender.dataset.seen("test").take(torch.tensor([number])).long()
        scores = vectors @ recommender.model.query_vectors(Batch(torch.tensor([number]), history)).double()[0]
        order = [recommender.run.item_ids[i] for i in scores.argsort(descending=True).tolist()]
        assert [item for item in order if item not in seen][:7] == rows["item_id"].to_list()


def test_seen_candidates_and_excluded(recommender):
    query = recommender.dataset.queries["query_id"][3]
    plain = recommender.retrieve(query_ids=[query], k=10)["item_id"].to_list()
    seen = known(recommender, query)
    everything = recommender.retrieve(query_ids=[query], k=300, include_seen=True)["item_id"].to_list()
    assert set(seen) <= set(everything) and len(everything) == 300
    assert recommender.retrieve(query_ids=[query], k=9, exclude=plain[:1])["item_id"].to_list() == plain[1:]
    narrow = recommender.retrieve(query_ids=[query], k=10, candidates=[*plain[:3], *seen])
    assert narrow["item_id"].to_list() == plain[:3]
    assert [item for item in everything if item not in seen][:10] == plain


def test_a_query_that_has_seen_everything_gets_nothing(recommender):
    table = recommender.retrieve(histories=[recommender.run.item_ids.to_list(), []], k=5)
    assert table["query_id"].to_list() == [1] * 5


def test_unknown_ids_are_left_out_and_named(recommender, capsys):
    known_id = recommender.dataset.queries["query_id"][0]
    table = recommender.retrieve(query_ids=["nobody", known_id], k=3)
    assert table["query_id"].to_list() == [known_id] * 3 and "nobody" in capsys.readouterr().err
    item = recommender.run.item_ids[0]
    same = recommender.retrieve(histories=[[item]], k=3)["item_id"].to_list()
    assert recommender.retrieve(histories=[[item, "no such item"]], k=3)["item_id"].to_list() == same
    assert "no such item" in capsys.readouterr().err
    with pytest.raises(DataError, match="not one query id is known"):
        recommender.retrieve(query_ids=["nobody"])


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"query_ids": ["a"], "histories": [["a"]]},
        {"query_ids": "17"},
        {"histories": "17"},
        {"histories": ["17"]},
        {"histories": [["1"]], "k": 0},
        {"histories": [["1"]], "k": 1.0},
        {"histories": [None]},
        {"histories": [{"1"}]},
        {"histories": [["1", None]]},
        {"histories": [["1"]], "exclude": {"1"}},
        {"histories": [["1"]], "exclude": [["1"], ["1"]]},
        {"histories": [["1"]], "features": {"text": [1]}},
        {"features": {"text": xclass.Ragged.from_lists([[1]])}},
        {"query_ids": ["a"], "features": {}},
    ],
)
def test_calls_that_can_not_be_meant_are_refused(recommender, arguments):
    with pytest.raises((InputError, DataError), match="wanted"):
        recommender.retrieve(**arguments)


def test_every_container_gives_the_same_lists(recommender):
    queries = recommender.dataset.queries["query_id"].head(3)
    wanted = recommender.retrieve(query_ids=queries.to_list(), k=5)
    assert len(wanted) == 15
    for ids in (queries, tuple(queries), queries.to_numpy(), np.array(queries.to_list(), dtype=object)):
        assert recommender.retrieve(query_ids=ids, k=np.int64(5)).equals(wanted)
    history = recommender.run.item_ids.head(4)
    new = recommender.retrieve(histories=[history.to_list()], k=5, exclude=history.to_list())
    for histories in ([history], pl.Series([history]), history.to_numpy()[None], (tuple(history),)):
        for exclude in (history, history.to_numpy(), [history], pl.Series([history])):
            assert recommender.retrieve(histories=histories, k=5, exclude=exclude).equals(new)


@pytest.mark.parametrize("nobody", [{"query_ids": []}, {"histories": []}, {"query_ids": pl.Series([])}])
@pytest.mark.parametrize("probabilities", [None, "exact"])
def test_nobody_gets_an_empty_table(recommender, nobody, probabilities):
    some = recommender.retrieve(query_ids=recommender.dataset.queries["query_id"].head(1), probabilities=probabilities)
    none = recommender.retrieve(**nobody, probabilities=probabilities)
    names = {"histories": {"query_id": pl.Int64}}.get(next(iter(nobody)), {})
    assert len(none) == 0 and dict(none.schema) == {**some.schema, **names}


def test_a_history_of_nothing_is_told(recommender, capsys):
    found = recommender.retrieve(histories=[[], [recommender.run.item_ids[0]], []], k=3)
    assert "2 queries have no known item in their history" in capsys.readouterr().err
    first, last = (found.filter(pl.col("query_id") == query)["item_id"].to_list() for query in (0, 2))
    assert first == last


def test_ids_of_another_kind_show_both_sides(recommender):
    with pytest.raises(DataError, match=r"(?s)wanted: query ids such as .*got: no such, nor this"):
        recommender.retrieve(query_ids=["no such", "nor this"])
    with pytest.raises(DataError, match=r"(?s)item ids such as .*got: 1\.0.*floating-point"):
        recommender.retrieve(histories=[["1.0", "2.0"]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: xclass.train(pl.DataFrame(), CONFIG, "out"), "path of a dataset is wanted"),
        (lambda: xclass.train(__file__, CONFIG, "out"), "not a dataset"),
        (lambda: xclass.open_dataset(3), "path of a dataset is wanted"),
        (lambda: Recommender.load(pl.DataFrame()), "path of a run is wanted"),
        (lambda: build_index([[1.0]]), "vectors are of the wrong shape"),
        (lambda: build_index(np.ones((2, 2), dtype=int)), "vectors are of the wrong shape"),
        (lambda: build_index(pl.DataFrame({"a": [1.0]})), "vectors are of the wrong shape"),
        (lambda: build_index(np.eye(2)).search([[1.0, 0.0]], 1), "query vectors do not fit"),
    ],
)
def test_what_is_no_dataset_run_or_matrix(call, message):
    with pytest.raises(xclass.XclassError, match=message):
        call()


def test_arrays_are_vectors():
    vectors = np.asfortranarray(np.arange(12.0).reshape(4, 3) % 5)
    found = build_index(vectors).search(vectors[:2], np.int64(4))
    wanted = build_index(torch.from_numpy(vectors)).search(torch.from_numpy(vectors[:2]), 4)
    assert found.ids.tolist() == wanted.ids.tolist() and found.scores.tolist() == wanted.scores.tolist()
    assert found.scores[0] == (vectors[0] @ vectors.T).max()


def test_a_model_of_ids_can_not_embed_a_new_history(place):
    by_id = Recommender.load(place / "by-id")
    assert len(by_id.retrieve(query_ids=[by_id.run.query_ids[0]], k=4)) == 4
    with pytest.raises(InputError, match="by id only"):
        by_id.retrieve(histories=[[by_id.run.item_ids[0]]])


def test_evaluation_counts_what_retrieval_gives(recommender):
    """Recall by hand from the lists of all queries equals the table's."""
    table = recommender.evaluate(k=[20])
    reached = dict(zip(table["metric"], table["model"], strict=True))["recall@20"]
    lists = recommender.retrieve(query_ids=recommender.run.query_ids.to_list(), k=20)
    found = dict(lists.group_by("query_id").agg("item_id").iter_rows())
    recalls = []
    truth = recommender.dataset.split("test").to_lists()
    for query, row in zip(recommender.run.query_ids, truth, strict=True):
        if row:
            positives = {recommender.run.item_ids[i] for i in row}
            recalls.append(len(positives & set(found.get(query, []))) / len(positives))
    assert reached == pytest.approx(sum(recalls) / len(recalls), abs=1e-12)
    assert 0.7 * best_recall(recommender.dataset, 20) < reached <= best_recall(recommender.dataset, 20) + 0.02


@pytest.mark.parametrize("most", [0, -1, 2.5, "3", True])
def test_numbers_of_queries_that_can_not_be(recommender, most):
    """A negative one left out so many queries."""
    with pytest.raises(InputError, match="no integer of 1 or more"):
        recommender.evaluate(k=[5], max_queries=most)
    with pytest.raises(ArtefactError, match="no split"):
        recommender.evaluate(k=[5], split=None)


def test_index_is_used_measured_and_bound_to_its_run(place, tmp_path):
    shutil.copytree(place / "run", tmp_path / "run")
    recommender = Recommender.load(tmp_path / "run")
    report = index_run(recommender, IndexConfig(kind="ivf"), target_recall=0.9, k=10)
    assert report.index.kind == "ivf" and report.index_recall >= 0.9
    again = Recommender.load(tmp_path / "run")
    result = again.measure(parse_metrics(["recall@10", "psp@5"]))
    assert (
        set(result.index_recall) == {"index_recall@5", "index_recall@10"}
        and result.index_recall["index_recall@10"] > 0.85
    )
    assert result.metrics == again.measure(parse_metrics(["recall@10", "psp@5"]), exact=True).metrics
    assert json.loads(json.dumps(result.to_dict()))["metrics"] == result.metrics
    with pytest.raises(ArtefactError, match="--replace"):
        index_run(again, IndexConfig(kind="ivf"), target_recall=0.9, k=10)
    shutil.copytree(place / "by-id", tmp_path / "other")
    shutil.copytree(tmp_path / "run" / "index", tmp_path / "other" / "index")
    with pytest.raises(ArtefactError, match="another run"):
        Recommender.load(tmp_path / "other").retrieve(query_ids=[again.run.query_ids[0]])


def test_new_histories_need_no_dataset(place, tmp_path):
    shutil.copytree(place / "run", tmp_path / "run")
    started = json.loads((tmp_path / "run" / "run.json").read_text())
    started["dataset"]["dataset"] = str(tmp_path / "gone")
    (tmp_path / "run" / "run.json").write_text(json.dumps(started))
    recommender = Recommender.load(tmp_path / "run")
    assert len(recommender.retrieve(histories=[[recommender.run.item_ids[7]]], k=3)) == 3
    with pytest.raises(ArtefactError, match="--dataset"):
        recommender.retrieve(query_ids=["x"])
    moved = Recommender.load(tmp_path / "run", dataset=place / "dataset")
    assert len(moved.retrieve(query_ids=[moved.run.query_ids[0]], k=3)) == 3
