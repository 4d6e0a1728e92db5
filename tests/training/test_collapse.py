"""Collapse: the figures against plain NumPy, planted collapse warned of once, a healthy model left alone."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from xclass.ingest.synthetic.pairs import PlantedModel
from xclass.runs.train import resolve_config, train_run
from xclass.runtime.rng import torch_generator
from xclass.training import trainer
from xclass.training.collapse import (
    SAMPLE,
    CollapseWatch,
    collapse_figures,
    identical_lists,
    spread,
    warnings_of,
)
from xclass.types import TopK

FIGURES = ("query_effective_rank", "item_effective_rank", "query_variance", "item_variance", "identical_lists")


def drawn(rows, dim, seed=0):
    return torch.randn(rows, dim, generator=torch_generator(seed, "test"), dtype=torch.float64)


def lists(rows):
    ids = [item for row in rows for item in row]
    offsets = torch.tensor([0, *np.cumsum([len(row) for row in rows])])
    return TopK(offsets, torch.tensor(ids, dtype=torch.int64), torch.zeros(len(ids)))


@pytest.mark.parametrize(("rows", "dim"), [(50, 8), (8, 50), (300, 3), (40, 1)])
def test_variance_and_effective_rank_against_the_formulas(rows, dim):
    vectors = drawn(rows, dim) * 3 + 1
    unit = (vectors / vectors.norm(dim=1, keepdim=True)).numpy()
    singular = np.linalg.svd(unit - unit.mean(0), compute_uv=False)
    share = singular[singular > 1e-12] / singular.sum()
    found = spread(vectors)
    assert found.variance == pytest.approx(unit.var(axis=0).mean(), rel=1e-9, abs=1e-15)
    assert found.effective_rank == pytest.approx(math.exp(-(share * np.log(share)).sum()) if len(share) else 1.0)
    assert found.effective_rank <= min(dim, rows - 1) + 1e-6


def test_known_spectra():
    corners = torch.cat([torch.eye(16), -torch.eye(16)])
    assert spread(corners).effective_rank == pytest.approx(16)
    assert spread(corners).variance == pytest.approx(1 / 16)
    line = torch.outer(torch.tensor([1.0, -1.0, 2.0, -0.5]), torch.ones(16))
    assert spread(line).effective_rank == pytest.approx(1)
    assert tuple(spread(torch.ones(9, 16))) == pytest.approx((0, 1))
    assert spread(torch.zeros(0, 4)) == (0.0, 1.0)
    assert tuple(spread(torch.zeros(5, 4))) == (0.0, 1.0)


def test_identical_lists_counts_what_repeats():
    assert identical_lists(lists([[1, 2], [2, 1], [1]])) == 0
    assert identical_lists(lists([[1, 2]] * 5)) == 1
    assert identical_lists(lists([[1, 2], [1, 2], [3, 4], [3, 4], [5, 6]])) == pytest.approx(2 / 4)
    assert identical_lists(lists([[], [], [1]])) == pytest.approx(1 / 2)
    assert identical_lists(lists([[1]])) == 0


def warned(queries, items, found):
    figures = collapse_figures(queries, items, found)
    assert tuple(figures) == FIGURES
    return set(warnings_of(figures, queries.shape[1], len(queries), len(items)))


def test_planted_collapse_is_warned_of_and_health_is_not():
    healthy, different = drawn(200, 32), lists([[row] for row in range(200)])
    same, alike = healthy[:1].expand(200, 32), lists([[1, 2]] * 200)
    line = torch.outer(drawn(200, 1, 1).squeeze(1), torch.ones(32, dtype=torch.float64))
    assert warned(healthy, healthy, different) == set()
    assert warned(same, healthy, alike) == {"query_variance", "query_effective_rank", "identical_lists"}
    assert warned(healthy, line, different) == {"item_effective_rank"}
    near = same + 0.003 * healthy
    assert warned(healthy, near, different) == {"item_variance"}


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_few_dimensions_or_vectors_are_no_collapse(dim):
    healthy = drawn(100, dim)
    assert warned(healthy, healthy, lists([[row] for row in range(100)])) == set()
    assert warned(healthy[:2], healthy[:2], lists([[1], [1]])) == set()


def test_the_sample_of_items_is_spread_over_the_catalogue_and_bounded():
    items = CollapseWatch(100_000_000, 3).items
    assert len(items) == SAMPLE and bool((items.diff() > 0).all())
    assert torch.equal(items * SAMPLE // 100_000_000, torch.arange(SAMPLE))
    assert torch.equal(items, CollapseWatch(100_000_000, 3).items)
    assert torch.equal(CollapseWatch(5, 3).items, torch.arange(5))


CONFIG = {
    "model": {"embedding_dim": 16},
    "sampler": {"num_sampled": 64},
    "train": {"epochs": 3, "learning_rate": 0.3, "batch": {"by": "query", "size": 64}, "validation": {"queries": 200}},
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    model = PlantedModel(num_items=200, num_queries=400, pairs=8000, num_topics=8, seed=3)
    return model.write_dataset(tmp_path_factory.mktemp("collapse") / "dataset")


def records(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_healthy_run_records_figures_and_warns_of_nothing(dataset, tmp_path, capsys):
    run = train_run(dataset, resolve_config(CONFIG), tmp_path / "run")
    figures = [record["collapse"] for record in records(run) if "valid" in record]
    assert len(figures) == 3
    assert all(set(one) == set(FIGURES) and all(isinstance(value, float) for value in one.values()) for one in figures)
    assert "collapse" not in capsys.readouterr().err


def test_a_collapsed_run_warns_once_of_each_kind_also_over_a_resume(dataset, tmp_path, capsys, monkeypatch):
    """The item table is set to one row before each validation, as a collapse would leave it."""
    validate, calls = trainer.Trainer._validate, SimpleNamespace(number=0)

    def collapsed(self):
        calls.number += 1
        if calls.number == 2:
            raise MemoryError
        self.model.tables["item"].weight.copy_(torch.ones_like(self.model.tables["item"].weight))
        return validate(self)

    monkeypatch.setattr(trainer.Trainer, "_validate", collapsed)
    settings = resolve_config(CONFIG, ["train.checkpoint_every_s=0"])
    with pytest.raises(MemoryError):
        train_run(dataset, settings, tmp_path / "run")
    run = train_run(dataset, settings, tmp_path / "run", resume=True)
    said = [line for line in capsys.readouterr().err.splitlines() if "warning: collapse" in line]
    assert calls.number == 4
    assert len(said) == len(set(said)) and any("nearly all item vectors are the same" in line for line in said)
    assert all("docs/training.md" in line for line in said)
    assert records(run)[-2]["collapse"]["item_variance"] == pytest.approx(0, abs=1e-9)
