"""The conformance suite over every registered kind and some factory strings; and that the suite can fail."""

from __future__ import annotations

import pytest
import torch

from xclass.index import INDEX_KINDS, ExactIndex, FaissIndex, Index, IndexConfig, SubsetIndex
from xclass.testing import check_index
from xclass.testing.index import check_against_brute_force
from xclass.types import Ragged, TopK

pytest.importorskip("faiss")

FACTORIES = {"IVF8,SQ8": 0.8, "HNSW16,SQ8": 0.8, "Spread,IVF8_HNSW8,SQ8": 0.8}
COMPRESSED = [
    "PCA12,Flat",
    "IVF4096,PQ4x4fs,RFlat",
    "PQ4x4",
    "IVF8,PQ8x4fs",
    "IVF4,PQ4x8",
    "SQ4",
    "Spread,IVF8,PQ8x4fs",
]
LEAST = {
    "exact": 1.0,
    "flat": 1.0,
    "hnsw": 0.95,
    "ivf": 0.8,
    "ivfpq": 0.8,
    "sq": 0.8,
    "fastscan": 0.8,
    "lsh": 0.8,
    "wta": 0.8,
}


@pytest.mark.parametrize("kind", [kind for kind in INDEX_KINDS if kind != "factory"])
def test_every_kind_keeps_the_contract(kind: str) -> None:
    check_index(lambda: INDEX_KINDS[kind](IndexConfig(kind=kind)), LEAST[kind])


@pytest.mark.parametrize("factory", FACTORIES)
def test_factory_strings_keep_the_contract(factory: str) -> None:
    config = IndexConfig(kind="factory", factory=factory)
    check_index(lambda: INDEX_KINDS["factory"](config), FACTORIES[factory])


@pytest.mark.parametrize("factory", COMPRESSED)
def test_compressed_vectors_still_give_true_scores(factory: str) -> None:
    # these need more vectors than the smallest catalogues of the whole suite have
    check_against_brute_force(lambda: FaissIndex("factory", factory), 0.5, seed=0)


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_l2_augmented_keeps_the_contract(kind: str) -> None:
    check_index(lambda: FaissIndex(kind, metric="l2_augmented"), 0.8)


class Spoilt(ExactIndex):
    """An exact index with one fault."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault

    def search(self, query_BD: torch.Tensor, k: int, exclude: Ragged | None = None) -> TopK:
        found = super().search(query_BD, k, None if self.fault == "ignores exclusions" else exclude)
        if self.fault == "repeats" and len(found.ids) > 1:
            found.ids[1] = found.ids[0]
        if self.fault == "distances" and len(found.ids):
            found.scores.mul_(-2.0)
        if self.fault == "padding" and len(found.ids):
            found.ids[-1] = -1
        if self.fault == "worst first":
            return TopK(found.offsets, found.ids.flip(0), found.scores.flip(0))
        if self.fault == "too short":
            return found.head(max(k - 1, 1))
        return found


@pytest.mark.parametrize("fault", ["ignores exclusions", "repeats", "distances", "padding", "worst first", "too short"])
def test_the_suite_finds_a_fault(fault: str) -> None:
    with pytest.raises(AssertionError):
        check_index(lambda: Spoilt(fault))


def test_the_suite_passes_without_a_fault() -> None:
    check_index(lambda: Spoilt("none"), 1.0)


def test_a_subset_of_everything_is_the_whole() -> None:
    vectors = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    queries = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    whole: Index = ExactIndex()
    whole.build(vectors)
    found = SubsetIndex(whole, torch.arange(30)).search(queries, 7, Ragged.from_lists([[1], [], [2, 3], [], []]))
    wanted = whole.search(queries, 7, Ragged.from_lists([[1], [], [2, 3], [], []]))
    assert torch.equal(found.ids, wanted.ids)
    assert torch.equal(found.scores, wanted.scores)
