"""Scorers of documents on disk: trained part by part, each a file that appears when it is whole; then one search.

neighbours.safetensors    the inverted index of the train documents and their items
linear.safetensors        sparse weights by item
fusion.json               the weight of each scorer, and how it was chosen
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from xclass.data.dataset import Dataset
from xclass.errors import ArtefactError, ConfigError, InputError, nearest
from xclass.index.build import Index
from xclass.index.interface import BatchSearch, RetrievalModel
from xclass.index.rows import search_lists
from xclass.io.files import atomic_file, require_space
from xclass.io.manifest import write_json
from xclass.io.records import Record, read_json, read_record
from xclass.io.tensors import mapped_tensors, write_tensors
from xclass.runtime.progress import say
from xclass.runtime.rng import torch_generator
from xclass.scorers import Fusion, LinearScorer, NeighboursScorer, Suggestions, choose_weights
from xclass.scorers.config import DocumentsConfig
from xclass.types import Batch, Ragged, TopK, offsets_of

FUSION = "fusion.json"
Scorer = TypeVar("Scorer", LinearScorer, NeighboursScorer)
BATCH = 512  # queries that are scored together


class Documents(NamedTuple):
    """Train documents: their features, how many features there are, their items."""

    features: Ragged
    size: int
    items: Ragged

    def take(self, rows: Tensor) -> Documents:
        """Some of them."""
        return Documents(self.features.take(rows), self.size, self.items.take(rows))


def file_of(scorer: str) -> str:
    """The name of a scorer's file."""
    return f"{scorer}.safetensors"


def files_of(config: DocumentsConfig) -> list[str]:
    """The files of a finished run that has these scorers, without the towers'."""
    return sorted([*(file_of(name) for name in config.scorers if name != "towers"), FUSION]) if config.sparse else []


def field_name(config: DocumentsConfig, sizes: dict[str, int]) -> str:
    """The features that scorers read.

    Raises:
        ConfigError: there are none, none of this name, or several and no name.
    """
    if config.features in sizes:
        return config.features
    if config.features or len(sizes) != 1:
        do = nearest(config.features, sizes) if config.features else "ingest documents with features, or name one kind"
        got = config.features or ", ".join(sizes) or "a dataset without features of queries"
        raise ConfigError("these scorers need features of queries", where="documents.features", got=got, do=do)
    return next(iter(sizes))


def train_documents(config: DocumentsConfig, dataset: Dataset) -> tuple[str, Documents]:
    """The name of the features, and the documents with a train item."""
    name = field_name(config, dataset.feature_sizes("query"))
    train = dataset.split("train")
    numbers = train.lengths().nonzero().squeeze(1)
    plain = train.with_values(train.values)
    features = dataset.query_features[name].take(numbers)
    return name, Documents(features, dataset.feature_sizes("query")[name], plain.take(numbers))


def train_scorers(out: Path, dataset: Dataset, config: DocumentsConfig, seed: int) -> dict[str, Any]:
    """Train what is not in ``out`` yet; what the run's manifest says of the scorers.

    Raises:
        ConfigError: the dataset has no such features; weights can't be chosen.
        ArtefactError: a file can't be written, or is cut.
    """
    name, documents = train_documents(config, dataset)
    said: dict[str, Any] = {"name": name, "documents": len(documents.features), "features": documents.size}
    if not (out / FUSION).exists() and _needs_a_cut(config, dataset):
        write_json(out / FUSION, _chosen_on_a_cut(config, dataset, documents, seed))
    started = time.perf_counter()
    neighbours = None
    mines = config.linear.negatives == "mined" and "linear" in config.scorers
    if "neighbours" in config.scorers or (mines and not (out / file_of("linear")).exists()):
        neighbours = _neighbours(out, config, documents, dataset.num_items)
    said["neighbours_s"] = round(time.perf_counter() - started, 3)
    started = time.perf_counter()
    if "linear" in config.scorers and not (out / file_of("linear")).exists():
        _write(out / file_of("linear"), _linear(config, documents, dataset.num_items, neighbours, seed).tensors())
    said["linear_s"] = round(time.perf_counter() - started, 3)
    if not (out / FUSION).exists():
        write_json(out / FUSION, _fused(out, config, dataset, seed))
    return {**said, "fusion": read_json(out / FUSION)}


def _neighbours(out: Path, config: DocumentsConfig, documents: Documents, num_items: int) -> NeighboursScorer:
    path = out / file_of("neighbours")
    if path.exists():
        return _opened(path, lambda tensors: NeighboursScorer.of_tensors(config.neighbours, tensors, num_items))
    scorer = NeighboursScorer.fit(config.neighbours, *documents, num_items)
    if "neighbours" in config.scorers:
        _write(path, scorer.tensors())
    return scorer


def _linear(
    config: DocumentsConfig, documents: Documents, num_items: int, neighbours: NeighboursScorer | None, seed: int
) -> LinearScorer:
    return LinearScorer.fit(config.linear, *documents, num_items, neighbours, seed)


def _needs_a_cut(config: DocumentsConfig, dataset: Dataset) -> bool:
    """Whether weights are chosen on train documents that scorers of their own have not seen.

    Raises:
        ConfigError: they can't be chosen: the towers would have to be trained twice.
    """
    if config.fusion.weights.given or len(config.scorers) == 1:
        return False
    if config.towers:
        raise ConfigError(
            "weights are chosen among linear and neighbours only",
            where="documents.fusion.weights",
            wanted="a weight for each of " + ", ".join(config.scorers),
        )
    return "valid" not in dataset.splits


def _fused(out: Path, config: DocumentsConfig, dataset: Dataset, seed: int) -> dict[str, Any]:
    """The weights that are given, that are none to choose, or that the trained scorers need on the valid split."""
    if config.fusion.weights.given:
        return {"weights": config.fusion.weights.given, "chosen_on": "given"}
    if len(config.scorers) == 1:
        return {"weights": {config.scorers[0]: 1.0}, "chosen_on": "one scorer"}
    asked, truth = _valid_part(config, dataset, torch_generator(seed, "fusion valid"))
    return _chosen(_both(out, config, dataset.num_items), asked, truth, "the valid split")


def _chosen_on_a_cut(config: DocumentsConfig, dataset: Dataset, documents: Documents, seed: int) -> dict[str, Any]:
    fusion = config.fusion
    order = torch.randperm(len(documents.features), generator=torch_generator(seed, "fusion cut"))
    cut = max(int(len(order) * fusion.cut), 1)
    held, rest = order[:cut][: fusion.cut_queries].sort().values, order[cut:].sort().values
    part, kept = documents.take(held), documents.take(rest)
    neighbours = NeighboursScorer.fit(config.neighbours, *kept, dataset.num_items)
    linear = _linear(config, kept, dataset.num_items, neighbours, seed)
    both = Fusion(linear, neighbours, fusion.shortlist, dataset.num_items)
    return _chosen(both, part.features, part.items.long(), f"{fusion.cut:.0%} of train")


def _chosen(both: Fusion, asked: Ragged, truth: Ragged, where: str) -> dict[str, Any]:
    say(f"choosing the scorers' weights on {len(asked):,} documents ({where})")
    weights, value = choose_weights(list(_suggestions(both, asked)), truth)
    return {"weights": weights, "chosen_on": where, "queries": len(asked), "precision": round(value, 6)}


def _valid_part(config: DocumentsConfig, dataset: Dataset, generator: torch.Generator) -> tuple[Ragged, Ragged]:
    """Features and items of a sample of the valid documents."""
    truth = dataset.split("valid")
    numbers = truth.lengths().nonzero().squeeze(1)
    numbers = numbers[torch.randperm(len(numbers), generator=generator)[: config.fusion.cut_queries].sort().values]
    name = field_name(config, dataset.feature_sizes("query"))
    return dataset.query_features[name].take(numbers), truth.with_values(truth.values).take(numbers).long()


def _suggestions(fusion: Fusion, features: Ragged) -> Iterator[Suggestions]:
    for start in range(0, len(features), BATCH):
        yield fusion.suggest(features.slice(start, min(start + BATCH, len(features))))


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    require_space(path, sum(tensor.nbytes for tensor in tensors.values()) + (1 << 20))
    with atomic_file(path) as temporary:
        write_tensors(temporary, tensors)


def _opened(path: Path, scorer: Callable[[dict[str, Tensor]], Scorer]) -> Scorer:
    """The scorer of a file, its tensors memory-mapped; ArtefactError where they can't be its."""
    try:
        return scorer(mapped_tensors(path))
    except KeyError as error:
        raise ArtefactError("this file lacks a tensor of its scorer", where=path, wanted=error.args[0]) from None
    except InputError as error:
        raise ArtefactError(error.what, where=path, wanted=error.wanted, got=error.got) from None


class WithoutTowers:
    """Stands for the model of a run that has no towers: it knows any query by its features, and has no vectors."""

    @property
    def tower(self) -> WithoutTowers:
        """Itself."""
        return self

    def check_new_queries(self) -> None:
        """New queries are welcome."""

    def item_vectors(self) -> None:
        """None: there are no vectors to index; the scorers have their own search."""

    def query_vectors(self, batch: Batch) -> Tensor:
        """InputError: no vector."""
        raise InputError("this run has no towers, and so no vectors", wanted="a run with towers among its scorers")


class DocumentSearch(BatchSearch):
    """Search by all scorers of a run: the weighted sum of their scores over what any of them suggests.

    Args:
        fusion, weights: as trained.
        features: the name of the features that are read.
        towers: the model, and an index over its item vectors, exact or not, where towers are among the scorers.
        allowed: bool (N,), nothing else comes.
    """

    kind = "documents"
    queries_at_once = BATCH

    def __init__(
        self,
        fusion: Fusion,
        weights: dict[str, float],
        features: str,
        towers: tuple[RetrievalModel, Index] | None = None,
        allowed: Tensor | None = None,
    ) -> None:
        self._fusion, self._weights, self._features, self._towers = fusion, weights, features, towers
        self._allowed = allowed

    @property
    def num_items(self) -> int:
        """N."""
        return self._fusion.num_items

    def only(self, allowed: Tensor) -> DocumentSearch:
        """The same search among these items: bool (N,)."""
        return DocumentSearch(self._fusion, self._weights, self._features, self._towers, allowed)

    def search_batch(self, batch: Batch, k: int, exclude: Ragged | None, allow: Ragged | None) -> TopK:
        """The k best items of each query, less its excluded ones; with ``allow`` among its own."""
        if self._features not in batch.features:
            raise InputError(
                "these queries come without the features that the run reads",
                wanted=f'features "{self._features}"',
                got=", ".join(batch.features) or "none",
            )
        hidden = None if exclude is None or not len(exclude.values) else exclude.long()
        longest = 0 if hidden is None else int(hidden.lengths().max())
        most = max(self._fusion.shortlist, k + longest)
        among = None if allow is None else _distinct(allow, self.num_items)
        towers = None if self._towers is None else self._of_towers(batch, most)
        found = self._fusion.suggest(batch.features[self._features], most, self._allowed, among, towers)
        if hidden is not None:
            keys = found.lists.rows() * self.num_items + found.lists.values
            free = ~torch.isin(keys, hidden.rows() * self.num_items + hidden.values)
            scores = {name: each[free] for name, each in found.scores.items()}
            found = Suggestions(found.lists.filter(free), scores)
        return found.top(self._weights, k)

    def _of_towers(self, batch: Batch, most: int) -> Any:
        """What the towers suggest, and a function that scores lists by them."""
        assert self._towers is not None
        model, index = self._towers
        with torch.inference_mode():
            query_BD = model.query_vectors(batch)
        found = index.search(query_BD, min(most, self.num_items))

        def scores(lists: Ragged) -> Tensor:
            longest = int(lists.lengths().max()) if len(lists.values) else 0
            ranked = search_lists(index.vectors, query_BD, max(longest, 1), lists)
            order = torch.argsort(ranked.rows() * self.num_items + ranked.ids)
            return ranked.scores[order].float()

        return Ragged(found.offsets, found.ids), scores

    def describe(self) -> dict[str, Any]:
        """The scorers and their weights."""
        return {"kind": self.kind, "weights": self._weights}


def _distinct(lists: Ragged, num_items: int) -> Ragged:
    keys = (lists.rows() * num_items + lists.values).unique()
    rows = torch.div(keys, num_items, rounding_mode="floor")
    return Ragged(offsets_of(torch.bincount(rows, minlength=len(lists))), keys - rows * num_items)


def load_scorers(path: Path, config: DocumentsConfig, num_items: int) -> tuple[Fusion, dict[str, float]]:
    """The scorers of a finished run, memory-mapped, and their weights."""
    weights = read_record(path / FUSION, FusionRecord).weights
    wanted = set(config.scorers)
    if set(weights) != wanted:
        names = ", ".join(sorted(wanted)), ", ".join(sorted(weights))
        raise ArtefactError("weights of other scorers", where=path / FUSION, wanted=names[0], got=names[1])
    return _both(path, config, num_items), weights


def _both(path: Path, config: DocumentsConfig, num_items: int) -> Fusion:
    """The scorers that are written in a directory."""
    linear = neighbours = None
    if "linear" in config.scorers:
        linear = _opened(
            path / file_of("linear"), lambda tensors: LinearScorer.of_tensors(config.linear, tensors, num_items)
        )
    if "neighbours" in config.scorers:
        neighbours = _opened(
            path / file_of("neighbours"),
            lambda tensors: NeighboursScorer.of_tensors(config.neighbours, tensors, num_items),
        )
    return Fusion(linear, neighbours, config.fusion.shortlist, num_items)


class FusionRecord(Record):
    """fusion.json: the weight of each scorer."""

    weights: dict[str, float]
