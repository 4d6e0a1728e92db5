"""NCE's normaliser: subtracted from scores, fixed or learned; per-query noise; a tiny problem where the truth is known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from xclass.data.batches import inference_batches
from xclass.data.dataset import Dataset
from xclass.embeddings import plan_rows
from xclass.errors import ConfigError
from xclass.heads import DotHead
from xclass.heads.log_partition import log_normaliser
from xclass.ingest.synthetic.pairs import PlantedModel
from xclass.losses import LOSSES, nce_loss
from xclass.runs.directory import RunDirectory
from xclass.runs.train import resolve_config, train_run
from xclass.runtime.rng import torch_generator
from xclass.sampling import Uniform
from xclass.towers import Projection
from xclass.training.build import build_model
from xclass.types import Batch, Ragged, Rows

N, D, TAU = 20, 5, 0.5
TARGETS = [[3, 4], [0], [], [19]]


def head_of(**settings: Any) -> DotHead:
    projection = Projection(D, (), False, torch_generator(0, "t"))
    sampler = Uniform(N, 6, per_query=settings.pop("per_query", False))
    return DotHead(sampler, LOSSES["nce"], projection, temperature=TAU, remove_known_positives=False, **settings)


def run(head: DotHead) -> tuple[Any, ...]:
    """(loss, plan, query, items) after a backward pass."""
    positives, empty = Ragged.from_lists(TARGETS), Ragged.from_lists([[] for _ in TARGETS])
    batch = Batch(torch.arange(4), empty, positives, positives)
    plan = head.plan(batch, torch_generator(1, "plan"))
    query = torch.randn(4, D, generator=torch_generator(1, "t")).requires_grad_(True)
    items = torch.randn(N, D, generator=torch_generator(2, "t")).requires_grad_(True)
    row_plan = plan_rows(head.requests(batch, plan)["item"])
    loss = head.loss(query, batch, plan, {"item": Rows(items[row_plan.unique], row_plan.positions)})
    loss.sum().backward()
    return loss.detach(), plan, query, items


@pytest.mark.parametrize("per_query", [False, True])
@pytest.mark.parametrize("learned", [False, True])
def test_the_loss_and_all_gradients_are_the_formulas(per_query: bool, learned: bool) -> None:
    head = head_of(log_z=1.7, learn_log_z=learned, per_query=per_query)
    loss, plan, query, items = run(head)
    q, v = query.detach().requires_grad_(True), items.detach().requires_grad_(True)
    log_z, positives = torch.tensor(1.7, requires_grad=True), Ragged.from_lists(TARGETS)
    scores = q @ v.T / TAU - log_z
    ids = plan.negatives.ids
    assert ids.shape == ((4, 6) if per_query else (6,))
    neg = scores.gather(1, ids if per_query else ids.expand(4, 6)) - plan.negatives.log_q
    pos = scores[positives.rows(), positives.values] - plan.negatives.pos_log_q
    wanted = nce_loss(pos, neg, positives.offsets)
    wanted.sum().backward()
    torch.testing.assert_close(loss, wanted.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(query.grad, q.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(items.grad, v.grad, rtol=1e-4, atol=1e-5)
    if learned:
        assert head.log_z is not None
        torch.testing.assert_close(head.log_z.grad, log_z.grad, rtol=1e-4, atol=1e-5)
    assert head.log_constant == pytest.approx(1.7)


def test_without_it_scores_are_log_probabilities_themselves() -> None:
    plain, zero = run(head_of()), run(head_of(log_z=0.0))
    assert torch.equal(plain[0], zero[0]) and torch.equal(plain[2].grad, zero[2].grad)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    path = tmp_path_factory.mktemp("planted") / "dataset"
    return PlantedModel(num_items=100, num_queries=400, pairs=9_000, num_topics=5, seed=4).write_dataset(path)


def test_the_number_of_items_as_the_normaliser(dataset: Dataset) -> None:
    loss = {"kind": "nce", "log_z": "items"}
    config = resolve_config({"model": {"query": {"kind": "history"}}, "sampler": {"kind": "uniform"}, "loss": loss})
    head = build_model(config, dataset, None).head
    assert isinstance(head, DotHead) and head.log_constant == pytest.approx(math.log(dataset.num_items))


def test_a_learned_normaliser_finds_the_scale_of_the_scores_and_is_kept(dataset: Dataset, tmp_path: Any) -> None:
    """Vectors of unit length can't be normalised by themselves: log Z has to come out as that of their scores."""
    settings = {
        "model": {"embedding_dim": 8, "temperature": 0.2, "query": {"kind": "history"}},
        "sampler": {"kind": "fixed-unigram", "num_sampled": 60, "power": 1.0, "per_query": True},
        "loss": {"kind": "nce", "log_z": 4.6, "learn_log_z": True},
        "train": {"epochs": 12, "dense_learning_rate": 0.1, "batch": {"by": "query", "size": 64}},
    }
    model = RunDirectory(train_run(dataset, resolve_config(settings), tmp_path / "run")).load_model()
    batch = next(iter(inference_batches(dataset.seen("valid"), torch.arange(200), 200, dataset.query_features)))
    query, vectors, head = model.query_vectors(batch), model.item_vectors(), model.head
    assert vectors is not None and isinstance(head, DotHead) and head.log_z is not None
    mean = float(log_normaliser(query, vectors, 5.0).mean())
    assert abs(head.log_constant - 4.6) > 0.1 and abs(head.log_constant - mean) < 0.35
    asked = Ragged(torch.arange(201), torch.arange(200) % 100)
    found, exact = (
        head.unnormalised_log_probability(query, asked, model.tables),
        model.log_probability(query, asked),
    )
    assert float((found - exact).mean()) == pytest.approx(mean - head.log_constant, abs=1e-3)


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        ({"kind": "negative-sampling", "log_z": 1.0}, "log_z is not a switch"),
        ({"kind": "sampled-softmax", "learn_log_z": True}, "learn_log_z is not a switch"),
        ({"kind": "nce", "log_z": 1.0, "subtract_log_q": False}, "need log-Q"),
        ({"kind": "nce", "learn_log_z": True, "top_k": 5}, "do not go with top_k"),
    ],
)
def test_switches_that_do_not_fit_are_refused(loss: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        resolve_config({"loss": loss})
