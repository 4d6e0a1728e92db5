"""Trees, paths and searches against slow references."""

from __future__ import annotations

import heapq
import importlib
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from xclass.embeddings import MemoryTable, TableOptions
from xclass.errors import InputError
from xclass.heads import HierarchicalHead, Tree, balanced_tree, huffman_tree
from xclass.heads.tree import clustering
from xclass.heads.tree.clustering import clustered_leaves, feature_vectors
from xclass.heads.tree.path_loss import path_loss
from xclass.runtime.rng import torch_generator
from xclass.types import Ragged


def codes(tree: Tree) -> list[list[tuple[int, int]]]:
    """(inner node, child) from the root to every leaf, by going down from the root."""
    found: list[list[tuple[int, int]]] = [[] for _ in range(tree.num_leaves)]

    def visit(node: int, way: list[tuple[int, int]]) -> None:
        if node < tree.num_leaves:
            found[node] = way
            return
        inner = node - tree.num_leaves
        below = tree.children[tree.offsets[inner] : tree.offsets[inner + 1]].tolist()
        for turn, child in enumerate(below):
            visit(child, [*way, (inner, turn)])

    visit(tree.num_leaves, [])
    return found


def huffman_cost(counts: list[int], arity: int) -> int:
    """Σ count · code length of an optimal code, by a heap; empty leaves fill the first merge up."""
    heap = [*counts, *[0] * (-(len(counts) - 1) % (arity - 1))]
    heapq.heapify(heap)
    total = 0
    while len(heap) > 1:
        merged = sum(heapq.heappop(heap) for _ in range(arity))
        total += merged
        heapq.heappush(heap, merged)
    return total


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=60), st.integers(2, 6))
def test_huffman_codes_are_as_short_as_any(counts: list[int], arity: int) -> None:
    tree = huffman_tree(torch.tensor(counts), arity)
    lengths = [len(code) for code in codes(tree)]
    assert lengths == tree.lengths().tolist()
    assert sum(count * length for count, length in zip(counts, lengths, strict=True)) == huffman_cost(counts, arity)


@pytest.mark.parametrize("size", [2, 100, 5000])
def test_huffman_code_lengths_against_the_entropy(size: int) -> None:
    counts = (1e6 / torch.arange(1, size + 1)).long()
    share = counts.double() / counts.sum()
    entropy = float(torch.special.entr(share).sum() / math.log(2))
    mean = float((share * huffman_tree(counts, 2).lengths()).sum())
    assert entropy <= mean + 1e-9 and mean < entropy + 1


@given(st.integers(2, 300), st.integers(2, 9))
def test_balanced_trees_are_balanced(size: int, arity: int) -> None:
    tree = balanced_tree(size, arity)
    lengths = tree.lengths()
    assert lengths.tolist() == [len(code) for code in codes(tree)]
    assert int(lengths.max()) <= math.ceil(math.log(size, arity) - 1e-9)
    assert int(lengths.max() - lengths.min()) <= 1


@given(st.integers(2, 80), st.integers(2, 6), st.booleans())
def test_every_vector_belongs_to_one_choice(size: int, arity: int, huffman: bool) -> None:
    tree = huffman_tree(torch.arange(size), arity) if huffman else balanced_tree(size, arity)
    paths = tree.paths(torch.arange(size))
    used = dict(zip(paths.first.tolist(), paths.number.tolist(), strict=True))
    vectors = [place for first, count in used.items() for place in range(first, first + count)]
    assert sorted(vectors) == list(range(size - 1))


def test_paths_are_the_ways_from_the_root() -> None:
    tree = huffman_tree(torch.tensor([9, 5, 5, 3, 1, 0, 0, 0, 7]), 3)
    leaves = torch.tensor([4, 0, 8, 4])
    paths, ways = tree.paths(leaves), codes(tree)
    for p, leaf in enumerate(leaves.tolist()):
        steps = slice(int(paths.offsets[p]), int(paths.offsets[p + 1]))
        offset = tree.offsets.long()
        wanted = [(int(offset[inner]) - inner, turn) for inner, turn in reversed(ways[leaf])]
        assert list(zip(paths.first[steps].tolist(), paths.which[steps].tolist(), strict=True)) == wanted


def test_compiled_trees_and_paths_are_the_plain_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    counts, leaves = (1e5 / torch.arange(1, 501)).long(), torch.tensor([3, 499, 3, 0])
    found = []
    for compiled in (True, False):
        monkeypatch.setattr(
            importlib.import_module("xclass.heads.tree.tree"), "compiles", lambda compiled=compiled: compiled
        )
        tree = huffman_tree(counts, 3)
        found.append([tree.offsets, tree.children, tree.parent, tree.place, *tree.paths(leaves)])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_the_compiled_loss_is_the_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    generator = torch_generator(0, "test")
    tree = huffman_tree((1e4 / torch.arange(1, 61)).long(), 4)
    offsets, leaves = torch.tensor([0, 2, 2, 7]), torch.randint(60, (7,), generator=generator)
    paths, share = tree.paths(leaves), torch.rand(7, generator=generator)
    results = []
    for compiled in (True, False):
        monkeypatch.setattr(
            importlib.import_module("xclass.heads.tree.path_loss"), "compiles", lambda compiled=compiled: compiled
        )
        query = torch.randn(3, 9, generator=torch_generator(1, "test")).requires_grad_(True)
        rows = torch.randn(59, 9, generator=torch_generator(2, "test")).requires_grad_(True)
        loss = path_loss(query, rows, offsets, paths, paths.vectors(3), share)
        for upstream in (torch.ones(3), torch.tensor([1.0, 2.0, 3.0])):
            gradients = torch.autograd.grad(loss, (query, rows), upstream, retain_graph=True)
            results.append([loss.detach(), *gradients])
    for one, other in zip(results[:2], results[2:], strict=True):
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_narrow_beam_may_miss_and_an_exact_search_does_not() -> None:
    head, tables, query = _searched(beam=1)
    whole = head.log_probability(query, Ragged(torch.arange(9) * 200, torch.arange(200).repeat(8)), tables).view(8, 200)
    best = whole.argmax(1)
    narrow = head.topk(query, 1, tables).ids
    assert torch.equal(head.topk(query, 1, tables, exact=True).ids, best)
    assert 0 < int((narrow == best).sum()) < 8
    wide = _searched(beam=200)[0]
    assert torch.equal(wide.topk(query, 1, tables).ids, best)


@pytest.mark.parametrize("arity", [2, 5])
@pytest.mark.parametrize("exact", [False, True])
def test_the_compiled_search_is_the_plain_one(arity: int, exact: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    head = HierarchicalHead(huffman_tree(torch.arange(300, 0, -1), arity), 6, torch.arange(299, -1, -1), beam=6)
    tables = {"node": MemoryTable(299, 6, None, TableOptions(init_std=1.0, seed=1))}
    query = torch.randn(40, 6, generator=torch_generator(5, "test"))
    exclude = Ragged(torch.arange(41) * 9, torch.randint(300, (360,), generator=torch_generator(6, "test")))
    module, allowed, found = importlib.import_module("xclass.heads.tree.beam_search"), torch.arange(0, 300, 2), []
    for compiled in (True, False):
        monkeypatch.setattr(module, "compiles", lambda compiled=compiled: compiled)
        found.append(
            [head.topk(query, 8, tables, lists, some, exact) for lists in (None, exclude) for some in (None, allowed)]
        )
    for one, other in zip(*found, strict=True):
        assert torch.equal(one.offsets, other.offsets) and torch.equal(one.ids, other.ids)
        torch.testing.assert_close(one.scores, other.scores, rtol=1e-4, atol=1e-5)


def test_equal_probabilities_come_by_item_number() -> None:
    query = _searched(beam=4)[2]
    even = HierarchicalHead(balanced_tree(256, 2), 6, torch.arange(255, -1, -1), beam=4)
    zeros = {"node": MemoryTable(255, 6, None)}
    assert even.topk(query, 3, zeros, exact=True).scores.unique().numel() == 1
    assert even.topk(query, 300, zeros, exact=True).ids.view(8, 256).tolist() == [list(range(256))] * 8


def _searched(beam: int) -> tuple[HierarchicalHead, dict[str, MemoryTable], Tensor]:
    head = HierarchicalHead(huffman_tree(torch.arange(200, 0, -1), 2), 6, beam=beam)
    query = torch.randn(8, 6, generator=torch_generator(5, "test"))
    return head, {"node": MemoryTable(199, 6, None, TableOptions(init_std=1.0, seed=1))}, query


@pytest.mark.parametrize("arity", [2, 3, 8])
def test_clusters_share_a_node(arity: int) -> None:
    generator, kinds = torch_generator(0, "test"), torch.arange(320) % 8
    centres = torch.randn(8, 16, generator=generator)
    vectors = centres[kinds] + 0.1 * torch.randn(320, 16, generator=generator)
    leaf_of = clustered_leaves(vectors, arity, 0)
    assert torch.equal(leaf_of.sort().values, torch.arange(320))
    order = torch.empty_like(leaf_of)
    order[leaf_of] = torch.arange(320)
    changes = int((kinds[order].diff() != 0).sum())
    assert changes <= (7 if arity != 3 else 30)
    assert torch.equal(leaf_of, clustered_leaves(vectors, arity, 0))


@pytest.mark.parametrize("arity", [2, 5])
def test_both_forms_make_the_same_clusters(arity: int, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = torch.randn(700, 8, generator=torch_generator(1, "test"))
    vectors[:50] = 0.0  # no nearer to any centre than another
    monkeypatch.setattr(clustering, "PART_ITEMS", 64)
    compiled = clustered_leaves(vectors, arity, 3)
    monkeypatch.setattr(clustering, "compiles", lambda: False)
    assert torch.equal(compiled, clustered_leaves(vectors, arity, 3))


def test_items_with_the_same_features_have_the_same_vector() -> None:
    lists = Ragged(
        torch.tensor([0, 2, 2, 4, 5]), torch.tensor([1, 4, 4, 1, 0]), torch.tensor([1.0, 2.0, 2.0, 1.0, 3.0])
    )
    vectors = feature_vectors(lists, 5, 256, 0)
    torch.testing.assert_close(vectors[0], vectors[2])
    assert float(vectors[1].abs().max()) == 0.0
    assert abs(float(vectors[0] @ vectors[3])) < 0.3 * float(vectors[0].norm() * vectors[3].norm())


def test_what_is_no_tree_is_refused() -> None:
    with pytest.raises(InputError, match="two items"):
        balanced_tree(1, 2)
    with pytest.raises(InputError, match="arity"):
        huffman_tree(torch.tensor([1, 2]), 1)
    with pytest.raises(InputError, match="beam"):
        HierarchicalHead(balanced_tree(4, 2), 2, beam=0)
