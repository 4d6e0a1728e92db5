"""Index recall, tuning, choice of kind, saving and loading, and everything that is refused."""

from __future__ import annotations

import builtins
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from xclass.errors import ArtefactError, ConfigError, InputError
from xclass.index import (
    ExactIndex,
    FaissIndex,
    IndexConfig,
    Point,
    build_index,
    choose_kind,
    index_recall,
    load_index,
    save_index,
    tune,
    vectors_digest,
)
from xclass.index.tuning.tune import optimal
from xclass.types import Ragged, TopK, offsets_of

pytest.importorskip("faiss")


def problem(num_items: int = 3000, num_queries: int = 100, dim: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(num_items, dim, generator=generator), torch.randn(num_queries, dim, generator=generator)


def lists(rows: list[list[int]], scores: list[list[float]]) -> TopK:
    lengths = torch.tensor([len(row) for row in rows])
    flat = [item for row in rows for item in row], [score for row in scores for score in row]
    return TopK(offsets_of(lengths), torch.tensor(flat[0], dtype=torch.int64), torch.tensor(flat[1]))


def test_index_recall_by_hand() -> None:
    exact = lists([[1, 2, 3], [4, 5], [], [7]], [[3.0, 2, 1], [1, 1], [], [2]])
    found = lists([[1, 3, 9], [6, 4], [8], []], [[3.0, 1, 0.5], [1, 1], [0], []])
    got = index_recall(found, exact).tolist()
    assert got[0] == pytest.approx(2 / 3)
    assert got[1] == 1.0  # item 6 scores as high as the exact list's last: nobody is more right
    assert math.isnan(got[2])
    assert got[3] == 0.0


def test_tune_sets_the_fastest_that_meets_the_target() -> None:
    vectors, queries = problem()
    index = build_index(vectors, IndexConfig(kind="ivf"))
    assert isinstance(index, FaissIndex)
    seen = Ragged.from_lists([[0, 1, 2]] * len(queries))
    report = tune(index, queries, 10, 0.9, seen)
    assert report.index is index
    assert report.fell_back is None
    met = [point for point in report.frontier if point.least_recall >= 0.9]
    assert report.index_recall >= 0.9
    assert report.queries_per_s == max(point.queries_per_s for point in met)
    assert len(met) > 1 and len(met) < len(report.frontier)
    assert len({tuple(point.parameters.items()) for point in report.frontier}) == len(report.frontier), "none twice"
    exact = ExactIndex()
    exact.build(vectors)
    again = index_recall(index.search(queries, 10, seen), exact.search(queries, 10, seen))
    assert float(again.mean()) == pytest.approx(report.index_recall)
    chosen = next(point for point in report.frontier if point.parameters == index.parameters)
    assert chosen.least_recall == pytest.approx(float(again.mean() - again.std() / len(again) ** 0.5))
    told = report.to_dict()
    json.dumps(told)
    assert told["index_recall@10"] == report.index_recall
    wanted = {"kind", "factory", "queries_per_s", "flat_queries_per_s", "memory_bytes", "build_s", "frontier"}
    assert wanted <= set(told)


def test_tuning_follows_both_parameters() -> None:
    vectors, queries = problem(4000)
    index = build_index(vectors, IndexConfig(kind="factory", factory="IVF16,PQ8x4fs"))
    report = tune(index, queries, 10, 0.95)
    assert report.index is index and report.index_recall >= 0.95
    tried = {(point.parameters["nprobe"], point.parameters["refine"]): point for point in report.frontier}
    assert len({reach for reach, _ in tried}) > 2 and len({depth for _, depth in tried}) > 2
    for (reach, depth), point in tried.items():
        for (other_reach, other_depth), other in tried.items():
            if reach <= other_reach and depth <= other_depth:
                assert point.index_recall <= other.index_recall + 1e-9, "wider and deeper finds no less"


def test_what_no_other_beats() -> None:
    points = [
        point_of(*pair) for pair in [(0.5, 100), (0.6, 90), (0.6, 95), (0.55, 80), (0.9, 10), (0.95, 12), (0.4, 100)]
    ]
    assert [(point.index_recall, point.queries_per_s) for point in optimal(points)] == [
        (0.5, 100),
        (0.6, 95),
        (0.95, 12),
    ]
    assert optimal([]) == []


def point_of(recall: float, rate: float) -> Point:
    return Point("ivf", "IVF4,Flat", {"nprobe": 1}, recall, rate, 1, 0.0, recall)


def test_every_list_visited_is_exact() -> None:
    vectors, queries = problem(500)
    report = tune(build_index(vectors, IndexConfig(kind="ivf")), queries, 10, 1.0)
    assert report.index_recall == 1.0


def test_an_unreachable_target_falls_back_to_exact_and_says_so() -> None:
    vectors, queries = problem()
    config = IndexConfig(kind="factory", factory="PQ2x4")
    report = tune(build_index(vectors, config), queries, 10, 0.99)
    assert report.index.kind == "exact"
    assert report.index_recall == 1.0
    assert report.frontier[0].index_recall < 0.99
    assert "factory reached 0." in (report.fell_back or "")
    assert "exact search is used" in (report.fell_back or "")


def test_tuning_an_exact_index_measures_it() -> None:
    vectors, queries = problem(50, 5)
    report = tune(build_index(vectors), queries, 10, 0.95)
    assert (report.index.kind, report.index_recall, report.fell_back) == ("exact", 1.0, None)


@pytest.mark.parametrize("target", [0.0, 1.5, float("nan")])
def test_bad_targets(target: float) -> None:
    vectors, queries = problem(50, 5)
    with pytest.raises(InputError, match="target recall"):
        tune(build_index(vectors), queries, 10, target)
    with pytest.raises(InputError, match="held-out queries"):
        tune(build_index(vectors), queries[:0], 10, 0.9)


def test_auto_is_exact_for_small_catalogues() -> None:
    assert choose_kind("auto", 100_000) == "exact"
    assert choose_kind("auto", 100_001) == "fastscan"
    assert choose_kind("ivf", 5) == "ivf"


def test_fewer_vectors_than_lists() -> None:
    index = build_index(problem(100)[0], IndexConfig(kind="factory", factory="IVF4096,Flat"))
    assert index.describe()["factory"] == "IVF2,Flat"


def test_deterministic_builds_are_equal(tmp_path: Path) -> None:
    vectors, _ = problem(800)
    hashes = []
    for name in "ab":
        index = build_index(vectors, IndexConfig(kind="hnsw", deterministic=True))
        hashes.append(save_index(index, tmp_path / name)["files"]["index.faiss"]["sha256"])
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "hsnw"}, 'did you mean "hnsw"'),
        ({"kind": "factory"}, "kind and factory do not fit"),
        ({"kind": "hnsw", "factory": "Flat"}, "kind and factory do not fit"),
        ({"kind": "factory", "factory": "HNSW32,Nonsense"}, "does not take this factory string"),
        ({"kind": "hnsw", "metric": "cosine"}, "inner_product or l2_augmented"),
    ],
)
def test_bad_configurations(values: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_index(problem(60)[0], IndexConfig(**values))


def test_too_few_vectors_to_train() -> None:
    with pytest.raises(InputError, match="cannot build this index"):
        build_index(problem(20)[0], IndexConfig(kind="factory", factory="PQ4x8"))


def test_faiss_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without(name: str, *args: Any, **named: Any) -> Any:
        if name == "faiss":
            raise ImportError("No module named 'faiss'")
        return original(name, *args, **named)

    monkeypatch.setitem(sys.modules, "faiss", None)
    monkeypatch.setattr(builtins, "__import__", without)
    vectors, queries = problem(60, 5)
    for kind in ("flat", "hnsw", "ivf", "ivfpq", "sq", "fastscan"):
        with pytest.raises(ConfigError, match=r"xclass\[cpu\]"):
            build_index(vectors, IndexConfig(kind=kind))
    assert choose_kind("auto", 10**7) == "exact"
    assert len(build_index(vectors).search(queries, 5)) == 5


@pytest.mark.parametrize("kind", ["exact", "flat", "hnsw", "ivf", "ivfpq", "sq", "fastscan", "lsh", "wta"])
def test_saved_and_loaded_is_the_same_index(kind: str, tmp_path: Path) -> None:
    vectors, queries = problem(400)
    index = build_index(vectors, IndexConfig(kind=kind))
    if isinstance(index, FaissIndex) and index.reach:
        index.set_parameters(**{index.reach: 37})
    save_index(index, tmp_path / "index", binding="run-1", report={"queries_per_s": 5.0})
    loaded = load_index(tmp_path / "index", binding="run-1", vectors=vectors)
    assert {**loaded.describe(), "build_s": 0} == {**index.describe(), "build_s": 0}
    seen = Ragged.from_lists([[1, 2, 3]] * len(queries))
    for wanted, got in [
        (index.search(queries, 10), loaded.search(queries, 10)),
        (index.search(queries, 10, seen), loaded.search(queries, 10, seen)),
    ]:
        assert torch.equal(wanted.ids, got.ids)
        assert torch.equal(wanted.scores, got.scores)


def test_an_index_of_another_run_or_of_other_vectors(tmp_path: Path) -> None:
    vectors, _ = problem(60)
    save_index(build_index(vectors), tmp_path / "index", binding="run-1")
    with pytest.raises(ArtefactError, match="another run"):
        load_index(tmp_path / "index", binding="run-2")
    other = vectors.clone()
    other[3, 3] += 1e-3
    with pytest.raises(ArtefactError, match="other item vectors"):
        load_index(tmp_path / "index", vectors=other)
    with pytest.raises(ArtefactError, match="exists already"):
        save_index(build_index(vectors), tmp_path / "index")
    save_index(build_index(other), tmp_path / "index", replace=True)
    assert load_index(tmp_path / "index", vectors=other).num_items == 60
    assert vectors_digest(vectors) != vectors_digest(vectors.view(-1, 8))


@pytest.mark.parametrize("name", ["index.faiss", "vectors.npy"])
def test_cut_and_altered_files_are_refused_before_faiss_reads_them(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import faiss

    save_index(build_index(problem(200)[0], IndexConfig(kind="hnsw")), tmp_path / "index")
    file = tmp_path / "index" / name
    content = file.read_bytes()

    def never(path: str) -> None:
        raise AssertionError("Faiss was given a file that was not checked")

    monkeypatch.setattr(faiss, "read_index", never)
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(ArtefactError, match=f"{name}: this file was cut or altered"):
        load_index(tmp_path / "index")
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ArtefactError, match="its hash is not the manifest's"):
        load_index(tmp_path / "index")
    file.unlink()
    with pytest.raises(ArtefactError, match="missing"):
        load_index(tmp_path / "index")


def test_files_that_are_no_index(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match=r"index\.json is missing"):
        load_index(tmp_path)
    folder = tmp_path / "index"
    save_index(build_index(problem(200)[0], IndexConfig(kind="hnsw")), folder)
    _rewrite(folder, "index.faiss", b"nonsense" * 100)
    with pytest.raises(ArtefactError, match="Faiss can't read"):
        load_index(folder)


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("hnsw", "kind", "hnws"),
        ("hnsw", "kind", None),
        ("hnsw", "factory", None),
        ("hnsw", "search_parameters", []),
        ("hnsw", "search_parameters", {"efSearch": "64"}),
        ("hnsw", "search_parameters", {"nprobe": 3}),
        ("hnsw", "search_parameters", {"efSearch": 0}),
        ("lsh", "caps", []),
        ("lsh", "factory", "LSH2x3"),
        ("lsh", "kind", "hnsw"),
        ("ivf", "build_s", "long"),
    ],
)
def test_a_manifest_that_says_something_else(kind: str, field: str, value: Any, tmp_path: Path) -> None:
    save_index(build_index(problem(200)[0], IndexConfig(kind=kind)), tmp_path / "index")
    manifest = json.loads((tmp_path / "index" / "index.json").read_text())
    manifest["index"][field] = value
    (tmp_path / "index" / "index.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtefactError) as caught:
        load_index(tmp_path / "index")
    assert str(tmp_path / "index") in str(caught.value) or value == "LSH2x3"


def test_a_manifest_without_an_index(tmp_path: Path) -> None:
    save_index(build_index(problem(200)[0], IndexConfig(kind="hnsw")), tmp_path / "index")
    whole = json.loads((tmp_path / "index" / "index.json").read_text())
    for change in ({"index": None}, {"index": "hnsw"}, {"num_items": "200"}, {"files": {}}):
        (tmp_path / "index" / "index.json").write_text(json.dumps({**whole, **change}))
        with pytest.raises(ArtefactError):
            load_index(tmp_path / "index")


def test_counts_that_do_not_fit_the_manifest(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    save_index(build_index(problem(200)[0], IndexConfig(kind="flat")), folder)
    np.save(tmp_path / "other.npy", np.zeros((3, 16), np.float32))
    _rewrite(folder, "vectors.npy", (tmp_path / "other.npy").read_bytes())
    with pytest.raises(ArtefactError, match="manifest's shape"):
        load_index(folder)


def _rewrite(folder: Path, name: str, content: bytes) -> None:
    """Replace a file and its entry in the manifest: only what is inside can give it away."""
    import hashlib

    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "index.json").read_text())
    manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "index.json").write_text(json.dumps(manifest))


def test_a_search_restores_the_tuned_parameter() -> None:
    vectors, queries = problem(400, 3)
    index = FaissIndex("ivf")
    index.build(vectors)
    index.set_parameters(nprobe=1)
    index.search(queries, 50, Ragged.from_lists([list(range(60)), [], [5]]))
    assert index.parameters == {"nprobe": 1}
    import faiss

    assert faiss.extract_index_ivf(index.faiss).nprobe == 1


def test_one_heavy_user_does_not_widen_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, queries = problem(3000, 64)
    index = FaissIndex("flat")
    index.build(vectors)
    asked: list[tuple[int, int]] = []
    original = index.faiss.search
    monkeypatch.setattr(index.faiss, "search", lambda x, k, params: asked.append((len(x), k)) or original(x, k))
    best = (queries[:1] @ vectors.T).argsort(descending=True)[0, :200].tolist()
    worst = (queries[2:3] @ vectors.T).argsort()[0, :1000].tolist()
    index.search(queries, 10, Ragged.from_lists([best, [1, 2, 3], worst, *([[]] * 61)]))
    assert sorted(asked) == [(1, 266), (3, 18), (61, 10)], "only who has seen what is found is searched more deeply"
