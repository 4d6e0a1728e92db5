"""Planted documents: sparse features, many labels, a Zipf tail, a known best ranking; of any size, streamed to disk.

    xclass ingest planted-documents:documents=490000,features=136000,labels=670000 --out DATASET

The world: a document is about one of M themes (drawn ∝ (m + 1)^-½). A theme has 8 labels that may apply, of which slot
j applies with the probability APPLY_j, each by itself. The slots of all themes hold every label once, in a random
order, and beyond that labels drawn by a Zipf law, so that few labels have many documents and most a handful. A label
has 6 words. A document has each word of each label that *may* apply with probability .7, and noise words by a Zipf law.

So features depend on the theme alone, not on which labels were drawn: no ranking does better on average than the
theme's labels by APPLY, which is what :func:`best_lists` gives. Only a model that knew every theme could reach it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from xclass.data.dataset import Dataset
from xclass.data.features import Sparse
from xclass.errors import ArtefactError, ConfigError
from xclass.ingest.documents.ingest import document_parts
from xclass.ingest.documents.reader import ReadDocuments
from xclass.ingest.documents.writer import DocumentJob, write_documents
from xclass.ingest.formats.document_blocks import Layout
from xclass.ingest.option_use import check_use
from xclass.ingest.options import IngestOptions
from xclass.ingest.synthetic.spec import parse_numbers
from xclass.ingest.writing.features import FeatureSpool
from xclass.io.files import scratch_directory
from xclass.io.records import check_record
from xclass.runtime.progress import Progress
from xclass.runtime.rng import numpy_generator
from xclass.types import TopK, offsets_of

PREFIX = "planted-documents:"
SPEC = "planted-documents:documents=…,features=…,labels=…[,themes=…][,noise=…][,seed=…]"
KEYS = {"documents": "documents", "features": "features", "labels": "labels", "themes": "themes", "noise": "noise"}
APPLY = np.array([0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.4, 0.25])  # 5.45 labels a document
SLOTS = len(APPLY)
WORDS = 6
KEPT = 0.7
DOCUMENTS_PER_BLOCK = 1 << 13
ZIPF_SHIFT = 10.0


@dataclass(frozen=True)
class DocumentWorld:
    """The parameters, and draws from the world; a block of documents can be made again alone.

    Args:
        documents: of all parts together. features: D. labels: L. themes: M; 0 for a quarter of the documents, but as
            many as the labels need. noise: words that tell nothing, a document. seed: of everything.
    """

    documents: int
    features: int
    labels: int
    themes: int = 0
    noise: int = 44
    seed: int = 0

    def __post_init__(self) -> None:
        fewest = -(-self.labels // SLOTS) if self.themes else 0
        least = {"documents": 10, "features": 2 * WORDS, "labels": SLOTS, "noise": 0, "themes": fewest}
        for name, wanted in least.items():
            if getattr(self, name) < wanted:
                raise ConfigError(f"{name} of planted documents are too few", wanted=wanted, got=getattr(self, name))

    @property
    def num_themes(self) -> int:
        """M."""
        return self.themes or max(self.documents // 4, -(-self.labels // SLOTS))

    @cached_property
    def slots(self) -> np.ndarray:
        """int32 (M, 8): the labels of each theme, most probable first. −1: a label that the theme had already."""
        generator, cells = numpy_generator(self.seed, "planted themes"), self.num_themes * SLOTS
        everyone = generator.permutation(self.labels)
        others = everyone[_zipf(generator, self.labels, 1.0, cells - self.labels)]
        slots = generator.permutation(np.concatenate([everyone, others])).astype(np.int32).reshape(-1, SLOTS)
        order = np.argsort(slots, axis=1, kind="stable")
        rising = np.take_along_axis(slots, order, axis=1)
        rising[:, 1:][rising[:, 1:] == rising[:, :-1]] = -1
        np.put_along_axis(slots, order, rising, axis=1)
        return slots

    @cached_property
    def words(self) -> np.ndarray:
        """int32 (L, 6): the words of each label."""
        generator = numpy_generator(self.seed, "planted words")
        named = generator.permutation(self.features)
        return named[_zipf(generator, self.features, 0.5, self.labels * WORDS)].astype(np.int32).reshape(-1, WORDS)

    def themes_of(self, block: int) -> np.ndarray:
        """int64, the theme of each document of a block: by inversion of the running totals of (m + 1)^-½."""
        count = min(DOCUMENTS_PER_BLOCK, self.documents - block * DOCUMENTS_PER_BLOCK)
        draws = numpy_generator(self.seed, "planted documents", block).random(count)
        return np.minimum((draws * (np.sqrt(self.num_themes + 1) - 1) + 1) ** 2 - 1, self.num_themes - 1).astype(
            np.int64
        )

    def block(self, number: int) -> tuple[np.ndarray, np.ndarray, Sparse]:
        """(lengths, labels, features) of the documents of a block."""
        themes, generator = self.themes_of(number), numpy_generator(self.seed, "planted contents", number)
        slots = self.slots[themes]
        applies = (generator.random(slots.shape) < APPLY) & (slots >= 0)
        words = self.words[np.maximum(slots, 0)].reshape(len(themes), -1)
        there = (generator.random(words.shape) < KEPT) & np.repeat(slots >= 0, WORDS, axis=1)
        noise = _zipf(generator, self.features, 0.8, len(themes) * self.noise).reshape(len(themes), self.noise)
        values = np.concatenate([words, noise.astype(np.int32)], axis=1)
        kept = np.concatenate([there, np.ones_like(noise, dtype=bool)], axis=1)
        weights = np.ones(int(kept.sum()), dtype=np.float32)
        found = Sparse(kept.sum(axis=1), values[kept].astype(np.int64), weights).canonical()
        return applies.sum(axis=1), slots[applies], found

    @property
    def num_blocks(self) -> int:
        """How many blocks of documents there are."""
        return -(-self.documents // DOCUMENTS_PER_BLOCK)


def ingest_planted_documents(source: str, out: Path, options: IngestOptions) -> Dataset:
    """``xclass ingest planted-documents:…``: test_fraction, valid_fraction and seed apply; others are refused.

    Time: about that of writing. Memory: 30 bytes a pair, 60 bytes a label.
    """
    check_use(options, "planted documents", source)
    if options.split not in ("auto", "random"):
        raise ConfigError("planted documents are split at random", where="--split", wanted="random", got=options.split)
    world = DocumentWorld(**{"seed": options.seed, **parse_planted_documents(source)})
    with scratch_directory(out) as folder, FeatureSpool(folder) as spool, FeatureSpool(folder / "items") as items:
        read = _draw(world, spool)
        spool.close()
        parts = document_parts(read, "random", options)
        job = DocumentJob(source, "planted-documents", options, "random", read, parts, spool)
        job.fields["planted_documents"] = asdict(world)
        job.item_features = lambda order: _words_of(world, order, items)
        return write_documents(job, out)


def parse_planted_documents(source: str) -> dict[str, int]:
    """The parameters of ``planted-documents:documents=…,features=…,labels=…[,themes=…][,noise=…][,seed=…]``.

    >>> parse_planted_documents("planted-documents:documents=100,features=50,labels=2e1")
    {'documents': 100, 'features': 50, 'labels': 20}
    """
    needed = ("documents", "features", "labels")
    return parse_numbers(source, PREFIX, SPEC, KEYS | {"seed": "seed"}, {}, needed)


def planted_documents(dataset: Dataset) -> DocumentWorld:
    """The world that the documents of a dataset were drawn from; ArtefactError when they were not."""
    found = dataset.manifest.get("planted_documents")
    if found is None:
        raise ArtefactError("these documents were not planted", where=dataset.path, do=f"make them with {SPEC}")
    return check_record(DocumentWorld, found, f"{dataset.path}: planted_documents")


def best_lists(dataset: Dataset, queries: np.ndarray, k: int) -> TopK:
    """The first k labels (item numbers) of the best ranking for each of these documents; its score is the probability.

    A theme has 8 labels at most, so lists are no longer than that: what else is as good as nothing.
    """
    world = planted_documents(dataset)
    number = np.empty(world.labels, dtype=np.int64)
    number[dataset.items["item_id"].to_numpy()] = np.arange(world.labels)
    themes = np.concatenate([world.themes_of(block) for block in range(world.num_blocks)])[queries]
    slots = world.slots[themes][:, :k]
    there = slots >= 0
    scores = np.broadcast_to(APPLY[:k].astype(np.float32), slots.shape)[there]
    lengths = torch.from_numpy(there.sum(axis=1).astype(np.int64))
    return TopK(offsets_of(lengths), torch.from_numpy(number[slots[there]]), torch.from_numpy(scores.copy()))


def _draw(world: DocumentWorld, spool: FeatureSpool) -> ReadDocuments:
    lengths, labels = [], []
    with Progress("draw planted documents", world.documents, "documents") as progress:
        for block in range(world.num_blocks):
            counts, drawn, found = world.block(block)
            lengths.append(counts)
            labels.append(drawn)
            spool.append(found)
            progress.advance(len(counts))
    layout = Layout(world.documents, world.features, world.labels)
    everything = {"all": world.documents}
    return ReadDocuments.numbered(np.concatenate(lengths), np.concatenate(labels), everything, layout)


def _words_of(world: DocumentWorld, order: np.ndarray, spool: FeatureSpool) -> FeatureSpool:
    """The labels' words as their features, in the order of item numbers."""
    for start in range(0, len(order), DOCUMENTS_PER_BLOCK):
        words = world.words[order[start : start + DOCUMENTS_PER_BLOCK]]
        lengths = np.full(len(words), WORDS, dtype=np.int64)
        spool.append(Sparse(lengths, words.reshape(-1).astype(np.int64), np.ones(words.size, np.float32)).canonical())
    spool.close()
    return spool


def _zipf(generator: np.random.Generator, size: int, exponent: float, count: int) -> np.ndarray:
    """int64 (count,): ranks 0 … size − 1, rank r ∝ (r + 10)^-exponent: the law's integral, inverted."""
    draws, low, high = generator.random(count), ZIPF_SHIFT, size + ZIPF_SHIFT
    if exponent == 1.0:
        found = low * (high / low) ** draws
    else:
        power = 1.0 - exponent
        found = (low**power + draws * (high**power - low**power)) ** (1.0 / power)
    return np.minimum((found - ZIPF_SHIFT).astype(np.int64), size - 1)
