"""Scorers of sparse features against slow forms, formulas by hand and the problems that they solve."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from xclass.errors import InputError
from xclass.runtime.jit import compiles
from xclass.runtime.rng import numpy_generator, torch_generator
from xclass.scorers import (
    Fusion,
    LinearConfig,
    LinearScorer,
    NeighboursConfig,
    NeighboursScorer,
    Terms,
    choose_weights,
    dual,
    products,
)
from xclass.scorers.fusion import Suggestions
from xclass.scorers.linear import mined_negatives
from xclass.scorers.reference import Rows
from xclass.types import Ragged, TopK

DOCUMENTS, FEATURES, ITEMS = 60, 25, 21
needs_numba = pytest.mark.skipif(not compiles(), reason="needs numba: pip install 'xclass[compiled]'")


def ragged(matrix: np.ndarray) -> Ragged:
    """The cells of a matrix that are not 0."""
    lists = [np.flatnonzero(row).tolist() for row in matrix]
    return Ragged.from_lists(lists, [matrix[b, row].tolist() for b, row in enumerate(lists)])


def dense(lists: Ragged, size: int) -> np.ndarray:
    """The other way round."""
    found = np.zeros((len(lists), size), np.float64)
    found[lists.rows().numpy(), lists.values.numpy()] = 1 if lists.weights is None else lists.weights.numpy()
    return found


def problem(seed: int = 0) -> tuple[Ragged, Ragged]:
    """Documents whose features tell of their items, one item without a document, one document without features."""
    generator = numpy_generator(seed, "scorer tests")
    has = generator.random((DOCUMENTS, ITEMS)) < 0.15
    has[:, ITEMS - 1] = False
    words = generator.random((ITEMS, FEATURES)) < 0.2
    counts = generator.poisson(has.astype(float) @ words * 1.5 + 0.1)
    counts[0] = 0
    return ragged(counts.astype(np.float64)), Ragged.from_lists([np.flatnonzero(row).tolist() for row in has])


@pytest.fixture(params=[True, False], ids=["compiled", "plain"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Both forms of every loop."""
    if request.param and not compiles():
        pytest.skip("needs numba")
    monkeypatch.setattr(dual, "compiles", lambda: request.param)
    monkeypatch.setattr(products, "compiles", lambda: request.param)
    return bool(request.param)


def test_terms_by_hand() -> None:
    documents = Ragged.from_lists([[0, 1], [0], [0, 2], []], [[1.0, 3.0], [2.0], [1.0, 0.5], []])
    found = Terms.fit("log-tf-idf", documents, 4)(documents)
    first, second = math.log(4 / 3), (1 + math.log(3)) * math.log(4)
    length = math.hypot(first, second)
    assert found.weights is not None
    assert found.weights[:2].tolist() == pytest.approx([first / length, second / length])
    assert found.weights[2].item() == pytest.approx(1.0)
    plain = Terms.fit("tf-idf", documents, 4)(documents)
    assert plain.weights is not None
    assert plain.weights[1].item() / plain.weights[0].item() == pytest.approx(3 * math.log(4) / first)
    given = Terms.fit("given", documents, 4)(documents)
    assert given.weights is not None and given.weights.tolist() == [1.0, 3.0, 2.0, 1.0, 0.5]
    unit = Terms.fit("unit", documents, 4)(documents)
    assert unit.weights is not None and unit.weights[:2].tolist() == pytest.approx([1 / 10**0.5, 3 / 10**0.5])


def test_terms_leave_out_what_train_does_not_number() -> None:
    terms = Terms.fit("unit", Ragged.from_lists([[0], [1]], [[1.0], [1.0]]), 2)
    found = terms(Ragged.from_lists([[1, 7], [9]], [[2.0, 5.0], [1.0]]))
    assert found.to_lists() == [[1], []] and found.weights is not None and found.weights.tolist() == [1.0]


@pytest.mark.parametrize("negatives", ["all", "mined"])
def test_weights_solve_the_problem(negatives: str) -> None:
    """The gradient of ½‖w‖² + C Σ max(0, 1 − y w·x)² is 0 at the weights, over all documents or the item's own list."""
    documents, items = problem()
    config = LinearConfig(cost=0.7, passes=200, tolerance=1e-4, prune=0, negatives=negatives, drawn=500)
    near = NeighboursScorer.fit(NeighboursConfig(k=10), documents, FEATURES, items, ITEMS)
    found = LinearScorer.fit(config, documents, FEATURES, items, ITEMS, near)
    x = np.hstack([dense(found.terms(documents), FEATURES), np.ones((DOCUMENTS, 1))])
    y = np.where(dense(items, ITEMS) > 0, 1.0, -1.0)
    w = np.hstack([dense(weights_of(found), FEATURES), found.bias.numpy()[:, None]])
    against = y < 0
    if negatives == "mined":
        against = dense(mined_negatives(config, documents, items, ITEMS, near, 0), DOCUMENTS).T > 0
    for item in range(ITEMS - 1):
        own = against[:, item] | (y[:, item] > 0)
        slack = np.maximum(1 - y[own, item] * (x[own] @ w[item]), 0)
        gradient = w[item] - 2 * config.cost * (y[own, item] * slack) @ x[own]
        assert np.abs(gradient).max() < DOCUMENTS * 2e-4
    assert not found.trained[ITEMS - 1] and found.weights.offsets[-1] == found.weights.offsets[-2]


def weights_of(found: LinearScorer) -> Ragged:
    rows = found.weights
    return Ragged(*(torch.from_numpy(array) for array in (rows.offsets, rows.features.astype(np.int64), rows.values)))


@needs_numba
@pytest.mark.parametrize("negatives", ["all", "mined"])
@pytest.mark.parametrize("most", [0, 4])
def test_both_forms_give_the_same(monkeypatch: pytest.MonkeyPatch, negatives: str, most: int) -> None:
    documents, items = problem(1)
    config = LinearConfig(negatives=negatives, prune=0.03, max_weights=most, passes=5)
    near = NeighboursScorer.fit(NeighboursConfig(k=10), documents, FEATURES, items, ITEMS)
    found = LinearScorer.fit(config, documents, FEATURES, items, ITEMS, near, seed=3)
    monkeypatch.setattr(dual, "compiles", lambda: False)
    plain = LinearScorer.fit(config, documents, FEATURES, items, ITEMS, near, seed=3)
    assert np.array_equal(found.weights.offsets, plain.weights.offsets)
    assert np.array_equal(found.weights.features, plain.weights.features)
    np.testing.assert_allclose(found.weights.values, plain.weights.values, atol=1e-5)
    torch.testing.assert_close(found.bias, plain.bias, atol=1e-5, rtol=0)
    if most:
        assert np.diff(found.weights.offsets).max() == most


@pytest.mark.parametrize("negatives", ["all", "mined"])
def test_threads_do_not_change_the_bits(negatives: str) -> None:
    documents, items = problem(2)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            near = NeighboursScorer.fit(NeighboursConfig(), documents, FEATURES, items, ITEMS)
            config = LinearConfig(negatives=negatives)
            found.append(LinearScorer.fit(config, documents, FEATURES, items, ITEMS, near, seed=5).tensors())
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_best_products_against_dense(form: bool) -> None:
    documents, _ = problem(3)
    queries = products.rows_of(documents, FEATURES)
    generator = numpy_generator(3, "matrix")
    matrix = np.where(generator.random((40, FEATURES)) < 0.3, generator.normal(size=(40, FEATURES)), 0)
    rows = products.rows_of(ragged(matrix), FEATURES)
    bias = generator.normal(size=40).astype(np.float32)
    allowed, own = generator.random(40) < 0.7, generator.integers(-1, 40, DOCUMENTS)
    asked = Ragged.from_lists([[3, 39, b % 40] for b in range(DOCUMENTS)])
    found, answers = products.best_products(queries, rows.by_feature(), 6, bias, allowed, own, asked)
    scores = dense(documents, FEATURES) @ matrix.T + bias
    np.testing.assert_allclose(answers, scores[asked.rows(), asked.values], atol=1e-4)
    meets = (dense(documents, FEATURES) > 0) @ (matrix != 0).T
    may = meets & allowed & (np.arange(40) != own[:, None])
    for b in range(DOCUMENTS):
        wanted = sorted(np.flatnonzero(may[b]), key=lambda row: -scores[b, row])[:6]
        part = slice(int(found.offsets[b]), int(found.offsets[b + 1]))
        assert found.ids[part].tolist() == wanted
        np.testing.assert_allclose(found.scores[part], scores[b, wanted], atol=1e-4)


def test_equal_products_go_to_the_lower_number(form: bool) -> None:
    rows = products.rows_of(Ragged.from_lists([[0]] * 9, [[1.0]] * 9), 1)
    found, _ = products.best_products(products.rows_of(Ragged.from_lists([[0]], [[1.0]]), 1), rows.by_feature(), 4)
    assert found.ids.tolist() == [0, 1, 2, 3]


def test_sums_and_listed_products(form: bool) -> None:
    lists = Ragged.from_lists([[1, 2], [2], [0, 2]], [[1.0, 2.0], [1.0], [0.5, 1.0]])
    found = TopK(torch.tensor([0, 2, 2, 3]), torch.tensor([2, 0, 1]), torch.tensor([3.0, 1.0, 1.0]))
    summed = products.sum_lists(found, lists, torch.tensor([4.0, 1.0, 2.0]), 3)
    assert dense(summed, 3).tolist() == [[2.0, 1.0, 6.0], [0.0, 0.0, 0.0], [0.0, 0.0, 2.0]]
    queries = products.rows_of(Ragged.from_lists([[0, 2], [1]], [[1.0, 2.0], [3.0]]), 3)
    matrix = products.rows_of(lists, 3)
    got = products.list_products(queries, matrix, np.array([0.0, 1.0, 2.0], "f"), Ragged.from_lists([[2, 0], [0, 1]]))
    assert got.tolist() == [0.5 + 2.0 + 2.0, 4.0, 3.0, 1.0]


def test_neighbours_by_hand(form: bool) -> None:
    """Cosines .6 and .8: votes .36 and .64 at power 2; both have item 1."""
    documents = Ragged.from_lists([[0], [1], [2]], [[1.0], [1.0], [1.0]])
    items = Ragged.from_lists([[0, 1], [1], [3]])
    config = NeighboursConfig(weighting="unit", k=2, power=2)
    scorer = NeighboursScorer.fit(config, documents, 3, items, 4)
    found = scorer.candidates(Ragged.from_lists([[0, 1], []], [[0.6, 0.8], []]))
    assert dense(found, 4)[0].tolist() == pytest.approx([0.36, 1.0, 0.0, 0.0])
    assert found.lengths().tolist() == [2, 0]
    alone = scorer.neighbours(documents, own=torch.arange(3))
    assert alone.lengths().tolist() == [0, 0, 0]


def test_largest_postings_are_kept() -> None:
    documents = Ragged.from_lists([[0, 1], [0], [0]], [[1.0, 9.0], [2.0], [2.0]])
    config = NeighboursConfig(weighting="given", max_postings=2)
    scorer = NeighboursScorer.fit(config, documents, 2, Ragged.from_lists([[0]] * 3), 1)
    assert scorer.postings.features.tolist() == [1, 2, 0]


def test_mined_negatives_are_suggested_and_never_positive() -> None:
    documents, items = problem(4)
    near = NeighboursScorer.fit(NeighboursConfig(k=8), documents, FEATURES, items, ITEMS)
    config = LinearConfig(negatives="mined", mined=5, drawn=0, per_item=7)
    found = mined_negatives(config, documents, items, ITEMS, near, 0)
    has = dense(items, ITEMS) > 0
    suggested = dense(near.candidates(documents, own=torch.arange(DOCUMENTS)), ITEMS)
    for item, rows in enumerate(found.to_lists()):
        assert len(rows) == len(set(rows)) <= 7
        assert not has[rows, item].any() and (suggested[rows, item] > 0).all()
    drawn = mined_negatives(config.model_copy(update={"drawn": 3}), documents, items, ITEMS, near, 0)
    again = mined_negatives(config.model_copy(update={"drawn": 3}), documents, items, ITEMS, near, 0)
    assert torch.equal(drawn.values, again.values) and len(drawn.values) > len(found.values)


def test_fusion_scores_everything_that_anyone_suggests() -> None:
    documents, items = problem(5)
    near = NeighboursScorer.fit(NeighboursConfig(k=6), documents, FEATURES, items, ITEMS)
    linear = LinearScorer.fit(LinearConfig(), documents, FEATURES, items, ITEMS, near)
    found = Fusion(linear, near, 3, ITEMS).suggest(documents)
    scores = dense(linear.terms(documents), FEATURES) @ dense(weights_of(linear), FEATURES).T + linear.bias.numpy()
    rows, values = found.lists.rows().numpy(), found.lists.values.numpy()
    np.testing.assert_allclose(found.scores["linear"], scores[rows, values], atol=1e-5)
    votes = dense(near.candidates(documents), ITEMS)
    np.testing.assert_allclose(found.scores["neighbours"], votes[rows, values], atol=1e-6)
    assert len(found.lists.values) > 3 * DOCUMENTS
    top = found.top({"linear": 1.0, "neighbours": 2.0}, 4)
    total = np.full((DOCUMENTS, ITEMS), -np.inf)
    total[rows, values] = scores[rows, values] + 2 * votes[rows, values]
    for b in range(1, DOCUMENTS):
        assert (
            top.ids[top.offsets[b] : top.offsets[b + 1]].tolist() == np.argsort(-total[b], kind="stable")[:4].tolist()
        )


def test_weights_follow_the_scorer_that_knows() -> None:
    generator = torch_generator(0, "scores")
    lists = Ragged.from_lists([list(range(10))] * 50)
    truth = Ragged.from_lists([[b % 10] for b in range(50)])
    knows = torch.zeros(50, 10)
    knows[torch.arange(50), torch.arange(50) % 10] = 1
    noise = torch.rand(500, generator=generator) * 10
    weights, value = choose_weights([Suggestions(lists, {"noise": noise, "knows": knows.flatten()})], truth)
    assert weights["knows"] == 1 and weights["noise"] == 0
    assert value == pytest.approx((1 + 1 / 3 + 1 / 5) / 3)


def test_shortlist_search_scores_what_neighbours_suggest() -> None:
    documents, items = problem(6)
    near = NeighboursScorer.fit(NeighboursConfig(k=6), documents, FEATURES, items, ITEMS)
    linear = LinearScorer.fit(LinearConfig(search="shortlist"), documents, FEATURES, items, ITEMS, near)
    found = Fusion(linear, near, 2, ITEMS).suggest(documents)
    assert found.lists.lengths().max() == 2
    votes = dense(near.candidates(documents), ITEMS)
    for b, part in enumerate(found.lists.to_lists()):
        assert all((votes[b] > votes[b, item]).sum() < 2 for item in part)


def test_what_is_missing_is_said() -> None:
    documents, items = problem()
    with pytest.raises(InputError, match="differ in number"):
        NeighboursScorer.fit(NeighboursConfig(), documents, FEATURES, items.slice(0, 5), ITEMS)
    with pytest.raises(InputError, match="need neighbours"):
        LinearScorer.fit(LinearConfig(negatives="mined"), documents, FEATURES, items, ITEMS)


def test_rows_transpose() -> None:
    rows = products.rows_of(Ragged.from_lists([[0, 2], [2]], [[1.0, 2.0], [3.0]]), 3)
    turned = rows.by_feature()
    assert isinstance(turned, Rows) and turned.size == 2
    assert np.array_equal(turned.matrix().toarray(), rows.matrix().toarray().T)
