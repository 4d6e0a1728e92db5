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
    build_index,
    choose_kind,
    index_recall,
    load_index,
    save_index,
    tune,
    vectors_digest,
)
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


def test_tune_doubles_until_the_target_is_met() -> None:
    vectors, queries = problem()
    index = build_index(vectors, IndexConfig(kind="ivf"))
    seen = Ragged.from_lists([[0, 1, 2]] * len(queries))
    report = tune(index, queries, 10, 0.9, seen)
    assert report.index is index
    assert report.fell_back is None
    assert report.index_recall >= 0.9
    values = [point.value for point in report.frontier]
    assert values == [2**step for step in range(len(values))]
    assert len(values) > 1
    assert all(point.index_recall < 0.9 for point in report.frontier[:-1])
    assert isinstance(index, FaissIndex)
    assert index.parameter_value == values[-1]
    exact = ExactIndex()
    exact.build(vectors)
    again = index_recall(index.search(queries, 10, seen), exact.search(queries, 10, seen)).mean()
    assert float(again) == pytest.approx(report.index_recall)
    told = report.to_dict()
    json.dumps(told)
    assert told["index_recall@10"] == report.index_recall
    assert {"kind", "factory", "queries_per_s", "memory_bytes", "build_s", "frontier"} <= set(told)


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
    assert "factory reached" in (report.fell_back or "")
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
    assert choose_kind("auto", 100_001) == "hnsw"
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
    for kind in ("flat", "hnsw", "ivf"):
        with pytest.raises(ConfigError, match=r"xclass\[cpu\]"):
            build_index(vectors, IndexConfig(kind=kind))
    assert choose_kind("auto", 10**7) == "exact"
    assert len(build_index(vectors).search(queries, 5)) == 5


@pytest.mark.parametrize("kind", ["exact", "flat", "hnsw", "ivf"])
def test_saved_and_loaded_is_the_same_index(kind: str, tmp_path: Path) -> None:
    vectors, queries = problem(400)
    index = build_index(vectors, IndexConfig(kind=kind))
    if isinstance(index, FaissIndex) and index.parameter:
        index.set_search_parameter(37)
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
    index.set_search_parameter(1)
    index.search(queries, 50, Ragged.from_lists([list(range(60)), [], [5]]))
    assert index.parameter_value == 1
    import faiss

    assert faiss.extract_index_ivf(index.faiss).nprobe == 1


def test_one_heavy_user_does_not_widen_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, queries = problem(3000, 64)
    index = FaissIndex("flat")
    index.build(vectors)
    asked: list[tuple[int, int]] = []
    original = index.faiss.search
    monkeypatch.setattr(index.faiss, "search", lambda x, k, params: asked.append((len(x), k)) or original(x, k))
    index.search(queries, 10, Ragged.from_lists([list(range(1000)), [1, 2, 3], *([[]] * 62)]))
    assert sorted(asked) == [(1, 14), (1, 1034), (62, 10)]
