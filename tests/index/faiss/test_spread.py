"""Lists that are ranked by centroid and spread: against their formula, and where plain lists fail."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from xclass.errors import ArtefactError, ConfigError, XclassError
from xclass.index import ExactIndex, FaissIndex, SubsetIndex, index_recall, load_index, save_index
from xclass.index.storage import LISTS_FILE
from xclass.io.manifest import file_entry

faiss = pytest.importorskip("faiss")
DIM, ITEMS = 24, 1500


def planted(num_items: int = ITEMS, num_queries: int = 50, topics: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    """Items that share a direction with many others and differ in popularity, far from the origin."""
    generator = torch.Generator().manual_seed(3)
    directions = 5 * torch.nn.functional.normalize(torch.randn(topics, DIM - 1, generator=generator), dim=1)
    popularity = -2 - 1.2 * torch.log(2 + torch.arange(num_items) // topics)
    items = torch.cat([directions[torch.arange(num_items) % topics], popularity[:, None]], 1)
    queries = torch.randn(num_queries, DIM, generator=generator)
    queries[:, -1] = 1
    return items, queries


def built(factory: str, vectors: torch.Tensor) -> FaissIndex:
    index = FaissIndex("factory", factory, deterministic=True)
    index.build(vectors)
    return index


def members(index: FaissIndex) -> list[np.ndarray]:
    ivf = faiss.downcast_index(index.faiss)
    lists = range(ivf.nlist)
    return [
        faiss.rev_swig_ptr(ivf.invlists.get_ids(part), ivf.invlists.list_size(part)).copy()
        if ivf.invlists.list_size(part)
        else np.empty(0, np.int64)
        for part in lists
    ]


def recall(index: FaissIndex, vectors: torch.Tensor, queries: torch.Tensor, k: int) -> float:
    exact = ExactIndex()
    exact.build(vectors)
    return float(index_recall(index.search(queries, k), exact.search(queries, k)).mean())


@pytest.mark.parametrize("graph", ["", "_HNSW8"])
def test_the_lists_are_what_they_are_said_to_be(graph: str) -> None:
    vectors, _ = planted()
    index = built(f"Spread,IVF20{graph},Flat", vectors)
    assert index.spread is not None
    centred = vectors.double() - vectors.double().mean(0)
    centroids, spreads = torch.from_numpy(index.spread.table).double().split([DIM, 1], 1)
    lists = members(index)
    assert sorted(np.concatenate(lists).tolist()) == list(range(ITEMS))
    for part, items in enumerate(lists):
        if len(items):
            away = (centred[items] - centroids[part]).square().sum(1)
            every = torch.cdist(centred[items], centroids).square()
            assert (away <= every.min(1).values + 1e-3).all(), "an item is not in the nearest list"
            assert float(spreads[part]) == pytest.approx(2 * float((away.mean() / DIM).sqrt()), rel=1e-3, abs=1e-3)


def test_the_first_list_is_the_one_that_may_hold_the_best() -> None:
    vectors, queries = planted()
    index = built("Spread,IVF20,Flat", vectors)
    index.set_parameters(nprobe=1, refine=1)
    assert index.spread is not None
    table, lists = torch.from_numpy(index.spread.table), members(index)
    ranks = queries @ table[:, :-1].T + queries.norm(dim=1)[:, None] * table[:, -1]
    found = index.search(queries, 3)
    for b, first in enumerate(ranks.argmax(1).tolist()):
        if len(lists[first]) >= 3:
            scores = vectors[torch.from_numpy(lists[first])] @ queries[b]
            assert torch.allclose(found.scores[3 * b : 3 * b + 3], scores.topk(3).values, atol=1e-4)


def test_plain_lists_find_less_where_popularity_is_a_coordinate() -> None:
    vectors, queries = planted(20_000, 200, topics=200)
    shares = []
    for factory in ("IVF128,Flat", "Spread,IVF128,Flat"):
        index = built(factory, vectors)
        index.set_parameters(nprobe=8)
        shares.append(recall(index, vectors, queries, 20))
    assert shares[1] > shares[0] + 0.1, shares


def test_what_all_items_have_in_common_changes_nothing() -> None:
    vectors, queries = planted()
    near, far = (built("Spread,IVF20,SQ8", part) for part in (vectors, vectors + 3.0))
    for index in (near, far):
        index.set_parameters(nprobe=3)
    same = near.search(queries, 10).ids == far.search(queries, 10).ids
    assert float(same.float().mean()) > 0.97


def test_codes_of_what_is_left_of_the_centroid_add_to_its_score_alone() -> None:
    vectors, queries = planted()
    index = built("Spread,IVF20,SQ8", vectors)
    assert faiss.downcast_index(index.faiss).by_residual
    index.set_parameters(nprobe=20, refine=1)
    assert recall(index, vectors, queries, 10) > 0.95


def test_candidates_are_looked_for_inside_the_lists() -> None:
    vectors, queries = planted()
    index = built("Spread,IVF20_HNSW8,SQ8", vectors)
    index.set_parameters(nprobe=20)
    allowed = torch.arange(0, ITEMS, 2)
    found = SubsetIndex(index, allowed).search(queries, 5)
    assert torch.isin(found.ids, allowed).all()
    scores = (queries @ vectors[allowed].T).topk(5).values
    assert torch.allclose(found.scores.view(-1, 5), scores, atol=1e-4)


def test_an_index_that_is_opened_again_finds_the_same(tmp_path: Path) -> None:
    vectors, queries = planted()
    index = built("Spread,IVF30_HNSW8,PQ24x4fs", vectors)
    index.set_parameters(nprobe=5, refine=6)
    save_index(index, tmp_path / "index")
    again = load_index(tmp_path / "index")
    first, second = index.search(queries, 10), again.search(queries, 10)
    assert torch.equal(first.ids, second.ids) and torch.equal(first.scores, second.scores)
    assert again.describe() == index.describe()
    assert isinstance(again, FaissIndex) and again.extra_bytes() == index.extra_bytes()


def test_other_lists_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "index"
    save_index(built("Spread,IVF30,SQ8", planted()[0]), path)
    good = np.load(path / LISTS_FILE)
    broken = good.copy()
    broken[3, 2] = np.nan
    for table, what in ((good[:-1], "another shape"), (broken, "not finite"), (good.astype(np.float64), "shape")):
        np.save(path / LISTS_FILE, table)
        manifest = json.loads((path / "index.json").read_text())
        with pytest.raises(ArtefactError):
            load_index(path)
        manifest["files"][LISTS_FILE] = file_entry(path / LISTS_FILE)
        (path / "index.json").write_text(json.dumps(manifest))
        with pytest.raises(ArtefactError, match=what):
            load_index(path)
    del manifest["files"][LISTS_FILE]
    (path / "index.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtefactError, match=r"files must have lists\.npy"):
        load_index(path)


@pytest.mark.parametrize(
    "factory", ["Spread,HNSW8", "Spread,OPQ4,IVF8,PQ4", "Spread,IVF8,SQ8,RFlat", "Spread,Nonsense"]
)
def test_what_has_no_lists_of_its_own_is_refused(factory: str) -> None:
    with pytest.raises(ConfigError, match=r"Spread|factory string"):
        FaissIndex("factory", factory).build(planted()[0])


def test_spread_lists_are_for_inner_products() -> None:
    with pytest.raises(XclassError, match="inner products"):
        FaissIndex("factory", "Spread,IVF8,SQ8", metric="l2_augmented").build(planted()[0])
