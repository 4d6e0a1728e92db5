"""The family of softmax approximations side by side: the layers alone, and torch's and gensim's beside ours.

    python benchmarks/bench_softmax.py layers [--items 10000 100000 800000] [--configs configs/softmax/*.toml]
    python benchmarks/bench_softmax.py steps --dataset DATASET [--configs configs/softmax/*.toml]
    python benchmarks/bench_softmax.py codes CORPUS
    python benchmarks/bench_softmax.py torch CORPUS
    python benchmarks/bench_softmax.py gensim CORPUS --gensim PYTHON

layers: what each configuration's output layer takes of a training step, without the tower (plan, distinct rows, pull,
loss, gradients, push), of one item's probability and score and of a top-20, over a catalogue with Zipf's counts; the
layers take turns, and the process's own time is taken on one thread. steps: whole training steps on a
dataset, tower included, the same way. codes: path lengths of Huffman's tree.
torch and gensim: the peers, on the same words as ours (`softmax_peers.py`). CORPUS is a directory with train.txt,
valid.txt and test.txt, a sentence a line. Quality of all configurations on the corpus is
`xclass compare`, which writes its own table:

    xclass ingest CORPUS --format text --vocabulary 10000 --context 4 --out data/corpus
    xclass compare data/corpus --config configs/softmax/full.toml --config … --out runs/softmax

Correct before fast: what a layer calls a probability sums to one over 2,000 items before it is timed. The last line is
JSON.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import string
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import torch
from bench_heads import SEARCHED, TOPK, batch_of, step, timed, zipf
from torch import Tensor

from xclass.data.batches import TrainBatches
from xclass.data.dataset import open_dataset
from xclass.embeddings import Table
from xclass.heads import CnnHead, DotHead
from xclass.heads.tree.tree import balanced_tree, huffman_tree
from xclass.models.two_tower import TwoTower
from xclass.runs.train import resolve_config
from xclass.runtime.memory import keep_freed_memory
from xclass.runtime.rng import torch_generator
from xclass.training.build import build_model
from xclass.training.run_config import RunConfig
from xclass.types import Batch, Ragged

ROOT = Path(__file__).resolve().parents[1]
CONTEXT, CHECKED, WARM_STEPS = 4, 2000, 3
SHOWN = ("train_us", "probability_us", "score_us", "topk_us")


class Words:
    """A catalogue of N words by Zipf's law, with made-up spellings; what a model asks of data."""

    num_queries, num_train_queries, propensity, sequence = 1, 1, (0.55, 1.5), None

    def __init__(self, num_items: int) -> None:
        self.num_items = num_items
        self.query_features = self.item_features = dict[str, Ragged]()

    @property
    def item_counts(self) -> Tensor:
        return zipf(self.num_items)

    @functools.cached_property
    def item_texts(self) -> pl.Series:
        return pl.Series([_spelling(number) for number in range(self.num_items)])

    def feature_sizes(self, side: str) -> dict[str, int]:
        return {}


def _spelling(number: int) -> str:
    """Frequent words are short."""
    letters, number = "", number + 1
    while number:
        number, letter = divmod(number, 7)
        letters += string.ascii_lowercase[(letter * 5 + len(letters)) % 26]
    return letters


def layer(config: RunConfig, num_items: int, shared: dict[tuple[str, int, int], Table] | None = None) -> TwoTower:
    """A model whose tower is left out: its head and its tables are what is timed. Clusters are any.

    ``shared``: tables of models before, which are taken again where they fit; a step's cost does not depend on them.
    """
    kind = "history" if config.sampler.kind == "adaptive" else "id"  # bigrams are read off a history
    query = config.model.query.model_copy(update={"kind": kind, "hidden": ()})
    model = config.model.model_copy(update={"query": query})
    built = build_model(config.model_copy(update={"model": model}), Words(num_items), None)  # type: ignore[arg-type]
    for name, table in built.tables.items() if shared is not None else ():
        built.tables[name] = shared.setdefault((name, table.num_rows, table.dim), table)  # type: ignore[union-attr]
    return built


def words_of(num_items: int, size: int, number: int) -> Batch:
    """Targets and the words before them, by Zipf's law."""
    batch, before = batch_of(num_items, size, number), batch_of(num_items, size * CONTEXT, number + 1000)
    assert batch.positives is not None and before.positives is not None
    history = Ragged(torch.arange(size + 1) * CONTEXT, before.positives.values)
    return Batch(batch.query_ids, history, batch.positives, batch.positives)


def check(configs: dict[str, RunConfig]) -> None:
    """Probabilities sum to one, and the exact top-k is theirs."""
    for name, config in configs.items():
        model = layer(config, CHECKED)
        query = torch.randn(4, config.model.embedding_dim, generator=torch_generator(1, "bench"))
        every = Ragged(torch.arange(5) * CHECKED, torch.arange(CHECKED).repeat(4))
        with torch.no_grad():
            logs = model.head.log_probability(query, every, model.tables).view(4, -1)
            best = model.head.topk(query, 5, model.tables, exact=True).ids.view(4, 5)
        gap = float((logs.exp().sum(1) - 1).abs().max())
        if gap > 1e-3 or not torch.equal(best, logs.topk(5).indices):
            sys.exit(f"{name}: probabilities sum to 1 ± {gap:g}, or its search does not agree with them")


def calls(
    model: TwoTower, num_items: int, batch: int, number: int, dim: int
) -> dict[str, tuple[Callable[[], object], int]]:
    """Key of a record → what it times, and of how many queries."""
    query = torch.randn(batch, dim, generator=torch_generator(2, "bench", number))
    asked = torch.randn(SEARCHED, dim, generator=torch_generator(3, "bench", number))
    one = Ragged(torch.arange(SEARCHED + 1), torch.arange(SEARCHED) * (num_items // SEARCHED))
    head, tables, words = model.head, model.tables, words_of(num_items, batch, number)
    found: dict[str, tuple[Callable[[], object], int]] = {"train_us": (lambda: step(model, words, query, 0), batch)}
    if isinstance(head, CnnHead):  # a finished run is a dot head over vectors that are stored
        return found
    found["probability_us"] = lambda: head.log_probability(asked, one, tables), SEARCHED
    found["topk_us"] = lambda: head.topk(asked, TOPK, tables), SEARCHED
    if isinstance(head, DotHead):
        found["score_us"] = lambda: head.unnormalised_log_probability(asked, one, tables), SEARCHED
    return found


def measure(
    configs: dict[str, RunConfig], num_items: int, batch: int, runs: int, least_s: float
) -> list[dict[str, Any]]:
    """One record for each configuration; layers take turns."""
    shared: dict[tuple[str, int, int], Table] = {}
    models = {name: layer(config, num_items, shared) for name, config in configs.items()}
    times: dict[str, dict[str, list[float]]] = {name: {} for name in configs}
    for number in range(runs + 1):
        for name, model in models.items():
            for key, (call, queries) in calls(
                model, num_items, batch, number, configs[name].model.embedding_dim
            ).items():
                took = timed(call, least_s) / queries * 1e6
                if number:  # the first turn compiles and fills caches
                    times[name].setdefault(key, []).append(took)
        print(f"{num_items:,} items: turn {number} of {runs}", file=sys.stderr, flush=True)
    return [
        {
            "items": num_items,
            "config": name,
            **{key: statistics.median(values) for key, values in times[name].items()},
            "parameters": _numbers(model),
        }
        for name, model in models.items()
    ]


def _numbers(model: TwoTower) -> int:
    """Of the layer: without the table of the tower."""
    own = sum(table.num_rows * table.dim for name, table in model.tables.items() if name not in model.tower.tables)
    return own + sum(parameter.numel() for parameter in model.head.parameters())


def layers(chosen: argparse.Namespace) -> dict[str, Any]:
    configs = _configs(chosen)
    check(configs)
    records = []
    for num_items in chosen.items:
        records += measure(configs, num_items, chosen.batch, chosen.runs, chosen.least)
        show_layers([record for record in records if record["items"] == num_items])
    return {"layers": records}


def show_layers(records: list[dict[str, Any]]) -> None:
    """A table of times, each with the first configuration's over it."""
    first = records[0]
    print(f"\n{first['items']:,} items; µs a query, and the time of {first['config']} over it")
    print("| configuration | training example | | one probability | | without Z | | top-20 | | parameters |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
    for record in records:
        cells = []
        for key in SHOWN:
            against = first.get("probability_us" if key == "score_us" else key)
            cells.append(f"{record[key]:,.1f} | {against / record[key]:,.1f}×" if key in record else " | ")
        print(f"| {record['config']} | {' | '.join(cells)} | {record['parameters']:,} |")


def steps(chosen: argparse.Namespace) -> dict[str, Any]:
    """µs of processor time that a train pair takes, tower included, in training on a dataset; the models take turns."""
    dataset, configs = open_dataset(chosen.dataset), _configs(chosen)
    models = {}
    for name, config in configs.items():
        model = build_model(config, dataset, dataset.split("train"))
        batches = TrainBatches(
            dataset.split("train"), config.train.batch, 0, model.tower.uses_history, windows=dataset.windows
        )
        models[name] = model, batches.epoch(0), torch.optim.Adam(model.parameters(), config.train.dense_learning_rate)
    times: dict[str, list[float]] = {name: [] for name in configs}
    for number in range(WARM_STEPS + chosen.steps):
        for name, (model, batches, dense) in models.items():
            started = time.process_time()
            batch = next(batches)
            _whole_step(model, batch, configs[name].train.learning_rate, number)
            dense.step()
            dense.zero_grad()
            assert batch.positives is not None
            if number >= WARM_STEPS:
                times[name].append((time.process_time() - started) / len(batch.positives.values) * 1e6)
        print(f"step {number + 1} of {WARM_STEPS + chosen.steps}", file=sys.stderr, flush=True)
    medians = {name: statistics.median(values) for name, values in times.items()}
    print("| configuration | µs a train pair | the full softmax's over it |")
    print("|---|--:|--:|")
    for name, value in medians.items():
        print(f"| {name} | {value:,.1f} | {next(iter(medians.values())) / value:,.1f}× |")
    return {"steps": medians}


def _whole_step(model: TwoTower, batch: Batch, rate: float, number: int) -> None:
    prepared = model.prepare(batch, torch_generator(0, "bench", number))
    rows = model.pull(prepared.row_plans, requires_grad=True)
    model.loss(prepared, rows).mean().backward()
    model.push(prepared.row_plans, rows, rate)


def _configs(chosen: argparse.Namespace) -> dict[str, RunConfig]:
    """By name, the full softmax first."""
    paths = chosen.configs or sorted((ROOT / "configs" / "softmax").glob("*.toml"))
    return {path.stem: resolve_config(path) for path in sorted(paths, key=lambda path: path.stem != "full")}


def codes(chosen: argparse.Namespace) -> dict[str, Any]:
    """Mean path lengths over the corpus's own words, weighted by their counts."""
    from softmax_peers import Text

    counts = Text(chosen.corpus, chosen.vocabulary).counts.double()
    share = counts / counts.sum()
    entropy = -float((share * share.clamp(min=1e-300).log2()).sum())
    lengths = {
        "balanced": float((balanced_tree(len(counts), 2).lengths() * share).sum()),
        "huffman": float((huffman_tree(counts.long(), 2).lengths() * share).sum()),
    }
    assert entropy <= lengths["huffman"] < entropy + 1
    saved = 1 - lengths["huffman"] / lengths["balanced"]
    print(f"{len(counts):,} words: {lengths}, entropy {entropy:.2f} bits; Huffman's codes are {saved:.1%} shorter")
    return {"codes": lengths | {"entropy": entropy, "shorter": saved}}


def torch_peer(chosen: argparse.Namespace) -> dict[str, Any]:
    """Adaptive softmax, torch's and ours, over the same clusters: the layers alone, then quality of both."""
    import softmax_peers as peers

    for num_items in chosen.items:
        show_adaptive(num_items, adaptive_layers(num_items, chosen))
    text = peers.Text(chosen.corpus, chosen.vocabulary)
    train, cut_offs = text.positions("train", CONTEXT, 0), [chosen.vocabulary // 10, chosen.vocabulary * 4 // 10]
    head = {"kind": "adaptive", "cuts": [0.1, 0.4], "dims": [chosen.dim // 4, chosen.dim // 16]}
    trainers = {
        "torch": lambda config, measured: peers.train_torch(text, cut_offs, config, train, measured),
        "xclass": lambda config, measured: peers.train_ours(text, config, train, measured),
    }
    rows = {}
    for name, trainer in trainers.items():
        rates = {rate: peers.config_of(chosen.dim, chosen.epochs, 1024, rate, head=head) for rate in chosen.rates}
        rows[name] = best_rate(trainer, rates, text, before=CONTEXT, after=0)
    show_trained(rows)
    return {"torch": rows}


def adaptive_layers(num_items: int, chosen: argparse.Namespace) -> dict[str, list[float]]:
    """µs a query of a training step (loss, gradients, AdaGrad) of both layers, which take turns."""
    from softmax_peers import config_of

    cut_offs, dims = [num_items // 100, num_items // 10], [chosen.dim // 4, chosen.dim // 16]
    head = {"kind": "adaptive", "cuts": [0.01, 0.1], "dims": dims}
    ours = layer(config_of(chosen.dim, 1, chosen.batch, 0.1, head=head), num_items)
    theirs = torch.nn.AdaptiveLogSoftmaxWithLoss(chosen.dim, num_items, cut_offs, div_value=4.0)
    optimizer = torch.optim.Adagrad(theirs.parameters(), lr=0.1)
    times: dict[str, list[float]] = {"torch": [], "xclass": []}
    for number in range(chosen.runs + 1):
        query = torch.randn(chosen.batch, chosen.dim, generator=torch_generator(2, "bench", number))
        words = words_of(num_items, chosen.batch, number)
        assert words.positives is not None
        targets = words.positives.values

        def torch_step(query: Tensor = query, targets: Tensor = targets) -> None:
            optimizer.zero_grad()
            theirs(query.requires_grad_(True), targets).loss.backward()
            optimizer.step()

        for name, call in (("torch", torch_step), ("xclass", functools.partial(step, ours, words, query, number))):
            took = timed(call, chosen.least) / chosen.batch * 1e6
            if number:
                times[name].append(took)
    return times


def show_adaptive(num_items: int, times: dict[str, list[float]]) -> None:
    medians = {name: statistics.median(values) for name, values in times.items()}
    cells = ", ".join(f"{name} {value:,.1f} µs" for name, value in medians.items())
    ratio = statistics.median(a / b for a, b in zip(times["torch"], times["xclass"], strict=True))
    print(f"adaptive softmax, {num_items:,} items, a training example: {cells}; torch's over ours {ratio:.2f}×")


def gensim_peer(chosen: argparse.Namespace) -> dict[str, Any]:
    """word2vec's continuous bag of words, two words before and two behind, and the same with our layers."""
    import softmax_peers as peers

    if not chosen.gensim:
        sys.exit("gensim needs --gensim PYTHON, a Python that has it")
    text, threads = peers.Text(chosen.corpus, chosen.vocabulary), torch.get_num_threads()
    train = text.positions("train", 2, 2)
    settings = {"vector_size": chosen.dim, "window": 2, "epochs": chosen.epochs, "workers": threads}
    ours: dict[str, dict[str, Any]] = {
        "hierarchical": {"head": {"kind": "hierarchical"}},
        "negative sampling": {
            "sampler": {"kind": "fixed-unigram", "num_sampled": 5, "per_query": True},
            "loss": {"kind": "negative-sampling"},
        },
    }
    theirs = {"hierarchical": {"hs": 1, "negative": 0}, "negative sampling": {"hs": 0, "negative": 5}}
    rows = {}
    for name, parts in ours.items():
        alphas = {alpha: settings | theirs[name] | {"alpha": alpha} for alpha in (0.025, 0.05)}
        rows[f"gensim, {name}"] = best_rate(
            lambda given, measured: peers.train_gensim(chosen.gensim, text, given, measured), alphas, text, 2, 2
        )
        rates = {rate: peers.config_of(chosen.dim, chosen.epochs, chosen.batch, rate, **parts) for rate in chosen.rates}
        rows[f"xclass, {name}"] = best_rate(
            lambda given, measured: peers.train_ours(text, given, train, measured), rates, text, 2, 2
        )
    show_trained(rows)
    return {"gensim": rows}


def best_rate(
    trainer: Callable[[Any, Any], Any], settings: dict[float, Any], text: Any, before: int, after: int
) -> dict[str, Any]:
    """The learning rate with the best recall on valid (perplexity where there is one), then the quality on test."""
    found = {}
    for rate, given in settings.items():
        found[rate] = trainer(given, text.positions("valid", before, after).sample())
        print(f"rate {rate}: {found[rate]}", file=sys.stderr, flush=True)
    best = min(found, key=lambda rate: found[rate].perplexity or -found[rate].recall)
    again = trainer(settings[best], text.positions("test", before, after).sample())
    return {"rate": best, **again._asdict()}


def show_trained(rows: dict[str, dict[str, Any]]) -> None:
    print("| | rate | words/s | words a second of processor time | test perplexity | recall@20 |")
    print("|---|--:|--:|--:|--:|--:|")
    for name, row in rows.items():
        perplexity = "" if row["perplexity"] is None else f"{row['perplexity']:.1f}"
        speed = f"{row['words_per_s']:,.0f} | {row['words_per_cpu_s']:,.0f}"
        print(f"| {name} | {row['rate']} | {speed} | {perplexity} | {row['recall']:.4f} |")


PARTS = {"layers": layers, "steps": steps, "codes": codes, "torch": torch_peer, "gensim": gensim_peer}


def main() -> None:
    """Print tables and, at the end, one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("corpus", type=Path, nargs="?")
    parser.add_argument("--configs", type=Path, nargs="+")
    parser.add_argument("--items", type=int, nargs="+", default=[10_000, 100_000, 800_000])
    parser.add_argument("--dataset", type=Path)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--vocabulary", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.05, 0.1, 0.2])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--least", type=float, default=0.05, help="seconds that a timed call is repeated for")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--gensim", metavar="PYTHON")
    chosen = parser.parse_args()
    if chosen.part == "steps" and chosen.dataset is None:
        parser.error("steps needs --dataset")
    if chosen.part not in ("layers", "steps") and chosen.corpus is None:
        parser.error(f"{chosen.part} needs CORPUS")
    torch.set_num_threads(chosen.threads)
    keep_freed_memory()
    started = time.perf_counter()
    found = PARTS[chosen.part](chosen)
    print(json.dumps({"time": time.strftime("%Y-%m-%d %H:%M"), "took_s": time.perf_counter() - started, **found}))


if __name__ == "__main__":
    main()
