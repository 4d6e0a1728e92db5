"""Training beside what one would write in PyTorch: sparse embeddings, autograd, SparseAdam or sparse Adagrad.

    python benchmarks/bench_pytorch.py [--rounds 3] [--steps 60] [--items 10000000] [--work DIR]

The same job for all: planted pairs, 64 dimensions, 128 shared log-uniform candidates a step with log-Q, inner products,
sampled softmax; batches of 8,192 pairs, or of 1,200 queries with all of their pairs. In PyTorch batches are cut by hand
from tensors in memory, or come from a DataLoader. xclass is its whole loop (Trainer) with its mapped, shuffled loader.
Each contender is a process of its own; they take turns; positives/s of the steps after the first ten, medians.
Checked first: both losses agree on the same batch and candidates to 1e-5. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench_training import BY_PAIR, SCALE, planted

from xclass.data.batches import TrainBatches
from xclass.data.dataset import Dataset, open_dataset
from xclass.runs.train import resolve_config
from xclass.training.build import build_model

DIM, NEGATIVES, WARM = 64, 128, 10
CONTENDERS = {
    "xclass, by query": ("xclass", "query"),
    "xclass, by pair": ("xclass", "pair"),
    "SparseAdam, by query, by hand": ("SparseAdam", "query"),
    "SparseAdam, by pair, by hand": ("SparseAdam", "pair"),
    "SparseAdam, by pair, DataLoader": ("SparseAdam", "loader"),
    "Adagrad, by query, by hand": ("Adagrad", "query"),
    "Adagrad, by pair, by hand": ("Adagrad", "pair"),
    "Adagrad, by pair, DataLoader": ("Adagrad", "loader"),
}


class TwoTables(torch.nn.Module):
    """The same model in PyTorch."""

    def __init__(self, num_queries: int, num_items: int) -> None:
        super().__init__()
        self.query = torch.nn.Embedding(num_queries, DIM, sparse=True)
        self.item = torch.nn.Embedding(num_items, DIM, sparse=True)
        self.num_items = num_items
        with torch.no_grad():
            self.query.weight.mul_(0.02)
            self.item.weight.mul_(0.02)

    def draw(self) -> Tensor:
        ids = torch.exp(torch.rand(NEGATIVES) * math.log(self.num_items + 1)).long() - 1
        return ids.clamp_(0, self.num_items - 1)

    def log_q(self, ids: Tensor) -> Tensor:
        return torch.log(torch.log1p(1 / (ids + 1.0)) * (NEGATIVES / math.log(self.num_items + 1)))

    def forward(self, queries: Tensor, row: Tensor, items: Tensor, negatives: Tensor, mask: bool = True) -> Tensor:
        """(P,) loss of each pair: its query stands at ``queries[row]``."""
        query_BD = self.query(queries)
        positive_P = (query_BD[row] * self.item(items)).sum(1) - self.log_q(items)
        negative_BK = query_BD @ self.item(negatives).T - self.log_q(negatives)
        negative_PK = negative_BK[row]
        if mask:
            negative_PK = negative_PK.masked_fill(items[:, None] == negatives, -torch.inf)
        return torch.logaddexp(positive_P, negative_PK.logsumexp(1)) - positive_P


def batches(dataset: Dataset, cut: str, size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(queries, row of each pair, items) for ever; everything in memory and shuffled at every pass."""
    train = dataset.split("train")
    offsets, items = torch.as_tensor(train.offsets).clone(), torch.as_tensor(train.values).long()
    lengths = offsets.diff()
    queries = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    while True:
        if cut == "query":
            for chosen in torch.randperm(len(lengths)).split(size):
                row = torch.repeat_interleave(torch.arange(len(chosen)), lengths[chosen])
                within = torch.arange(len(row)) - (lengths[chosen].cumsum(0) - lengths[chosen])[row]
                yield chosen, row, items[offsets[chosen][row] + within]
        elif cut == "pair":
            for chosen in torch.randperm(len(items)).split(size):
                yield queries[chosen], torch.arange(len(chosen)), items[chosen]
        else:
            pairs = torch.utils.data.TensorDataset(queries, items)
            for query, item in torch.utils.data.DataLoader(pairs, batch_size=size, shuffle=True):
                yield query, torch.arange(len(query)), item


def in_pytorch(dataset: Dataset, optimizer: str, cut: str, size: int, steps: int) -> float:
    """Positives/s."""
    model = TwoTables(dataset.num_queries, dataset.num_items)
    made = {"SparseAdam": torch.optim.SparseAdam, "Adagrad": torch.optim.Adagrad}[optimizer]
    optim, positives, started = made(list(model.parameters()), lr=0.1 if optimizer == "Adagrad" else 1e-3), 0, 0.0
    for step, (queries, row, items) in enumerate(batches(dataset, cut, size)):
        if step == WARM:
            started = time.perf_counter()
        if step == WARM + steps:
            break
        optim.zero_grad()
        loss = model(queries, row, items, model.draw()).mean()
        loss.backward()
        optim.step()
        positives += len(items) if step >= WARM else 0
        assert math.isfinite(float(loss))
    return positives / (time.perf_counter() - started)


def config_of(cut: str, size: int, steps: int) -> Any:
    changes = [f"train.steps={steps}", "train.checkpoint_every_s=100000", "train.validation.keep_best=false"]
    return resolve_config(SCALE, [*changes, *(BY_PAIR if cut == "pair" else []), f"train.batch.size={size}"])


def in_xclass(dataset: Dataset, cut: str, size: int, steps: int) -> float:
    """Positives/s of the whole loop, without its end."""
    from xclass.training import Trainer

    config = config_of(cut, size, 10 * (WARM + steps))
    model = build_model(config, dataset, None)
    loader = TrainBatches(dataset.split("train"), config.train.batch, 0, model.tower.uses_history)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(model, loader, config.train, Path(folder), None)
        trainer._checkpoint = lambda: None  # type: ignore[method-assign]  the last one writes all rows
        result = trainer.run()
    return result.positives / result.train_s


def check(dataset: Dataset) -> None:
    """Both losses on the same pairs, rows and candidates."""
    config = resolve_config(SCALE, [*BY_PAIR, "loss.remove_accidental_hits=false", "loss.remove_known_positives=false"])
    ours, theirs = build_model(config, dataset, None), TwoTables(dataset.num_queries, dataset.num_items)
    batch = next(TrainBatches(dataset.split("train"), config.train.batch, 0, ours.tower.uses_history).epoch(0))
    prepared = ours.prepare(batch, torch.Generator().manual_seed(0))
    assert batch.positives is not None
    with torch.no_grad():
        theirs.query.weight.copy_(ours.tables["query"].weight)
        theirs.item.weight.copy_(ours.tables["item"].weight)
        wanted = theirs(
            torch.as_tensor(batch.query_ids),
            torch.arange(len(batch)),
            batch.positives.values.long(),
            prepared.plan.negatives.ids.long(),
            mask=False,
        )
        found = ours.loss(prepared, ours.pull(prepared.row_plans))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--items", type=int, default=10_000_000)
    parser.add_argument("--pairs", type=int, default=8192, help="in a batch by pair")
    parser.add_argument("--queries", type=int, default=1200, help="in a batch by query")
    parser.add_argument("--only", choices=CONTENDERS, help="one contender, in this process")
    parser.add_argument("--work", type=Path)
    chosen = parser.parse_args()
    if chosen.only:
        dataset, (kind, cut) = open_dataset(planted(chosen.work, chosen.items)), CONTENDERS[chosen.only]
        size = chosen.queries if cut == "query" else chosen.pairs
        made = in_xclass(dataset, cut, size, chosen.steps) if kind == "xclass" else None
        print(made or in_pytorch(dataset, kind, cut, size, chosen.steps))
        return
    with tempfile.TemporaryDirectory() as temporary:
        work = chosen.work or Path(temporary)
        check(open_dataset(planted(work, 100_000)))
        planted(work, chosen.items)
        found: dict[str, list[float]] = {name: [] for name in CONTENDERS}
        for _ in range(chosen.rounds):
            for name in CONTENDERS:
                command = [sys.executable, __file__, "--only", name, "--work", work, "--items", chosen.items]
                for option in ("steps", "pairs", "queries"):
                    command += [f"--{option}", getattr(chosen, option)]
                told = subprocess.run([*map(str, command)], check=True, stdout=subprocess.PIPE)
                found[name].append(float(told.stdout.split()[-1]))
    middle = {name: statistics.median(rates) for name, rates in found.items()}
    print("| | positives/s | xclass by query / this | xclass by pair / this |\n|---|--:|--:|--:|")
    for name, rate in middle.items():
        by_query, by_pair = (middle[f"xclass, by {cut}"] / rate for cut in ("query", "pair"))
        print(f"| {name} | {rate:,.0f} | {by_query:.1f} | {by_pair:.1f} |")
    print(json.dumps({name: round(rate) for name, rate in middle.items()}))


if __name__ == "__main__":
    main()
