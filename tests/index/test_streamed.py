"""Vectors as a source, read block by block: the same answers as from a matrix, and never more than a block of it."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xclass.embeddings import MemoryTable, TableOptions
from xclass.errors import InputError
from xclass.heads.item_vectors import ItemVectors
from xclass.index import ExactIndex, IndexConfig, SubsetIndex, build_index, exact, index_recall, save_index
from xclass.index.faiss import index as faiss_index
from xclass.index.storage import VECTORS, laid_out, load_index, vectors_digest
from xclass.optim import RowAdaGrad
from xclass.towers import Projection
from xclass.types import Ragged, TopK
from xclass.types.vectors import TensorVectors, Vectors, as_vectors


class Watched(Vectors):
    """A matrix behind the seam that notes what is read, and how much of that anybody still holds."""

    def __init__(self, rows: torch.Tensor) -> None:
        self.matrix = rows
        self.largest = self.held = self.most_held = self.reads = 0

    def __len__(self) -> int:
        return len(self.matrix)

    @property
    def dim(self) -> int:
        return self.matrix.shape[1]

    def read(self, start: int, stop: int) -> torch.Tensor:
        block = self.matrix[start:stop].to(torch.float32, copy=True)
        self._note(len(block), block)
        return block

    def take(self, ids: torch.Tensor) -> torch.Tensor:
        return self.matrix[ids].to(torch.float32)

    def _note(self, rows: int, block: torch.Tensor) -> None:
        self.reads += 1
        self.largest, self.held = max(self.largest, rows), self.held + rows
        self.most_held = max(self.most_held, self.held)
        weakref.finalize(block, self._freed, rows)

    def _freed(self, rows: int) -> None:
        self.held -= rows


class Endless(Watched):
    """50 million rows that lie nowhere: a repeated block, with winners planted at the numbers given."""

    def __init__(self, num_rows: int, winners: dict[int, float]) -> None:
        super().__init__(torch.randn(1 << 15, 8, generator=torch.Generator().manual_seed(0)))
        self.num_rows, self.winners = num_rows, winners

    def __len__(self) -> int:
        return self.num_rows

    def read(self, start: int, stop: int) -> torch.Tensor:
        block = self.matrix[: stop - start].clone()
        for item, score in self.winners.items():
            if start <= item < stop:
                block[item - start] = score
        self._note(stop - start, block)
        return block


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def problem(seed: int, num_items: int, num_queries: int, longest: int) -> tuple[torch.Tensor, torch.Tensor, Ragged]:
    """Small whole numbers: products are exact whatever the cut of the blocks, and ties are everywhere."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randint(-3, 4, (num_items, 3), generator=generator).float()
    queries = torch.randint(-3, 4, (num_queries, 3), generator=generator).float()
    lists = [torch.randint(num_items, (longest,), generator=generator).tolist() for _ in range(num_queries)]
    return vectors, queries, Ragged.from_lists(lists)


def built(vectors: torch.Tensor | Vectors) -> ExactIndex:
    index = ExactIndex()
    index.build(vectors)
    return index


def slow_lists(vectors: torch.Tensor, queries: torch.Tensor, k: int, exclude: Ragged | None) -> list[list[int]]:
    scores = queries.double() @ vectors.double().T
    hidden = [set()] * len(queries) if exclude is None else [set(row) for row in exclude.to_lists()]
    found = []
    for row, gone in zip(scores.tolist(), hidden, strict=True):
        left = [item for item in range(len(vectors)) if item not in gone]
        found.append(sorted(left, key=lambda item: (-row[item], item))[:k])
    return found


def same(found: TopK, wanted: TopK) -> bool:
    return all(torch.equal(getattr(found, name), getattr(wanted, name)) for name in ("offsets", "ids", "scores"))


def searched(vectors: torch.Tensor | Vectors, queries: torch.Tensor, k: int, exclude: Ragged | None) -> TopK:
    index = ExactIndex()
    index.build(vectors)
    return index.search(queries, k, exclude)


@settings(max_examples=30)
@given(st.integers(0, 2**30), st.integers(1, 200), st.integers(1, 30), st.integers(1, 250), st.sampled_from([0, 3, 60]))
def test_a_source_gives_the_lists_of_a_matrix(seed: int, items: int, queries: int, k: int, longest: int) -> None:
    """Blocks of 16 in sweeps of 48, groups of 4 queries; k beyond the catalogue, ties, everything excluded."""
    vectors, asked, lists = problem(seed, items, queries, longest)
    exclude = lists if longest else None
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"SWEEP_ITEMS": 48, "BLOCK_ITEMS": 16, "BLOCK_SCORES": 64, "MOST_CANDIDATES": 3000}.items():
            patch.setattr(exact, name, value)
        wanted = searched(vectors, asked, k, exclude)
        assert same(searched(Watched(vectors), asked, k, exclude), wanted)
        assert same(searched(vectors.bfloat16(), asked, k, exclude), wanted)
    assert Ragged(wanted.offsets, wanted.ids).to_lists() == slow_lists(vectors, asked, k, exclude)


@pytest.mark.usefixtures("two_threads")
def test_threads_give_the_same_lists() -> None:
    vectors, asked, exclude = problem(5, 9000, 37, 40)
    found = searched(Watched(vectors), asked, 20, exclude)
    assert Ragged(found.offsets, found.ids).to_lists() == slow_lists(vectors, asked, 20, exclude)
    with pytest.raises(InputError, match="item 8999 is not finite"):
        searched(Watched(torch.cat([vectors[:-1], torch.full((1, 3), torch.nan)])), asked, 5, None)


def test_one_sweep_serves_all_queries() -> None:
    source = Watched(torch.randn(10_000, 4, generator=torch.Generator().manual_seed(1)))
    index = ExactIndex()
    index.build(source)
    source.reads = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "SWEEP_ITEMS", 1000)
        index.search(torch.randn(3000, 4, generator=torch.Generator().manual_seed(2)), 10)
    assert source.reads == 10, "each of ten blocks once, for 3000 queries in six groups"


def test_fifty_million_rows_are_never_there_at_once() -> None:
    winners = {3: 50.0, (1 << 15) - 1: 20.0, 1 << 15: 30.0, 49_999_999: 40.0}
    source = Endless(50_000_000, winners)
    found = searched(source, torch.ones(2, 8), 4, Ragged.from_lists([[], [3]]))
    lists = Ragged(found.offsets, found.ids).to_lists()
    assert lists[0] == [3, 49_999_999, 1 << 15, (1 << 15) - 1]
    assert lists[1][:3] == [49_999_999, 1 << 15, (1 << 15) - 1]
    assert len(lists[1]) == 4
    assert source.largest <= exact.SWEEP_ITEMS
    assert source.most_held <= 2 * exact.SWEEP_ITEMS


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("hidden", [[], [8]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_table_is_projected_as_it_is_read(normalize: bool, hidden: list[int], dtype: torch.dtype) -> None:
    table = MemoryTable(500, 6, RowAdaGrad(), TableOptions(0.3, seed=7, dtype=dtype))
    generator = torch.Generator().manual_seed(2)
    projection = Projection(6, hidden, normalize, generator)
    for parameter in projection.parameters():
        parameter.data.normal_(generator=generator)
    vectors = ItemVectors(table, projection)
    with torch.no_grad():
        whole = projection(table.weight.float())
    torch.testing.assert_close(vectors.tensor(), whole, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(vectors.read(37, 301), whole[37:301], rtol=1e-5, atol=1e-6)
    ids = torch.tensor([499, 0, 0, 37])
    torch.testing.assert_close(vectors.take(ids), whole[ids], rtol=1e-5, atol=1e-6)
    assert not vectors.read(0, 3).requires_grad
    assert (len(vectors), vectors.dim, vectors.nbytes) == (500, 6, table.weight.nbytes)
    asked = torch.randn(9, 6, generator=generator)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "SWEEP_ITEMS", 100)
        found, wanted = searched(vectors, asked, 12, None), searched(whole, asked, 12, None)
    assert float(index_recall(found, wanted).mean()) == 1.0
    torch.testing.assert_close(found.scores, wanted.scores, rtol=1e-5, atol=1e-5)
    if dtype == torch.float32 and not normalize and not hidden:
        assert vectors.tensor().data_ptr() == table.weight.data_ptr(), "nothing is copied where nothing changes"


def test_a_pushed_row_is_read_anew() -> None:
    table = MemoryTable(20, 4, RowAdaGrad(), TableOptions(0.3))
    index = ExactIndex()
    index.build(ItemVectors(table, Projection(4, [], True, torch.Generator())))
    table.push(torch.tensor([11]), -100 * torch.ones(1, 4), 10.0)
    assert index.search(torch.ones(1, 4), 1).ids.tolist() == [11]


def test_a_block_of_projection_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    table = MemoryTable(70_000, 2, None, TableOptions(0.3))
    largest, original = 0, MemoryTable.read

    def watched(self: MemoryTable, start: int, stop: int) -> torch.Tensor:
        nonlocal largest
        largest = max(largest, stop - start)
        return original(self, start, stop)

    monkeypatch.setattr(MemoryTable, "read", watched)
    vectors = ItemVectors(table, Projection(2, [], True, torch.Generator()))
    assert len(vectors.read(0, 70_000)) == 70_000
    assert 0 < largest <= 1 << 14


@pytest.mark.parametrize("config", [{"kind": "flat"}, {"kind": "ivf"}, {"kind": "flat", "metric": "l2_augmented"}])
def test_faiss_is_filled_in_blocks(config: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    generator = torch.Generator().manual_seed(4)
    vectors, asked = torch.randn(3000, 8, generator=generator), torch.randn(20, 8, generator=generator)
    wanted = build_index(vectors, IndexConfig(**config)).search(asked, 10)
    monkeypatch.setattr(faiss_index, "ADD_BYTES", 4 * 8 * 700)
    source = Watched(vectors)
    found = build_index(source, IndexConfig(**config)).search(asked, 10)
    assert torch.equal(found.ids, wanted.ids)
    torch.testing.assert_close(found.scores, wanted.scores, rtol=1e-6, atol=1e-6)  # a compiled and a plain sum
    assert source.most_held < 2 * 3000


def test_training_of_faiss_takes_a_sample_of_a_large_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    monkeypatch.setattr(faiss_index, "TRAIN_ROWS", 1000)
    monkeypatch.setattr(faiss_index, "TRAIN_ROWS_PER_LIST", 1)
    vectors = torch.randn(5000, 8, generator=torch.Generator().manual_seed(4))
    rows = faiss_index._training_rows(TensorVectors(vectors), 4)
    assert torch.equal(rows, vectors[::5])
    assert torch.equal(faiss_index._training_rows(TensorVectors(vectors), 9000), vectors)
    index = build_index(Watched(vectors), IndexConfig(kind="ivf"))
    truth = searched(vectors, vectors[:50], 5, None)
    assert float(index_recall(index.search(vectors[:50], 5), truth).mean()) > 0.6


@pytest.mark.parametrize("kind", ["exact", "flat"])
def test_a_saved_index_is_written_block_by_block(kind: str, tmp_path: Path) -> None:
    if kind == "flat":
        pytest.importorskip("faiss")
    vectors = torch.randn(300, 8, generator=torch.Generator().manual_seed(6)).bfloat16()
    source = Watched(vectors)
    manifest = save_index(build_index(source, IndexConfig(kind=kind)), tmp_path / "index")
    stored = np.load(tmp_path / "index" / VECTORS)
    assert stored.dtype == np.float32
    assert np.array_equal(stored, vectors.float().numpy())
    assert manifest["vectors_sha256"] == vectors_digest(vectors) == vectors_digest(vectors.float())
    asked = torch.randn(5, 8, generator=torch.Generator().manual_seed(7))
    wanted = searched(vectors, asked, 6, None)
    alone, bound = load_index(tmp_path / "index"), load_index(tmp_path / "index", vectors=source)
    for index in (alone, bound):
        assert float(index_recall(index.search(asked, 6), wanted).mean()) == 1.0
    assert (bound.vectors is source) == (kind == "exact"), "a run's own vectors serve, not a second copy"
    assert load_index(tmp_path / "index", vectors=vectors).vectors.in_memory() is not None


def test_computed_vectors_are_laid_out(tmp_path: Path) -> None:
    rows = torch.randn(300, 8, generator=torch.Generator().manual_seed(6))
    matrix = TensorVectors(rows.bfloat16())
    assert laid_out(matrix, tmp_path) is matrix
    laid = laid_out(Watched(rows), tmp_path)
    assert torch.equal(laid.in_memory(), rows) and torch.equal(laid.read(3, 9), rows[3:9])
    assert list(tmp_path.iterdir()) == []


def test_candidates_of_a_source() -> None:
    vectors, asked, exclude = problem(8, 90, 6, 20)
    chosen = torch.tensor([3, 80, 7, 44, 45])
    found = SubsetIndex(built(Watched(vectors)), chosen).search(asked, 3, exclude)
    assert same(found, SubsetIndex(built(vectors), chosen).search(asked, 3, exclude))
    assert set(found.ids.tolist()) <= set(chosen.tolist())


def test_sources_of_a_matrix() -> None:
    matrix = torch.randn(7, 3, generator=torch.Generator().manual_seed(9))
    source = as_vectors(matrix)
    assert as_vectors(source) is source
    assert source.tensor() is source.rows  # type: ignore[attr-defined]
    assert source.read(2, 5).data_ptr() == matrix[2:].data_ptr(), "a view"
    half = TensorVectors(matrix.bfloat16())
    assert half.nbytes == 7 * 3 * 2
    assert half.read(0, 7).dtype == half.tensor().dtype == half.take(torch.tensor([1])).dtype == torch.float32
    assert torch.equal(torch.cat([block for _, block in half.blocks(3)]), half.tensor())
    assert [start for start, _ in half.blocks(3)] == [0, 3, 6]
    with pytest.raises(InputError, match="wrong shape"):
        ExactIndex().build(Watched(torch.empty(0, 4)))
