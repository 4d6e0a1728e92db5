"""Rows that a rank asks for in a step, counted on batches that are really drawn. No vector is read, no table made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

from xclass.data.batches import TrainBatches
from xclass.data.dataset import Dataset
from xclass.distributed import LocalEngine, share_of
from xclass.embeddings import MemoryTable, Place, RowOptimizer, TableOptions
from xclass.models.two_tower import TwoTower
from xclass.runtime.rng import torch_generator
from xclass.sampling import SamplerConfig
from xclass.training.build import build_model
from xclass.training.run_config import RunConfig
from xclass.types import Batch

BATCHES, MOST_RANKS = 6, 4
FROM_LISTS = ("given", "hard")


def drawn_rows(dataset: Dataset, config: RunConfig, numbers_of_ranks: Iterable[int]) -> dict[int, dict[str, int]]:
    """Number of ranks → table → different rows that one of them asks for: the mean over some batches and ranks.

    Nothing where candidates come from lists, which are not there before training.

    Cost: the sampler of the whole catalogue, and some batches. Memory: the sampler's and the loader's.
    """
    if _reads_lists(config.sampler):
        return {}
    plain = config.model.model_copy(update={"init": "random"})
    model = build_model(config.model_copy(update={"model": plain}), dataset, None, start=False, engine=_Unfilled())
    batches = list(_batches(model, dataset, config))
    return {ranks: _asked(model, batches, config.train.seed, ranks) for ranks in numbers_of_ranks}


def _asked(model: TwoTower, batches: list[Batch], seed: int, ranks: int) -> dict[str, int]:
    found = dict[str, list[int]]()
    for number, batch in enumerate(batches):
        for rank in range(0, ranks, -(-ranks // MOST_RANKS)):
            part = share_of(len(batch), rank, ranks)
            prepared = model.prepare(batch, torch_generator(seed, "sample", number), part)
            for table, plan in prepared.row_plans.items():
                found.setdefault(table, []).append(len(plan.unique))
    return {table: round(sum(counts) / len(counts)) for table, counts in found.items()}


def _batches(model: TwoTower, dataset: Dataset, config: RunConfig) -> Iterator[Batch]:
    batches = TrainBatches(
        dataset.split("train"),
        config.train.batch,
        config.train.seed,
        model.tower.uses_history,
        dataset.query_features,
        dataset.windows,
    )
    return (batch for _, batch in zip(range(BATCHES), batches.epoch(0), strict=False))


def _reads_lists(sampler: SamplerConfig) -> bool:
    return sampler.kind in FROM_LISTS or any(map(_reads_lists, sampler.parts))


class _Unfilled(LocalEngine):
    """Tables that have a size and nothing else."""

    def table(
        self,
        storage: str,
        num_rows: int,
        dim: int,
        optimizer: RowOptimizer | None,
        options: TableOptions,
        place: Place,
        name: str = "",
    ) -> MemoryTable:
        """The memory of one row."""
        one_row = torch.zeros(1, dim).expand(num_rows, dim)
        return MemoryTable(num_rows, dim, None, TableOptions(rows=one_row))
