"""From vectors and a target to an index: the builds that are tried, what is said, and what is written."""

from __future__ import annotations

import builtins
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from xclass.errors import ConfigError, InputError
from xclass.index import ExactIndex, FaissIndex, IndexConfig, build, find_index, index_recall, load_index, save_index
from xclass.index.build import candidates
from xclass.index.faiss.factory import builds
from xclass.index.tuning import cost
from xclass.index.tuning.cost import expected_cost
from xclass.index.tuning.frontier import frontier_table
from xclass.types import Ragged
from xclass.types.vectors import TensorVectors

pytest.importorskip("faiss")


def problem(num_items: int = 3000, num_queries: int = 100, dim: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(6)
    centres = torch.randn(30, dim, generator=generator)
    which = torch.randint(30, (num_items + num_queries,), generator=generator)
    rows = centres[which] + 0.6 * torch.randn(len(which), dim, generator=generator)
    return rows[:num_items], rows[num_items:]


def test_every_build_of_a_kind_is_tried(capsys: pytest.CaptureFixture[str]) -> None:
    vectors, queries = problem()
    seen = Ragged.from_lists([[1, 2]] * len(queries))
    report = find_index(vectors, IndexConfig(kind="fastscan"), queries, 10, 0.9, seen)
    wanted = builds("fastscan", 3000, 16)
    assert {point.factory for point in report.frontier} == set(wanted) and len(wanted) == 3
    assert report.index.describe()["factory"] in wanted
    exact = ExactIndex()
    exact.build(vectors)
    found = report.index.search(queries, 10, seen)
    assert float(index_recall(found, exact.search(queries, 10, seen)).mean()) == pytest.approx(report.index_recall)
    assert report.index_recall >= 0.9 and report.fell_back is None
    said = capsys.readouterr().err
    assert "3,000 vectors of 16 dimensions, 0 MB" in said
    assert all(f"built {factory} in" in said for factory in wanted)


@pytest.mark.parametrize("kind", ["lsh", "wta", "hnsw", "sq"])
def test_a_kind_reaches_its_target(kind: str) -> None:
    vectors, queries = problem(2000, 60)
    report = find_index(vectors, IndexConfig(kind=kind), queries, 5, 0.9)
    assert (report.index.kind, report.fell_back) == (kind, None)
    assert 0.9 <= report.index_recall <= 1


def test_small_catalogues_are_exact_and_it_is_said() -> None:
    vectors, queries = problem(500, 20)
    report = find_index(vectors, IndexConfig(), queries, 10, 0.95)
    assert (report.index.kind, report.index_recall) == ("exact", 1.0)
    assert "500 items are few" in (report.fell_back or "")
    asked = find_index(vectors, IndexConfig(kind="exact"), queries, 10, 0.95)
    assert (asked.index.kind, asked.fell_back) == ("exact", None)


def test_an_unreachable_target_is_exact_and_it_is_said() -> None:
    vectors, queries = problem(3000, 100)
    report = find_index(vectors, IndexConfig(kind="factory", factory="PQ1x4"), queries, 100, 0.99)
    assert report.index.kind == "exact"
    assert "factory reached 0." in (report.fell_back or "") and "exact search is used" in (report.fell_back or "")
    assert report.to_dict()["frontier"][-1]["kind"] == "exact", "the exact search is on the frontier, too"


def test_auto_tries_the_next_kind_only_where_the_first_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "AUTO_EXACT_ITEMS", 100)
    vectors, queries = problem(1500, 50)
    tried = candidates(IndexConfig(), 1500, 16)
    assert [config.kind for config in tried] == ["fastscan"] * len(builds("fastscan", 1500, 16)) + ["hnsw"] * 2
    easy = find_index(vectors, IndexConfig(), queries, 10, 0.8)
    assert {point.kind for point in easy.frontier} == {"fastscan"}
    monkeypatch.setattr(build, "builds", lambda kind, items, dim: ["PQ1x4"] if kind == "fastscan" else ["HNSW16,Flat"])
    hard = find_index(vectors, IndexConfig(), queries, 100, 0.9)
    assert hard.index.kind == "hnsw" and {point.kind for point in hard.frontier} == {"fastscan", "hnsw"}


def test_few_vectors_are_not_compressed() -> None:
    assert builds("fastscan", 600, 16) == builds("ivf", 600, 16)
    assert builds("ivfpq", 9000, 16) == builds("ivf", 9000, 16)
    assert builds("fastscan", 10**6, 15) == [
        "Spread,IVF4096_HNSW32,PQ15x4fs",
        "Spread,IVF4096,PQ15x4fs",
        "Spread,IVF1024,PQ15x4fs",
        "IVF4096_HNSW32,PQ15x4fs",
    ]
    assert builds("fastscan", 10**6, 128)[-1] == "Spread,IVF4096_HNSW32,PQ64x4fs"
    assert builds("fastscan", 20_000, 16) == ["Spread,IVF512,PQ16x4fs", "Spread,IVF128,PQ16x4fs", "IVF512,PQ16x4fs"]


def test_bad_goals() -> None:
    vectors, queries = problem(60, 5)
    with pytest.raises(InputError, match="target recall"):
        find_index(vectors, IndexConfig(), queries, 10, 0.0)
    with pytest.raises(InputError, match="held-out queries"):
        find_index(vectors, IndexConfig(), queries[:0], 10, 0.9)
    with pytest.raises(InputError, match="item 3 is not finite"):
        find_index(vectors.index_fill(0, torch.tensor([3]), torch.nan), IndexConfig(), queries, 10, 0.9)
    with pytest.raises(ConfigError, match="did you mean"):
        find_index(vectors, IndexConfig(kind="fastcsan"), queries, 10, 0.9)


@pytest.mark.parametrize(
    ("kind", "factory"), [("hnsw", None), ("fastscan", None), ("lsh", "LSH8x6"), ("ivf", "IVF64,Flat")]
)
def test_what_a_build_takes_is_about_what_is_said(
    kind: str, factory: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost, "SAMPLE_ROWS", 2000)
    vectors, _ = problem(8000)
    config = IndexConfig(kind=kind, factory=factory or builds(kind, 8000, 16)[0])
    expected = expected_cost(TensorVectors(vectors), config)
    index = build.built(vectors, config)
    assert expected is not None and expected.build_s > 0 and expected.factory == config.factory
    assert expected.memory_bytes == pytest.approx(index.extra_bytes(), rel=0.35)  # type: ignore[attr-defined]
    assert expected_cost(TensorVectors(vectors[:3000]), config) is None, "a small build is over before it is estimated"


def test_the_frontier_is_written(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    vectors, queries = problem()
    report = find_index(vectors, IndexConfig(kind="ivf"), queries, 10, 0.9)
    save_index(report.index, tmp_path / "index", "run", report.to_dict())
    table = pl.read_parquet(tmp_path / "index" / "frontier.parquet")
    assert table.equals(frontier_table(report.to_dict()["frontier"])) and len(table) == len(report.frontier)
    best = table.filter("optimal").sort("index_recall")
    assert best["queries_per_s"].is_sorted(descending=True) and len(best) >= 1
    assert (tmp_path / "index" / "frontier.png").read_bytes()[:4] == b"\x89PNG"
    loaded = load_index(tmp_path / "index", "run")
    assert isinstance(loaded, FaissIndex) and loaded.parameters == report.index.describe()["search_parameters"]


def test_without_matplotlib_there_is_the_table_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = builtins.__import__

    def without(name: str, *args: Any, **named: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return original(name, *args, **named)

    vectors, queries = problem(300, 10)
    report = find_index(vectors, IndexConfig(kind="ivf"), queries, 5, 0.9)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(builtins, "__import__", without)
    save_index(report.index, tmp_path / "index", "run", report.to_dict())
    assert (tmp_path / "index" / "frontier.parquet").exists() and not (tmp_path / "index" / "frontier.png").exists()
    assert "matplotlib is not installed" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["fastscan", "ivfpq", "sq", "lsh", "wta"])
def test_deterministic_builds_give_the_same_files(kind: str, tmp_path: Path) -> None:
    vectors, _ = problem(1000)
    hashes = []
    for name in "ab":
        index = build.build_index(vectors, IndexConfig(kind=kind, deterministic=True))
        hashes.append(save_index(index, tmp_path / name)["files"])
    assert hashes[0] == hashes[1]
