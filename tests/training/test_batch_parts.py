"""Parts of a batch, each computed from the plan of the whole, have the losses and the gradients of the whole."""

from __future__ import annotations

import pytest
import torch

from xclass.data.batches import TrainBatches
from xclass.data.dataset import Dataset, open_dataset
from xclass.ingest.synthetic.pairs import PlantedModel
from xclass.models.two_tower import Prepared, TwoTower
from xclass.runs.train import resolve_config
from xclass.runtime.rng import torch_generator
from xclass.training.build import build_model

CASES = {
    "pairs": ["sampler.kind=log-uniform"],
    "in batch": ["sampler.kind=in-batch", "model.query.kind=history"],
    "learned": ["sampler.kind=learned-unigram", "train.batch.by=query"],
    "per positive": ["train.batch.by=query", "loss.positives=per-positive"],
    "logistic": ["train.batch.by=query", "loss.kind=sampled-logistic", "train.batch.weight_power=1.0"],
    "bpr": ["train.batch.by=query", "loss.kind=bpr"],
    "some queries": [
        "sampler.kind=all",
        "loss.kind=full-softmax",
        "loss.normaliser_weight=0.1",
        "loss.normalised_share=0.5",
    ],
    "mlp": ["model.query.kind=id+history", "model.query.hidden=[16]", "model.item.hidden=[16]"],
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    path = tmp_path_factory.mktemp("planted") / "dataset"
    model = PlantedModel(num_items=120, num_queries=90, pairs=1500, num_topics=6, seed=3)
    return open_dataset(model.write_dataset(path).path)


def gradients(model: TwoTower, parts: list[Prepared]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """(B,) losses of the parts one after the other, and what all of them push, as whole tables."""
    losses = list[torch.Tensor]()
    pushed = {name: torch.zeros(table.num_rows, table.dim) for name, table in model.tables.items()}
    for prepared in parts:
        rows = model.pull(prepared.row_plans, requires_grad=True)
        loss = model.loss(prepared, rows)
        (loss.sum() / prepared.queries).backward()
        losses.append(loss.detach())
        for name, plan in prepared.row_plans.items():
            if rows[name].values.grad is not None:
                pushed[name].index_add_(0, plan.unique, rows[name].values.grad)
    for name, parameter in model.named_parameters():
        pushed[name], parameter.grad = parameter.grad.clone(), None
    return torch.cat(losses), pushed


@pytest.mark.parametrize("case", CASES)
def test_parts_add_up_to_the_whole(dataset: Dataset, case: str) -> None:
    config = resolve_config(
        {}, ["model.embedding_dim=8", "sampler.num_sampled=32", "train.batch.size=50", *CASES[case]]
    )
    train = dataset.split("train")
    found = list[tuple[torch.Tensor, dict[str, torch.Tensor]]]()
    for cuts in ([0, 50], [0, 17, 18, 50]):
        model = build_model(config, dataset, train)
        batches = TrainBatches(train, config.train.batch, 0, model.tower.uses_history, {})
        batch = next(batches.epoch(0))
        # Ranks have a sampler each: every part is planned by one that has seen nothing yet.
        parts = [
            build_model(config, dataset, train).prepare(batch, torch_generator(0, "sample"), cut)
            for cut in zip(cuts, cuts[1:], strict=False)
        ]
        found.append(gradients(model, parts))
    (one, pushed), (two, others) = found
    assert torch.allclose(one, two, atol=1e-5)
    for name, gradient in pushed.items():
        assert torch.allclose(gradient, others[name], atol=1e-6), name
