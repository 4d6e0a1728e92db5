"""The peers of bench_softmax: torch's adaptive softmax and gensim's word2vec, each beside ours on the same words.

Both sides get the same numbers for the same words (rank by train count, 0 the most frequent; rare words share one), the
same contexts and the same dimensions. Contexts of the adaptive layers are the four words before; gensim's windows are
symmetric, so there they are two words before and two behind, for both.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from xclass.models.two_tower import TwoTower
from xclass.runtime.rng import torch_generator
from xclass.training import Trainer
from xclass.training.build import build_model
from xclass.training.run_config import RunConfig
from xclass.types import Batch, Ragged, offsets_of

CUT_OFF = 20
SPLITS = ("train", "valid", "test")
MEASURED = 4000


class Positions(NamedTuple):
    """contexts: int32 (T, C), −1 where a sentence ends. words: int64 (T,)."""

    contexts: Tensor
    words: Tensor

    def batch(self, rows: Tensor | slice) -> Batch:
        context, words = self.contexts[rows], self.words[rows]
        there = context >= 0
        history = Ragged(offsets_of(there.sum(1)), context[there].long())
        return Batch(torch.full_like(words, -1), history, Ragged(torch.arange(len(words) + 1), words))

    def sample(self, size: int = MEASURED) -> Positions:
        """Some of them, the same ones each time."""
        rows = torch.randperm(len(self.words), generator=torch_generator(0, "positions"))[:size]
        return Positions(self.contexts[rows], self.words[rows])


class Text:
    """A text as numbers.

    sentences: split → lists of numbers. counts: int64 (N,), falling.
    """

    def __init__(self, folder: Path, vocabulary: int) -> None:
        lines = {split: (folder / f"{split}.txt").read_text().splitlines() for split in SPLITS}
        counted = Counter(word for line in lines["train"] for word in line.split())
        known = {word: number for number, (word, _) in enumerate(counted.most_common(vocabulary - 1), 1)}
        raw = {split: [[known.get(word, 0) for word in line.split()] for line in part] for split, part in lines.items()}
        counts = torch.bincount(torch.tensor([word for line in raw["train"] for word in line]), minlength=vocabulary)
        order = counts.argsort(descending=True, stable=True)
        rank = torch.empty_like(order).scatter_(0, order, torch.arange(len(order))).tolist()
        self.counts = counts[order]
        self.sentences = {split: [[rank[word] for word in line] for line in part] for split, part in raw.items()}

    def positions(self, split: str, before: int, after: int) -> Positions:
        """Every position that has a context."""
        sentences = [line for line in self.sentences[split] if len(line) > 1]
        words = torch.tensor([word for line in sentences for word in line])
        owner = torch.repeat_interleave(torch.arange(len(sentences)), torch.tensor([len(line) for line in sentences]))
        columns = []
        for step in [*range(-before, 0), *range(1, after + 1)]:
            place = (torch.arange(len(words)) + step).clamp(0, len(words) - 1)
            inside = (owner[place] == owner) & (place == torch.arange(len(words)) + step)
            columns.append(torch.where(inside, words[place], -1).int())
        contexts = torch.stack(columns, 1)
        some = (contexts >= 0).any(1)
        return Positions(contexts[some], words[some])


class WordBatches:
    """The positions of a text as batches of training, in an order of its own each epoch."""

    def __init__(self, positions: Positions, size: int) -> None:
        self.positions, self.size = positions, size

    def __len__(self) -> int:
        return math.ceil(len(self.positions.words) / self.size)

    def positives_per_epoch(self) -> int:
        return len(self.positions.words)

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        order = torch.randperm(len(self.positions.words), generator=torch_generator(0, "epoch", epoch))
        shuffled = Positions(*(each.index_select(0, order) for each in self.positions))
        for start in range(first * self.size, len(order), self.size):
            yield shuffled.batch(slice(start, start + self.size))


class Trained(NamedTuple):
    """words_per_s: by the clock; words_per_cpu_s: by the processor time of all threads."""

    words_per_s: float
    words_per_cpu_s: float
    perplexity: float | None
    recall: float


def config_of(dim: int, epochs: int, batch: int, rate: float, **parts: Any) -> RunConfig:
    """A bag of the context below an output layer, inner products."""
    return RunConfig.model_validate(
        {
            "model": {"embedding_dim": dim, "normalize": False, "temperature": 1.0, "query": {"kind": "history"}},
            "train": {"epochs": epochs, "learning_rate": rate, "batch": {"by": "pair", "size": batch}},
            **parts,
        }
    )


def train_ours(text: Text, config: RunConfig, train: Positions, measured: Positions) -> Trained:
    """Through the loop of `xclass train`; what is measured comes from the finished tables."""
    catalogue = SimpleNamespace(
        num_queries=1, num_items=len(text.counts), item_counts=text.counts, num_train_queries=1, sequence=None,
        query_features={}, item_features={}, feature_sizes=lambda side: {}, propensity=(0.55, 1.5),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        model = build_model(config, catalogue, None)  # type: ignore[arg-type]
        batches = WordBatches(train, config.train.batch.size)
        trainer = Trainer(model, batches, config.train, Path(folder), None)  # type: ignore[arg-type]
        before = time.process_time()
        position = trainer.run()
        cpu_s = time.process_time() - before
    words = config.train.epochs * len(train.words)
    return Trained(words / position.train_s, words / cpu_s, *quality(model, measured))


@torch.no_grad()
def quality(model: TwoTower, measured: Positions) -> tuple[float, float]:
    """Perplexity and recall@20 of the words, exact."""
    total, hits = 0.0, 0
    for rows in torch.arange(len(measured.words)).split(1024):
        batch = measured.batch(rows)
        vectors, words = model.query_vectors(batch), measured.words[rows]
        total += float(model.log_probability(vectors, Ragged(torch.arange(len(rows) + 1), words)).double().sum())
        found = model.head.topk(vectors, CUT_OFF, model.tables, exact=True).ids.view(len(rows), -1)
        hits += int((found == words[:, None]).any(1).sum())
    return math.exp(-total / len(measured.words)), hits / len(measured.words)


class TorchAdaptive(nn.Module):
    """torch's adaptive softmax over a mean of the context's vectors: what a careful user writes."""

    def __init__(self, num_items: int, dim: int, cutoffs: list[int]) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(num_items, dim, mode="mean", sparse=True)
        self.layer = nn.AdaptiveLogSoftmaxWithLoss(dim, num_items, cutoffs, div_value=4.0)

    def vectors(self, batch: Batch) -> Tensor:
        found: Tensor = self.bag(batch.history.values, batch.history.offsets[:-1])
        return found

    def forward(self, batch: Batch) -> Tensor:
        assert batch.positives is not None
        loss: Tensor = self.layer(self.vectors(batch), batch.positives.values).loss
        return loss


def train_torch(text: Text, cutoffs: list[int], config: RunConfig, train: Positions, measured: Positions) -> Trained:
    """The same batches; AdaGrad for both parts, its rate falling as ours."""
    model = TorchAdaptive(len(text.counts), config.model.embedding_dim, cutoffs)
    with torch.no_grad():
        model.bag.weight.normal_(0, 0.1, generator=torch_generator(0, "torch bag"))
    optimizer = torch.optim.Adagrad(model.parameters(), lr=config.train.learning_rate)
    batches = WordBatches(train, config.train.batch.size)
    steps, started, before = config.train.epochs * len(batches), time.perf_counter(), time.process_time()
    for epoch in range(config.train.epochs):
        for number, batch in enumerate(batches.epoch(epoch)):
            share = (epoch * len(batches) + number) / steps
            optimizer.param_groups[0]["lr"] = config.train.learning_rate * 0.5 * (1 + math.cos(math.pi * share))
            optimizer.zero_grad()
            model(batch).backward()
            optimizer.step()
    words = config.train.epochs * len(train.words)
    took = words / (time.perf_counter() - started), words / (time.process_time() - before)
    total, hits = 0.0, 0
    with torch.no_grad():
        for rows in torch.arange(len(measured.words)).split(1024):
            logs = model.layer.log_prob(model.vectors(measured.batch(rows)))
            own = measured.words[rows][:, None]
            total += float(logs.gather(1, own).double().sum())
            hits += int((logs.topk(CUT_OFF).indices == own).any(1).sum())
    return Trained(*took, math.exp(-total / len(measured.words)), hits / len(measured.words))


GENSIM = """
import json, sys, time
import numpy as np
from gensim.models import Word2Vec
given = json.load(open(sys.argv[1]))
sentences = [[str(word) for word in line] for line in given["sentences"]]
settings = given["settings"]
model = Word2Vec(min_count=1, sample=0, shrink_windows=False, sg=0, cbow_mean=1, seed=1, **settings)
model.build_vocab(sentences)
started, before = time.perf_counter(), time.process_time()
model.train(sentences, total_examples=len(sentences), epochs=settings["epochs"])
wall_s, cpu_s = time.perf_counter() - started, time.process_time() - before
words = settings["epochs"] * sum(map(len, sentences))
wv, size = model.wv, len(model.wv)
number = np.array([int(word) for word in wv.index_to_key])
place = np.full(given["items"], -1); place[number] = np.arange(size)
if settings["hs"]:
    codes = [np.asarray(wv.get_vecattr(word, "code")) for word in wv.index_to_key]
    points = [np.asarray(wv.get_vecattr(word, "point")) for word in wv.index_to_key]
    owner = np.repeat(np.arange(size), [len(code) for code in codes])
    step = 2 * np.concatenate(points).astype(np.int64) + np.concatenate(codes)
    starts = np.concatenate([[0], np.cumsum([len(code) for code in codes])[:-1]])
total, hits, measured = 0.0, 0, 0
for context, word in zip(given["contexts"], given["words"]):
    known = [place[each] for each in context if each >= 0 and place[each] >= 0]
    if not known or place[word] < 0:
        continue
    hidden = wv.vectors[known].mean(0)
    if settings["hs"]:
        score = model.syn1 @ hidden
        both = -np.logaddexp(0.0, np.stack([-score, score], 1)).ravel()
        scores = np.add.reduceat(both[step], starts)
        total += scores[place[word]]
    else:
        scores = model.syn1neg @ hidden
    hits += int((scores > scores[place[word]]).sum() < given["k"])
    measured += 1
json.dump({
    "words_per_s": words / wall_s, "words_per_cpu_s": words / cpu_s, "recall": hits / measured,
    "perplexity": float(np.exp(-total / measured)) if settings["hs"] else None,
}, sys.stdout)
"""


def train_gensim(python: str, text: Text, settings: dict[str, Any], measured: Positions) -> Trained:
    """In a process of the Python that has it; building its vocabulary is not timed, as preparing positions is not."""
    given = {
        "sentences": [line for line in text.sentences["train"] if len(line) > 1],
        "items": len(text.counts),
        "settings": settings,
        "contexts": measured.contexts.tolist(),
        "words": measured.words.tolist(),
        "k": CUT_OFF,
    }
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "given.json"
        file.write_text(json.dumps(given))
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(
            [python, "-c", GENSIM, str(file)], env=environment, capture_output=True, text=True, check=False
        )
    if done.returncode:
        sys.exit(f"{python} failed:\n{done.stderr[-2000:]}")
    return Trained(**json.loads(done.stdout))
