"""Self-normalisation and infrequent normalisation: the formulas, their expectation, and what a run of each ends with."""

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
from xclass.losses import LossConfig, build_loss
from xclass.runs.directory import RunDirectory
from xclass.runs.train import resolve_config, train_run
from xclass.runtime.rng import torch_generator
from xclass.sampling import AllItems
from xclass.towers import Projection
from xclass.types import Batch, Ragged, Rows

N, D, ALPHA = 30, 6, 0.2
TARGETS = [[3, 4], [0], [], [29], [7, 8, 9], [1]]


def head_of(share: float, whole: bool = False) -> DotHead:
    config = LossConfig(kind="full-softmax", normaliser_weight=ALPHA, normalised_share=share)
    projection = Projection(D, (), False, torch_generator(0, "t"))
    return DotHead(
        AllItems(N),
        build_loss(config, 1, N),
        projection,
        temperature=0.5,
        remove_known_positives=False,
        normalised_share=share,
        whole_batches=whole,
    )


def loss_of(
    share: float, seed: int, weights: torch.Tensor | None = None, whole: bool = False, upstream: Any = 1.0
) -> tuple[Any, ...]:
    """(loss, plan, query, items) with the gradient of Σ upstream · loss in query.grad and items.grad."""
    positives, empty = Ragged.from_lists(TARGETS), Ragged.from_lists([[] for _ in TARGETS])
    batch, head = Batch(torch.arange(6), empty, positives, positives, weights), head_of(share, whole)
    plan = head.plan(batch, torch_generator(seed, "plan"))
    query = torch.randn(6, D, generator=torch_generator(1, "t")).requires_grad_(True)
    items = torch.randn(N, D, generator=torch_generator(2, "t")).requires_grad_(True)
    row_plan = plan_rows(head.requests(batch, plan)["item"])
    loss = head.loss(query, batch, plan, {"item": Rows(items[row_plan.unique], row_plan.positions)})
    (loss * upstream).sum().backward()
    return loss.detach(), plan, query, items


def constant() -> float:
    """Log N, less 1 / (2 α) where the likelihood has no log Z."""
    return math.log(N) - 0.5 / ALPHA


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("weights", [None, torch.tensor([1.0, 2.0, 1.0, 0.5, 0.0, 3.0])])
def test_the_loss_of_a_plan_is_its_formula(weights: torch.Tensor | None, whole: bool) -> None:
    for seed in range(5):
        upstream = torch.linspace(1, 1 + seed, 6)
        loss, plan, query, items = loss_of(0.5, seed, weights, whole, upstream)
        chosen = torch.zeros(6)
        chosen[slice(None) if plan.normalised is None else plan.normalised] = 1.0
        q, v = query.detach().requires_grad_(True), items.detach().requires_grad_(True)
        scores = q @ v.T / 0.5
        penalty = (scores.logsumexp(1) - constant()).square() * (ALPHA / 0.5)
        means = torch.stack([-scores[b, row].mean() if row else scores.sum() * 0 for b, row in enumerate(TARGETS)])
        some = torch.tensor([float(bool(row)) for row in TARGETS])
        wanted = (means + penalty * chosen * some) * (1.0 if weights is None else weights)
        (wanted * upstream).sum().backward()
        torch.testing.assert_close(loss, wanted.detach(), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(query.grad, q.grad, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(items.grad, v.grad, rtol=1e-3, atol=1e-4)


def test_by_whole_batches_the_others_read_no_candidate() -> None:
    sizes = [len(loss_of(0.3, seed, whole=True)[1].negatives.ids) for seed in range(300)]
    assert set(sizes) == {0, N} and abs(sizes.count(N) / 300 - 0.3) < 0.1


@pytest.mark.parametrize("whole", [False, True])
def test_its_mean_over_plans_is_the_loss_with_every_query_normalised(whole: bool) -> None:
    mean = torch.stack([loss_of(0.5, seed, whole=whole)[0] for seed in range(300)])
    query, items = loss_of(0.5, 0)[2:]
    scores = (query @ items.T / 0.5).detach()
    penalty = ALPHA * (scores.logsumexp(1) - constant()).square()
    some = torch.tensor([float(bool(row)) for row in TARGETS])
    wanted = torch.stack([-scores[b, row].mean() if row else scores.new_zeros(()) for b, row in enumerate(TARGETS)])
    assert bool(((mean.mean(0) - wanted - penalty * some).abs() <= 5 * mean.std(0) / 300**0.5 + 1e-4).all())


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    path = tmp_path_factory.mktemp("planted") / "dataset"
    return PlantedModel(num_items=150, num_queries=400, pairs=9_000, num_topics=6, seed=4).write_dataset(path)


@pytest.mark.parametrize(("share", "by"), [(1.0, "query"), (0.2, "query"), (0.2, "batch")])
def test_scores_of_a_trained_run_are_nearly_log_probabilities(
    dataset: Dataset, tmp_path: Any, share: float, by: str
) -> None:
    gaps = {}
    for name, loss in (
        ("plain", {"kind": "full-softmax"}),
        ("self", {"kind": "full-softmax", "normaliser_weight": 1.0, "normalised_share": share, "normalised_by": by}),
    ):
        settings = {
            "model": {"embedding_dim": 12, "normalize": False, "temperature": 1.0, "query": {"kind": "history"}},
            "sampler": {"kind": "all"},
            "loss": loss,
            "train": {"epochs": 6, "learning_rate": 0.2, "batch": {"by": "query", "size": 64}},
        }
        model = RunDirectory(train_run(dataset, resolve_config(settings), tmp_path / name)).load_model()
        batch = next(iter(inference_batches(dataset.seen("valid"), torch.arange(100), 100, dataset.query_features)))
        query, vectors = model.query_vectors(batch), model.item_vectors()
        assert vectors is not None
        gaps[name] = float((log_normaliser(query, vectors) - torch.tensor(150.0).log()).abs().mean())
        asked = Ragged(torch.arange(101), torch.arange(100) % 150)
        head: Any = model.head
        found = head.unnormalised_log_probability(query, asked, model.tables)
        exact = model.log_probability(query, asked)
        assert float((found - exact).abs().mean()) == pytest.approx(gaps[name], rel=0.01)
    assert gaps["self"] < 0.3 and gaps["self"] < 0.5 * gaps["plain"]


def test_switches_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="normaliser_weight is not a switch"):
        resolve_config({"loss": {"kind": "nce", "normaliser_weight": 0.1}})
    with pytest.raises(ConfigError, match="normalised_by goes with"):
        resolve_config({"loss": {"kind": "full-softmax", "normalised_by": "batch"}, "sampler": {"kind": "all"}})
    with pytest.raises(ConfigError, match="needs normaliser_weight"):
        resolve_config({"loss": {"kind": "full-softmax", "normalised_share": 0.1}, "sampler": {"kind": "all"}})
