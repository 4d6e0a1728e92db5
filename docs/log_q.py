"""A planted problem on which log-Q decides: trains, prints the table and draws docs/log-q.png.

    python docs/log_q.py            # or: make figures

Queries draw items from a P(item | query) that is known, with Zipf's popularity in it. The same model is trained on the
same pairs with the full softmax, and with candidates that come in proportion to popularity: the batch's own positives,
or draws from the items' frequencies. What differs is what is done about the candidates' expected counts.
"""

from __future__ import annotations

import argparse
import functools
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xclass.models.two_tower import TwoTower
from xclass.optim import ScheduleConfig, learning_rate
from xclass.runtime.rng import torch_generator
from xclass.training.build import build_model
from xclass.training.run_config import RunConfig
from xclass.types import Batch, Ragged

PAIRS_PER_BATCH = 512
FULL = "full softmax"
UNIGRAM = {"kind": "fixed-unigram", "power": 1.0, "num_sampled": PAIRS_PER_BATCH}
SETTINGS: dict[str, dict[str, Any]] = {
    FULL: {"sampler": {"kind": "all"}, "loss": {"kind": "full-softmax"}},
    "in-batch, no log-Q": {"sampler": {"kind": "in-batch"}, "loss": {"subtract_log_q": False}},
    "in-batch, log-Q": {"sampler": {"kind": "in-batch"}},
    "in-batch, corrected log-Q": {"sampler": {"kind": "in-batch"}, "loss": {"corrected_log_q": True}},
    "unigram, no log-Q": {"sampler": UNIGRAM, "loss": {"subtract_log_q": False}},
    "unigram, log-Q": {"sampler": UNIGRAM},
    "unigram, corrected log-Q": {"sampler": UNIGRAM, "loss": {"corrected_log_q": True}},
}
CUT_OFF = 10
DECILES = 10


@dataclass(frozen=True)
class World:
    """log P(item | query), float64 (queries, items); items are numbered by falling popularity."""

    log_p: Tensor
    sequence = None  # its queries are no positions of a text

    @classmethod
    def planted(cls, num_queries: int, num_items: int, seed: int) -> World:
        """Tastes and items of four dimensions, and a Zipf popularity that all queries share."""
        generator = torch_generator(seed, "log-q world")
        tastes = torch.randn(num_queries, 4, generator=generator, dtype=torch.float64)
        items = torch.randn(num_items, 4, generator=generator, dtype=torch.float64)
        items = torch.nn.functional.normalize(items, dim=1)
        log_p = (1.5 * tastes @ items.T - (torch.arange(num_items) + 2.0).log()).log_softmax(1)
        return cls(log_p[:, log_p.exp().mean(0).argsort(descending=True)])

    @property
    def num_queries(self) -> int:
        return self.log_p.shape[0]

    @property
    def num_items(self) -> int:
        return self.log_p.shape[1]

    @functools.cached_property
    def running_totals(self) -> Tensor:
        """Σ of P over the items up to each."""
        return self.log_p.exp().cumsum(1)

    @functools.cached_property
    def popularity(self) -> Tensor:
        """P(item) when all queries are equally frequent."""
        return self.log_p.exp().mean(0)

    @property
    def item_counts(self) -> Tensor:
        """Counts of so many pairs that they are exact: log-Q is then that of the draws."""
        return (self.popularity * 1e9).round().long()

    def pairs(self, size: int, seed: int, step: int) -> Batch:
        """Pairs (query, item) drawn from the world."""
        generator = torch_generator(seed, "log-q pairs", step)
        queries = torch.randint(self.num_queries, (size,), generator=generator)
        uniform = torch.rand(size, 1, generator=generator, dtype=torch.float64)
        items = torch.searchsorted(self.running_totals[queries], uniform).squeeze(1).clamp_(max=self.num_items - 1)
        nothing = Ragged(torch.zeros(size + 1, dtype=torch.int64), torch.empty(0, dtype=torch.int64))
        return Batch(queries, nothing, Ragged(torch.arange(size + 1), items))


def configuration(setting: str, seed: int) -> RunConfig:
    """An inner-product model of 8 dimensions with one vector per query; loss and sampler as the setting says."""
    model = {"embedding_dim": 8, "normalize": False, "temperature": 1.0, "query": {"kind": "id"}}
    return RunConfig.model_validate({"model": model, "train": {"seed": seed}, **SETTINGS[setting]})


def train(world: World, setting: str, seed: int, steps: int, rate: float = 0.3) -> Tensor:
    """Scores (queries, items) after so many steps, float64."""
    model = build_model(configuration(setting, seed), world, None)
    for step in range(steps):
        prepared = model.prepare(
            world.pairs(PAIRS_PER_BATCH, seed, step), torch_generator(seed, "log-q candidates", step)
        )
        rows = model.pull(prepared.row_plans, requires_grad=True)
        model.loss(prepared, rows).mean().backward()
        model.push(prepared.row_plans, rows, learning_rate(ScheduleConfig(), rate, step, steps))
    return scores_of(model, world)


def scores_of(model: TwoTower, world: World) -> Tensor:
    """⟨query, item⟩ of all of them."""
    lists = Ragged.from_lists([[]] * world.num_queries)
    queries, items = model.query_vectors(Batch(torch.arange(world.num_queries), lists)), model.item_vectors().tensor()
    assert items is not None
    return (queries @ items.T).double()


@dataclass(frozen=True)
class Measured:
    """How a model's scores stand to the truth.

    recall: probability that the items of its top ten have, as a share of that of the best ten.
    rank: rank correlation with log P(item | query), mean over queries.
    slope: by how much score − log P falls when log popularity rises by 1: 0 without bias, −1 when log-Q is missing.
    kl: KL(P ‖ softmax of the scores), nats.
    by_decile: mean of score − log P over the items of each popularity decile, most popular first, centred.
    """

    recall: float
    rank: float
    slope: float
    kl: float
    by_decile: tuple[float, ...]


def measure(world: World, scores: Tensor) -> Measured:
    """Against the world's own probabilities: no test pairs are drawn."""
    p = world.log_p.exp()
    found = p.gather(1, scores.topk(CUT_OFF, dim=1).indices).sum(1) / p.topk(CUT_OFF, dim=1).values.sum(1)
    error = scores - world.log_p
    error = (error - error.mean(1, keepdim=True)).mean(0)
    log_popularity = world.popularity.log() - world.popularity.log().mean()
    ranks = torch.stack([part.argsort(1).argsort(1).double() for part in (scores, world.log_p)])
    centred = torch.nn.functional.normalize(ranks - ranks.mean(2, keepdim=True), dim=2)
    return Measured(
        recall=float(found.mean()),
        rank=float((centred[0] * centred[1]).sum(1).mean()),
        slope=float((error * log_popularity).sum() / (log_popularity**2).sum()),
        kl=float((p * (world.log_p - scores.log_softmax(1))).sum(1).mean()),
        by_decile=tuple(float(part.mean()) for part in error.chunk(DECILES)),
    )


def experiment(
    seeds: int, steps: int, settings: list[str], num_queries: int, num_items: int
) -> dict[str, list[Measured]]:
    """Each setting on the same worlds, one a seed, with the same pairs in the same order."""
    worlds = [World.planted(num_queries, num_items, seed) for seed in range(seeds)]
    return {
        setting: [measure(world, train(world, setting, seed, steps)) for seed, world in enumerate(worlds)]
        for setting in settings
    }


def table(results: dict[str, list[Measured]]) -> str:
    """Mean ± standard deviation over seeds, as Markdown."""
    lines = ["| training | recall@10 | rank correlation | slope | KL |", "|---|--:|--:|--:|--:|"]
    for setting, runs in results.items():
        cells = []
        for name in ("recall", "rank", "slope", "kl"):
            values = [getattr(run, name) for run in runs]
            cells.append(f"{statistics.mean(values):z.3f} ± {statistics.pstdev(values):.3f}".replace("-", "−"))
        lines.append(f"| {setting} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(results: dict[str, list[Measured]], path: Path) -> None:
    """Bias by popularity decile: the full softmax and the in-batch settings, with one standard deviation over seeds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    shown = {setting: runs for setting, runs in results.items() if not setting.startswith("unigram")}
    for (setting, runs), marker in zip(shown.items(), "os^v", strict=False):
        deciles = torch.tensor([run.by_decile for run in runs])
        places = range(1, DECILES + 1)
        axes.errorbar(places, deciles.mean(0), deciles.std(0, correction=0), marker=marker, markersize=4, label=setting)
    axes.axhline(0, color="grey", linewidth=0.5)
    axes.set_xlabel("popularity decile of the item (1: most popular)")
    axes.set_ylabel("score − log P(item | query)")
    axes.set_xticks(range(1, DECILES + 1))
    axes.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=90, metadata={"Software": None})
    pyplot.close(figure)


def main() -> None:
    """Train, print, draw."""
    parser = argparse.ArgumentParser(description="A planted problem on which log-Q decides.")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("log-q.png"))
    options = parser.parse_args()
    torch.set_num_threads(1)  # the steps are too small to share
    results = experiment(options.seeds, options.steps, list(SETTINGS), num_queries=50, num_items=200)
    print(table(results))
    draw(results, options.out)


if __name__ == "__main__":
    main()
