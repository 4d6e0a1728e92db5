"""Output layers beside the full softmax: a training example, one item's probability, a top-k, parameters.

    python benchmarks/bench_heads.py [--items 100000 800000] [--dim 64] [--batch 256] [--runs 7] [--threads 1]
        [--ways TEXT ...] [--train]

A catalogue with train counts by Zipf's law; targets are drawn by them, one a query. A step is what training does with
the output layer: plan, distinct rows, pull, loss, gradients, push (row-wise AdaGrad). Probabilities of the layers are
checked to sum to one at 2,000 items, and searches to agree with them, before anything is timed. The ways take turns;
medians, and ratios to the full softmax of the same run, which is the dot head over all items (kernel, float32). A
search is for 64 queries at a time, a probability for 64 queries, one item each. On one thread the
process's own time is taken, which others on the machine disturb little. Compare ratios only.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import polars as pl
import torch
from torch import Tensor

from xclass.embeddings import MemoryTable, Table, TableOptions, plan_rows
from xclass.heads import CnnHead, DotHead, Head, HeadConfig, KnownItems, build_head, table_shapes
from xclass.heads.build import build_encoder
from xclass.losses import LossConfig, build_loss
from xclass.optim import ROW_OPTIMIZERS
from xclass.runtime.memory import keep_freed_memory
from xclass.runtime.rng import torch_generator
from xclass.sampling import AllItems, LogUniform, Sampler
from xclass.towers import Projection
from xclass.towers.characters import text_bytes
from xclass.towers.item_texts import ItemTexts
from xclass.types import Batch, Ragged, Rows

FULL = "full softmax"
TOPK, SEARCHED = 20, 64
COLUMNS = {"train_us": "training example", "probability_us": "one probability", "topk_us": "top-20"}


class Way(NamedTuple):
    """A layer, its tables, the queries of a step; and what serves, where a finished run is another.

    seeds: of as many steps, timed together: steps of a layer that are not alike.
    """

    head: Head
    tables: dict[str, Table]
    batch: int
    seeds: tuple[int, ...] = (0,)
    served: tuple[Head, dict[str, Table]] | None = None

    @property
    def at_test(self) -> tuple[Head, dict[str, Table]]:
        """What answers at test time."""
        return self.served or (self.head, self.tables)


def ways(num_items: int, dim: int, batch: int) -> dict[str, Way]:
    """Name → layer."""
    settings: dict[str, dict[str, Any]] = {
        "hierarchical, balanced": {"kind": "hierarchical", "tree": "balanced"},
        "hierarchical, huffman": {"kind": "hierarchical", "tree": "huffman"},
        "hierarchical, huffman, arity 8": {"kind": "hierarchical", "tree": "huffman", "arity": 8},
        "differentiated": {"kind": "differentiated", "cuts": [0.05, 0.25], "dims": _thirds(dim)},
        "adaptive": {"kind": "adaptive", "cuts": [0.01, 0.1], "dims": [dim // 4, dim // 16]},
    }
    items, nodes = (_tables({name: (num_items - less, dim)}) for name, less in (("item", 0), ("node", 1)))
    found = {
        FULL: Way(_dot(num_items, dim, AllItems(num_items), "full-softmax"), items, batch),
        "infrequent, a tenth normalised": Way(
            _dot(num_items, dim, AllItems(num_items), "full-softmax", normaliser_weight=1.0, normalised_share=0.1),
            items,
            batch,
        ),
        "infrequent, a tenth of the batches": _by_batch(num_items, dim, items, batch),
        "sampled softmax, 1024": Way(
            _dot(num_items, dim, LogUniform(num_items, 1024), "sampled-softmax"), items, batch
        ),
        "nce, 25": Way(_dot(num_items, dim, LogUniform(num_items, 25), "nce"), items, batch),
    }
    found["cnn, 1024 sampled"] = _cnn(num_items, dim, batch, items)
    counts = zipf(num_items)
    for name, each in settings.items():
        config = HeadConfig.model_validate(each)
        head = build_head(config, KnownItems(num_items, dim, lambda: counts, None, 0), 1.0)
        tables = nodes if config.kind == "hierarchical" else _tables(table_shapes(config, num_items, dim))
        found[name] = Way(head, tables, batch)
    return found


def _by_batch(num_items: int, dim: int, tables: dict[str, Table], batch: int) -> Way:
    """Ten steps of which one is normalised."""
    head = _dot(
        num_items, dim, AllItems(num_items), "full-softmax",
        normaliser_weight=0.1, normalised_share=0.1, normalised_by="batch",
    )  # fmt: skip
    few = batch_of(num_items, 1, 0)
    summed = {seed: bool(len(head.plan(few, torch_generator(seed, "bench")).negatives.ids)) for seed in range(60)}
    with_sum = [seed for seed, made in summed.items() if made][:1]
    return Way(head, tables, batch, tuple(with_sum + [seed for seed, made in summed.items() if not made][:9]))


def _cnn(num_items: int, dim: int, batch: int, items: dict[str, Table]) -> Way:
    """Item vectors computed of different words of eight letters; a finished run has them in a table."""
    config = HeadConfig(kind="cnn")
    encoder = build_encoder(config, dim, torch_generator(0, "bench"))
    words = pl.Series([f"{number * 2654435761 % 10**8:08d}" for number in range(num_items)])
    texts = ItemTexts(encoder, text_bytes(words, config.text_bytes), num_items)
    sampler, loss = LogUniform(num_items, 1024), build_loss(LossConfig(), 1024, num_items)
    projection = Projection(dim, (), False, torch_generator(0, "bench"))
    trained, served = (CnnHead(encoder, each, sampler, loss, projection) for each in (texts, None))
    return Way(trained, {}, batch, served=(served, items))


def zipf(num_items: int) -> Tensor:
    """int64 train counts: 10⁸ / rank."""
    return (1e8 / torch.arange(1, num_items + 1)).long()


def _thirds(dim: int) -> list[int]:
    rest = dim - dim // 2 - dim // 4
    return [dim // 2, dim // 4, rest] if rest <= dim // 4 else [dim - 2 * (dim // 4), dim // 4, dim // 4]


def _dot(num_items: int, dim: int, sampler: Sampler, loss: str, **switches: Any) -> DotHead:
    projection = Projection(dim, (), False, torch_generator(0, "bench"))
    config = LossConfig.model_validate({"kind": loss, **switches})
    built, share = build_loss(config, 1, num_items), config.normalised_share
    return DotHead(
        sampler,
        built,
        projection,
        remove_known_positives=False,
        normalised_share=share,
        whole_batches=config.normalised_by == "batch",
    )


def _tables(shapes: dict[str, tuple[int, int]]) -> dict[str, Table]:
    return {
        name: MemoryTable(*shape, ROW_OPTIMIZERS["adagrad"](), TableOptions(init_std=0.1, seed=number))
        for number, (name, shape) in enumerate(shapes.items())
    }


def batch_of(num_items: int, size: int, number: int) -> Batch:
    """Targets by Zipf's law, one a query."""
    u = torch.rand(size, generator=torch_generator(0, "bench", number), dtype=torch.float64)
    targets = ((num_items + 1.0) ** u).long().clamp(1, num_items) - 1
    empty = Ragged(torch.zeros(size + 1, dtype=torch.int64), targets[:0])
    positives = Ragged(torch.arange(size + 1), targets)
    return Batch(torch.arange(size), empty, positives, positives)


def steps(way: Way, batch: Batch, query: Tensor) -> None:
    """The training steps of a way, one for each of its seeds."""
    for seed in way.seeds:
        step(way, batch, query, seed)


def step(way: Way, batch: Batch, query: Tensor, seed: int) -> None:
    """One training step of the output layer alone."""
    plan = way.head.plan(batch, torch_generator(seed, "bench"))
    plans = {name: plan_rows(requests) for name, requests in way.head.requests(batch, plan).items()}
    rows = {
        name: Rows(way.tables[name].pull(each.unique).requires_grad_(True), each.positions)
        for name, each in plans.items()
    }
    way.head.loss(query.requires_grad_(True), batch, plan, rows).mean().backward()
    for name, each in plans.items():
        grad = rows[name].values.grad
        assert grad is not None
        way.tables[name].push(each.unique, grad, 0.1)


def check(dim: int) -> None:
    """Probabilities sum to one, and the exact top-k is theirs."""
    for name, way in ways(2000, dim, 8).items():
        query = torch.randn(4, dim, generator=torch_generator(1, "bench"))
        every = Ragged(torch.arange(5) * 2000, torch.arange(2000).repeat(4))
        logs = way.head.log_probability(query, every, way.tables).view(4, -1)
        gap = float((logs.exp().sum(1) - 1).abs().max())
        best = way.head.topk(query, 5, way.tables, exact=True).ids.view(4, 5)
        if gap > 1e-3 or not torch.equal(best, logs.topk(5).indices):
            sys.exit(f"{name}: probabilities sum to 1 ± {gap:g}, or its search does not agree with them")


def timed(call: Callable[[], object], least_s: float = 0.05) -> float:
    """Seconds of a call, over as many as fill ``least_s``: of this process's time on one thread, else of the clock."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    started, calls = clock(), 0
    while (took := clock() - started) < least_s or not calls:
        call()
        calls += 1
    return took / calls


def measure(num_items: int, dim: int, batch: int, runs: int, chosen: list[str], train: bool) -> list[dict[str, Any]]:
    """One record for each way that is the full softmax or has one of the texts in its name."""
    every, times = ways(num_items, dim, batch), dict[str, dict[str, list[float]]]()
    found = {name: way for name, way in every.items() if name == FULL or any(text in name for text in chosen)}
    for number in range(runs + 1):
        for name, way in found.items():
            query = torch.randn(way.batch, dim, generator=torch_generator(2, "bench", number))
            for key, call in list(_calls(way, query, num_items, number).items())[: 1 if train else None]:
                took = timed(call) / (way.batch * len(way.seeds) if key == "train_us" else SEARCHED) * 1e6
                if number:  # the first turn compiles and fills caches
                    times.setdefault(name, {}).setdefault(key, []).append(took)
    records = []
    for name, way in found.items():
        medians = {key: statistics.median(values) for key, values in times[name].items()}
        numbers = sum(table.num_rows * table.dim for table in way.tables.values())
        numbers += sum(parameter.numel() for parameter in way.head.parameters())
        records.append({"items": num_items, "dim": dim, "way": name, **medians, "parameters": numbers})
    return records


def _calls(way: Way, query: Tensor, num_items: int, number: int) -> dict[str, Callable[[], object]]:
    """Key of a record → what it times."""
    asked = torch.randn(SEARCHED, query.shape[1], generator=torch_generator(3, "bench", number))
    one = Ragged(torch.arange(SEARCHED + 1), torch.arange(SEARCHED) * (num_items // SEARCHED))
    return {
        "train_us": lambda: steps(way, batch_of(num_items, way.batch, number), query),
        "probability_us": lambda: way.at_test[0].log_probability(asked, one, way.at_test[1]),
        "topk_us": lambda: way.at_test[0].topk(asked, TOPK, way.at_test[1]),
    }


def main() -> None:
    """Print a table and, at the end, one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[100_000, 800_000])
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--ways", nargs="+", default=[""], help="only layers with one of these in their name")
    parser.add_argument("--train", action="store_true", help="training steps only")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    keep_freed_memory()
    check(given.dim)
    everything = []
    for num_items in given.items:
        records = measure(num_items, given.dim, given.batch, given.runs, given.ways, given.train)
        everything += records
        full = records[0]
        print(f"\n{num_items:,} items, {given.dim} dimensions; µs a query, and the full softmax's time over it")
        shown = [f"{name} | ratio" for key, name in COLUMNS.items() if key in full]
        print(f"| layer | {' | '.join(shown)} | parameters |\n|---|{'--:|--:|' * len(shown)}--:|")
        for record in records:
            cells = [f"{record[key]:,.1f} | {full[key] / record[key]:,.1f}×" for key in COLUMNS if key in record]
            print(f"| {record['way']} | {' | '.join(cells)} | {record['parameters']:,} |")
    print(json.dumps({"runs": everything}))


if __name__ == "__main__":
    main()
