"""Bags of sparse features: against loops, dropout by its law, and what a tower makes of them."""

import math

import pytest
import torch

from xclass.embeddings import TABLES, TableOptions, plan_rows
from xclass.errors import InputError
from xclass.heads import DotHead
from xclass.losses import LOSSES
from xclass.models.two_tower import TwoTower
from xclass.runtime.rng import torch_generator
from xclass.sampling import AllItems
from xclass.towers import (
    FeatureField,
    FeatureSource,
    HistorySource,
    IdSource,
    ItemFeatures,
    Projection,
    QueryTower,
    bag_shares,
    inverse_frequencies,
)
from xclass.towers.features import drop_features
from xclass.types import Batch, Ragged

LISTS = Ragged.from_lists([[3, 1], [], [3, 3, 0], [2]], [[1.0, 2.0], [], [0.5, 0.5, -1.0], [0.0]])
PLAIN = Ragged(LISTS.offsets, LISTS.values)


def generator(purpose="test"):
    return torch_generator(0, purpose)


def slow_bag(features, weights, combiner, table):
    """One bag in Python floats."""
    size = {"sum": 1.0, "mean": sum(map(abs, weights)), "sqrtn": math.sqrt(sum(w * w for w in weights))}[combiner]
    vector = [0.0] * table.shape[1]
    for feature, weight in zip(features, weights, strict=True):
        for d in range(table.shape[1]):
            vector[d] += weight / (size or 1.0) * float(table[feature, d])
    return vector


def table_of(rows):
    return TABLES["device"](len(rows), rows.shape[1], None, TableOptions(rows=rows))


def vectors(tower, tables, batch):
    model = TwoTower(tower, DotHead(AllItems(2), LOSSES["full-softmax"], Projection(3, (), False, generator())), tables)
    return model.query_vectors(batch)


def batch_of(lists, **more):
    empty = Ragged(torch.zeros(len(lists) + 1, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))
    return Batch(torch.arange(len(lists)), empty, features={"text": lists} | more)


@pytest.mark.parametrize("combiner", ["sum", "mean", "sqrtn"])
@pytest.mark.parametrize("lists", [LISTS, PLAIN], ids=["weighted", "plain"])
def test_a_bag_equals_the_loop(combiner, lists):
    rows = torch.randn(4, 3, generator=generator())
    tower = QueryTower(
        [FeatureSource(FeatureField("text", "feature.text", combiner))], Projection(3, (), False, generator())
    )
    got = vectors(tower, {"feature.text": table_of(rows)}, batch_of(lists))
    weights = [1.0] * 6 if lists.weights is None else lists.weights.tolist()
    expected = [
        slow_bag(lists.values[a:b].tolist(), weights[a:b], combiner, rows) for a, b in ((0, 2), (2, 2), (2, 5), (5, 6))
    ]
    torch.testing.assert_close(got, torch.tensor(expected))


def test_sqrtn_has_unit_length_and_mean_sums_to_one():
    for combiner, power in (("sqrtn", 2), ("mean", 1)):
        shares = bag_shares(LISTS, combiner)
        sizes = torch.zeros(4).index_add_(0, LISTS.rows(), shares.abs() ** power)
        assert sizes.tolist() == pytest.approx([1.0, 0.0, 1.0, 0.0])


def test_weightings_multiply_by_idf():
    idf = inverse_frequencies(torch.tensor([9, 0, 4, 1]), 9)
    assert idf.tolist() == pytest.approx([1.0, 1 + math.log(10), 1 + math.log(2), 1 + math.log(5)])
    lists = Ragged.from_lists([[0, 1, 3]], [[2.0, -1.0, 0.0]])
    by_idf = FeatureField("f", "t", weighting="idf", idf=idf).weighed(lists)
    assert by_idf.weights.tolist() == pytest.approx([2.0, -(1 + math.log(10)), 0.0])
    by_tf = FeatureField("f", "t", weighting="tf-idf", idf=idf).weighed(lists)
    assert by_tf.weights.tolist() == pytest.approx([math.log(3), -math.log(2) * (1 + math.log(10)), 0.0])
    plain = FeatureField("f", "t", weighting="tf-idf", idf=idf).weighed(Ragged(lists.offsets, lists.values))
    assert plain.weights.tolist() == pytest.approx(idf[[0, 1, 3]].tolist())
    with pytest.raises(InputError, match="idf"):
        FeatureField("f", "t", weighting="idf")


def test_dropout_leaves_each_feature_out_with_its_chance_and_no_list_empty():
    lists = Ragged.from_lists([list(range(50)), [], [7]], [[1.0] * 50, [], [2.0]])
    many = [drop_features(lists, 0.3, "sum", torch_generator(seed, "drop")) for seed in range(200)]
    kept = torch.tensor([part.lengths().tolist() for part in many])
    assert float(kept[:, 0].float().mean()) == pytest.approx(35.0, abs=1.0)
    assert set(kept[:, 1].tolist()) == {0} and set(kept[:, 2].tolist()) == {1}
    assert {round(float(part.weights[-1]), 4) for part in many} == {2.0, round(2 / 0.7, 4)}, (
        "not scaled if it stays whole"
    )
    totals = torch.tensor([float(part.weights[:-1].sum()) for part in many])
    assert float(totals.mean()) == pytest.approx(50.0, abs=1.5)
    halved = drop_features(lists, 0.3, "sqrtn", generator())
    assert set(halved.weights.tolist()) == {1.0, 2.0}


def test_dropout_is_the_training_steps_alone_and_depends_on_its_generator():
    field = FeatureField("text", "feature.text", dropout=0.5)
    tower = QueryTower([FeatureSource(field)], Projection(3, (), False, generator()))
    rows = torch.randn(40, 3, generator=generator())
    tables = {"feature.text": table_of(rows), "item": table_of(torch.zeros(2, 3))}
    model = TwoTower(tower, DotHead(AllItems(2), LOSSES["full-softmax"], Projection(3, (), False, generator())), tables)
    lists = Ragged.from_lists([list(range(40))])
    batch = Batch(torch.tensor([0]), Ragged.from_lists([[]]), Ragged.from_lists([[1]]), features={"text": lists})
    first, again, other = (model.prepare(batch, torch_generator(seed, "step")) for seed in (1, 1, 2))
    asked = [prepared.row_plans["feature.text"].unique.tolist() for prepared in (first, again, other)]
    assert asked[0] == asked[1] != asked[2] and 5 < len(asked[0]) < 35
    torch.testing.assert_close(model.query_vectors(batch), slow_mean(rows).unsqueeze(0))


def slow_mean(rows):
    return rows.sum(0) / math.sqrt(len(rows))


def test_fields_have_tables_of_their_own_and_are_added():
    fields = [FeatureField("text", "feature.text"), FeatureField("tags", "feature.tags", "mean")]
    tower = QueryTower([FeatureSource(field) for field in fields], Projection(3, (), False, generator()))
    text, tags = torch.randn(4, 3, generator=generator("text")), torch.randn(2, 3, generator=generator("tags"))
    batch = batch_of(LISTS, tags=Ragged.from_lists([[1], [0, 1], [], []]))
    got = vectors(tower, {"feature.text": table_of(text), "feature.tags": table_of(tags)}, batch)
    own = QueryTower([FeatureSource(fields[0])], Projection(3, (), False, generator()))
    alone = vectors(own, {"feature.text": table_of(text)}, batch)
    torch.testing.assert_close(got - alone, torch.stack([tags[1], tags.mean(0), *torch.zeros(2, 3)]))
    assert set(tower.tables) == {"feature.text", "feature.tags"}


def test_a_missing_field_is_named():
    tower = QueryTower([FeatureSource(FeatureField("text", "feature.text"))], Projection(3, (), False, generator()))
    batch = Batch(torch.tensor([0]), Ragged.from_lists([[]]), features={"tags": Ragged.from_lists([[0]])})
    with pytest.raises(InputError, match='no features "text"') as error:
        tower.requests(batch)
    assert error.value.got == "tags"


def test_new_queries_are_embedded_by_features_alone():
    tower = QueryTower(
        [IdSource(), HistorySource("history"), FeatureSource(FeatureField("text", "feature.text"))],
        Projection(3, (), False, generator()),
    )
    tower.check_new_queries()
    assert tower.uses_features
    rows = torch.randn(4, 3, generator=generator())
    tables = {
        "query": table_of(torch.ones(4, 3)),
        "history": table_of(torch.ones(4, 3)),
        "feature.text": table_of(rows),
    }
    batch = Batch(torch.tensor([-1]), Ragged.from_lists([[]]), features={"text": LISTS.slice(3, 4)})
    assert not float(vectors(tower, tables, batch).abs().sum())
    batch = Batch(torch.tensor([-1]), Ragged.from_lists([[]]), features={"text": PLAIN.slice(3, 4)})
    torch.testing.assert_close(vectors(tower, tables, batch)[0], rows[2])


class Problem:
    """Two fields of items, one of them over the queries' table; targets and negatives of three queries."""

    def __init__(self, item_rows=True, dropout=0.0, hidden=()):
        rand = generator("problem")
        self.tables = {
            "feature.text": TABLES["device"](6, 3, None, TableOptions(0.5, 1)),
            "item_feature.tags": TABLES["device"](3, 3, None, TableOptions(0.5, 2)),
            "item": TABLES["device"](5, 3, None, TableOptions(0.5, 3)),
        }
        if not item_rows:
            del self.tables["item"]
        lists = {
            "text": Ragged.from_lists([[0, 5], [1], [], [2, 2], [4]], [[1.0, 2.0], [3.0], [], [1.0, 1.0], [0.5]]),
            "tags": Ragged.from_lists([[0], [1, 2], [], [2], [0]]),
        }
        fields = (
            FeatureField("text", "feature.text", dropout=dropout),
            FeatureField("tags", "item_feature.tags", "mean"),
        )
        self.lists, self.projection = lists, Projection(3, hidden, False, rand)
        if hidden:
            torch.nn.init.normal_(self.projection.mlp[-1].weight, generator=rand)
        self.head = DotHead(
            AllItems(5),
            LOSSES["full-softmax"],
            self.projection,
            remove_known_positives=False,
            features=ItemFeatures(fields, lists),
            item_rows=item_rows,
        )
        tower = QueryTower([FeatureSource(FeatureField("text", "feature.text"))], Projection(3, (), False, rand))
        self.model = TwoTower(tower, self.head, self.tables)
        queries = Ragged.from_lists([[0, 1], [3], [5]])
        positives = Ragged.from_lists([[1], [4, 0], [2]])
        self.batch = Batch(
            torch.arange(3), Ragged.from_lists([[], [], []]), positives, positives, features={"text": queries}
        )

    def item_vectors(self):
        """By hand."""
        text, tags = self.tables["feature.text"].weight, self.tables["item_feature.tags"].weight
        found = torch.zeros(5, 3)
        for item in range(5):
            for name, table, combiner in (("text", text, "sqrtn"), ("tags", tags, "mean")):
                part = self.lists[name].slice(item, item + 1)
                weights = [1.0] * len(part.values) if part.weights is None else part.weights.tolist()
                found[item] += torch.tensor(slow_bag(part.values.tolist(), weights, combiner, table))
        return found + self.tables["item"].weight if "item" in self.tables else found


@pytest.mark.parametrize("item_rows", [True, False])
@pytest.mark.parametrize("hidden", [(), (4,)])
def test_item_vectors_are_rows_plus_bags_however_they_are_read(item_rows, hidden):
    problem = Problem(item_rows, hidden=hidden)
    source, expected = problem.model.item_vectors(), problem.projection(problem.item_vectors())
    assert len(source) == 5 and source.dim == 3 and source.in_memory() is None and source.nbytes > 0
    torch.testing.assert_close(source.tensor(), expected)
    torch.testing.assert_close(source.read(2, 5), expected[2:])
    torch.testing.assert_close(source.take(torch.tensor([4, 0, 4])), expected[[4, 0, 4]])


def test_blocks_of_items_do_not_change_their_vectors(monkeypatch):
    problem = Problem()
    monkeypatch.setattr("xclass.heads.item_features.BLOCK_ROWS", 2)
    rows = problem.head.item_rows_of(problem.tables)
    torch.testing.assert_close(rows.read(0, 5), problem.item_vectors())
    torch.testing.assert_close(torch.cat(list(rows.blocks())), problem.item_vectors())
    assert [len(part) for part in rows.blocks()] == [2, 2, 1]


@pytest.mark.parametrize("item_rows", [True, False])
def test_a_step_has_the_loss_and_the_gradients_of_the_full_softmax_by_hand(item_rows):
    problem = Problem(item_rows)
    prepared = problem.model.prepare(problem.batch, generator())
    rows = problem.model.pull(prepared.row_plans, requires_grad=True)
    loss = problem.model.loss(prepared, rows)
    loss.sum().backward()

    leaves = {name: table.weight.clone().requires_grad_() for name, table in problem.tables.items()}
    items = torch.stack(
        [
            sum(share * leaves["feature.text"][f] for f, share in bag)
            + sum((leaves["item_feature.tags"][t] / len(tags) for t in tags), torch.zeros(3))
            + (leaves["item"][item] if item_rows else 0)
            for item, (bag, tags) in enumerate(
                [
                    ([(0, 1 / 5**0.5), (5, 2 / 5**0.5)], [0]),
                    ([(1, 1.0)], [1, 2]),
                    ([], []),
                    ([(2, 2 * 0.5**0.5)], [2]),
                    ([(4, 1.0)], [0]),
                ]
            )
            for bag in [bag or [(0, 0.0)]]
        ]
    )
    text = leaves["feature.text"]
    queries = torch.stack([(text[0] + text[1]) / 2**0.5, text[3], text[5]])
    log_p = (queries @ items.T).log_softmax(1)
    expected = torch.stack([-log_p[0, 1], -(log_p[1, 4] + log_p[1, 0]) / 2, -log_p[2, 2]])
    torch.testing.assert_close(loss, expected)
    expected.sum().backward()
    for name, leaf in leaves.items():
        grad = torch.zeros_like(leaf)
        grad[prepared.row_plans[name].unique] = rows[name].values.grad
        torch.testing.assert_close(grad, leaf.grad)


def test_item_features_have_dropout_in_training_only():
    problem = Problem(dropout=0.9)
    asked = {
        tuple(
            problem.model.prepare(problem.batch, torch_generator(seed, "step"))
            .plan.items.features["text"]
            .values.tolist()
        )
        for seed in range(8)
    }
    assert len(asked) > 1
    torch.testing.assert_close(problem.model.item_vectors().tensor(), problem.item_vectors())


def test_items_need_rows_or_features():
    with pytest.raises(InputError, match="neither rows nor features"):
        DotHead(AllItems(2), LOSSES["full-softmax"], Projection(3, (), False, generator()), item_rows=False)


def test_one_table_serves_two_requests():
    plan = plan_rows({"query.text": torch.tensor([3, 1]), "item.text": torch.tensor([1, 0])})
    assert plan.unique.tolist() == [0, 1, 3]
    prepared = Problem().model.prepare(Problem().batch, generator())
    assert set(prepared.row_plans["feature.text"].positions) == {"query.text", "item.text"}
