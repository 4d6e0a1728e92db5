"""One freshly opened run, asked by many threads at once: every answer is the one that a single thread gets."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal

import xclass
from xclass.api import index_run
from xclass.data.ids import IdMap
from xclass.index import FaissIndex, IndexConfig, SubsetIndex
from xclass.ingest.ingest import ingest
from xclass.ingest.options import IngestOptions
from xclass.ingest.synthetic.pairs import PlantedModel
from xclass.metrics import parse_metrics
from xclass.queries.queries import dataset_queries, histories_of
from xclass.recommender import Recommender
from xclass.runtime.once import once
from xclass.runtime.rng import numpy_generator, torch_generator
from xclass.types import Ragged

THREADS = 8
TRAIN = {"epochs": 1, "batch": {"by": "query", "size": 64}}
HISTORY = {"model": {"embedding_dim": 8, "query": {"hidden": [8]}}, "sampler": {"num_sampled": 32}, "train": TRAIN}
TEXTS = {
    "model": {"embedding_dim": 8, "query": {"kind": "features"}},
    "sampler": {"num_sampled": 8},
    "documents": {
        "scorers": ["towers", "linear", "neighbours"],
        "fusion": {"weights": {"towers": 1.0, "linear": 1.0, "neighbours": 1.0}},
    },
    "train": TRAIN,
}
CNN = {**HISTORY, "head": {"kind": "cnn"}}


@pytest.fixture(autouse=True)
def switching_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("threads")
    model = PlantedModel(num_items=400, num_queries=300, pairs=6000, num_topics=8, seed=1)
    planted = model.write_dataset(folder / "planted")
    xclass.train(planted, HISTORY, folder / "history")
    config = IndexConfig(kind="hnsw")
    index_run(Recommender.load(folder / "history"), config, target_recall=0.1, k=5)
    xclass.train(planted, CNN, folder / "cnn")
    generator = numpy_generator(0, "texts")
    words = [f"w{number}" for number in generator.permutation(60)]
    rows = [
        {
            "id": f"p{number}",
            "text": " ".join(generator.choice(words, 6)),
            "labels": [f"t{number % 7}", f"s{number * 5 % 11}"],
        }
        for number in generator.permutation(150)
    ]
    (folder / "pages.jsonl").write_text("".join(json.dumps(row, default=int) + "\n" for row in rows))
    texts = ingest(folder / "pages.jsonl", folder / "pages", IngestOptions(format="text"))
    xclass.train(texts, TEXTS, folder / "texts")
    return {name: folder / name for name in ("history", "texts", "cnn")}


def calls_of_any_run(run: Recommender) -> dict[str, Callable[[Recommender], Any]]:
    """A call of each public method and attribute that every run has, by its name."""
    items, queries = run.run.item_ids.to_list(), run.run.query_ids.to_list()
    metrics = parse_metrics(["recall@5", "ndcg@5"])
    split = run.dataset.splits[-1]
    asked = run.dataset.queries["query_id"].to_list()[:40]
    if run.dataset.holds_documents:
        asked = run.dataset.queries.filter(pl.col("split") == split)["query_id"].to_list()
    file = histories_of([[items[3]], [items[1], items[2]]]) if not run.dataset.holds_documents else None
    return {
        "retrieve": lambda r: r.retrieve(query_ids=asked, k=7),
        "retrieve exact": lambda r: r.retrieve(query_ids=asked, k=7, exact=True, exclude=items[:3]),
        "retrieve some": lambda r: r.retrieve(query_ids=asked[:5], k=3, candidates=items[::2]),
        "retrieve own": lambda r: r.retrieve(query_ids=asked[:2], k=3, exclude=[items[:2], items[4:9]]),
        "evaluate": lambda r: r.evaluate(k=[5], split=split),
        "measure": lambda r: r.measure(metrics, split, by_popularity=True).table(),
        "lists": lambda r: [found for _, found in r.lists(dataset_queries(r.dataset, split), 5)],
        "item_numbers": lambda r: r.item_numbers(pl.Series(items[5:20]), "items"),
        "item_map": lambda r: r.item_map.numbers(items[::3]),
        "query_map": lambda r: r.query_map.numbers(queries[::3]),
        "item_vectors": lambda r: r.item_vectors.tensor(),
        "dataset": lambda r: r.dataset.items,
        "exact_index": lambda r: r.exact_index.num_items,
        "index": lambda r: None if r.index is None else r.index.num_items,
        "may_repeat": lambda r: r.may_repeat,
        "read_filter": lambda r: r.read_filter(None, "items").own,
        **({} if file is None else {"queries_of": lambda r: r.queries_of(file).numbers}),
        **({} if file is None else {"without_history": lambda r: r.without_history(r.queries_of(file))}),
    }


def calls(name: str, run: Recommender) -> dict[str, Callable[[Recommender], Any]]:
    found, items = calls_of_any_run(run), run.run.item_ids.to_list()
    if name != "texts":
        found["histories"] = lambda r: r.retrieve(histories=[items[3:6], items[9:11]], k=5)
        found["by popularity"] = lambda r: r.retrieve(histories=[items[:2]], k=len(items), short="popular")
    if name == "cnn":
        found["text_vectors"] = lambda r: r.text_vectors(["red shoe", "blue"])
    if name == "texts":
        said = pl.Series(["w1 w2 w3", "w4 w5"])
        found["text_features"] = lambda r: r.text_features(said)["text"].values
        found["texts"] = lambda r: r.retrieve(texts=said.to_list(), k=4)
        found["vectoriser"] = lambda r: r.vectoriser.size
        found["features"] = lambda r: r.retrieve(features={"text": Ragged.from_lists([[0, 3]], [[1.0, 0.5]])}, k=4)
    return found


def test_every_public_method_is_called(runs: dict[str, Path]) -> None:
    called = {call for name in runs for call in calls(name, Recommender.load(runs[name]))}
    public = {name for name in dir(Recommender) if not name.startswith("_")}
    assert public - called == {"load"}


def alike(got: Any, wanted: Any) -> None:
    if isinstance(wanted, pl.DataFrame):
        assert_frame_equal(got, wanted)
    elif isinstance(wanted, list):
        for part, whole in zip(got, wanted, strict=True):
            assert torch.equal(part.ids, whole.ids)
    elif isinstance(wanted, torch.Tensor):
        torch.testing.assert_close(got, wanted)
    else:
        assert got == wanted


def together(work: Callable[[int], None]) -> None:
    """``work(thread)`` in all threads, which start at the same moment; the first failure is raised here."""
    failures: list[BaseException] = []
    start = threading.Barrier(THREADS)

    def run(thread: int) -> None:
        start.wait()
        try:
            work(thread)
        except BaseException as error:  # noqa: BLE001  raised again below
            failures.append(error)

    threads = [threading.Thread(target=run, args=(thread,)) for thread in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


@pytest.mark.parametrize("name", ["history", "texts", "cnn"])
def test_first_calls_from_many_threads(runs: dict[str, Path], name: str) -> None:
    alone = Recommender.load(runs[name])
    asked = list(calls(name, alone).items())
    wanted = {call: run(alone) for call, run in asked}
    for _ in range(3):
        fresh = Recommender.load(runs[name])

        def work(thread: int, fresh: Recommender = fresh) -> None:
            for place in range(len(asked)):
                call, run = asked[(place + thread * 3) % len(asked)]
                alike(run(fresh), wanted[call])

        together(work)


def test_ids_are_looked_up_by_many_threads() -> None:
    ids = pl.Series([f"item-{number}" for number in numpy_generator(0, "ids").permutation(20_000)])
    asked = torch.arange(0, 20_000, 997)
    for _ in range(20):
        known = IdMap(ids)
        together(lambda thread, known=known: alike(known.numbers(ids.gather(asked.numpy())), asked))


@pytest.mark.parametrize("factory", ["HNSW8,Flat", "IVF16,Flat", "IVF16,PQ4x4", "IVF16,PQ4x4fs"])
def test_a_search_that_reaches_farther_leaves_others_alone(factory: str) -> None:
    """Candidates widen a search. Searches of other threads keep their reach, and so does the index afterwards."""
    generator = torch_generator(0, "reach")
    index = FaissIndex("factory", factory)
    index.build(torch.randn(2000, 8, generator=generator))
    index.set_parameters(**{str(index.reach): 1})
    queries = torch.randn(50, 8, generator=generator)
    searches = index, SubsetIndex(index, torch.arange(0, 1200))
    wanted = [search.search(queries, 3) for search in searches]

    def work(thread: int) -> None:
        for _ in range(10):
            found = searches[thread % 2].search(queries, 3)
            assert torch.equal(found.ids, wanted[thread % 2].ids)

    together(work)
    assert index.parameters[str(index.reach)] == 1


def test_once_makes_a_value_once_and_keeps_no_half_made_one() -> None:
    made: list[int] = []

    class Lazy:
        @once
        def value(self) -> list[int]:
            """Of the moment."""
            made.append(0)
            found: list[int] = []
            found.extend(range(1000))
            return found

    for _ in range(50):
        lazy, seen = Lazy(), []
        together(lambda _, lazy=lazy, seen=seen: seen.append(lazy.value))
        assert all(value is seen[0] for value in seen) and len(seen[0]) == 1000
    assert len(made) == 50
    assert Lazy.value.__doc__ == "Of the moment."
