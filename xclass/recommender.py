"""A finished run behind one face: model, index and external ids."""

from __future__ import annotations

import torch
from torch import Tensor

from xclass.data.batches import inference_batches
from xclass.data.store import Dataset
from xclass.errors import ArtefactError, InputError
from xclass.index import Index, IndexConfig, IndexReport, build_index, load_index, save_index, tune
from xclass.model import TwoTower
from xclass.progress import say
from xclass.rng import torch_generator
from xclass.run import RunDirectory
from xclass.types import Ragged

INDEX_FOLDER = "index"
TUNING_QUERIES = 1000


def index_run(
    run: RunDirectory,
    dataset: Dataset,
    config: IndexConfig,
    target_recall: float,
    k: int,
    replace: bool = False,
) -> IndexReport:
    """Build an index over a run's item vectors, tune it on held-out queries, write it to ``run/index``.

    The queries it is tuned on are up to 1000 drawn by the run's seed, with their histories left out of the search, as in
    use. When the target can't be reached, exact search is written instead and the report says so.

    Raises:
        ArtefactError: there is an index already and ``replace`` is false.
    """
    folder = run.path / INDEX_FOLDER
    if folder.exists() and not replace:
        raise ArtefactError("this run has an index already", where=folder, do="pass --replace to build it anew")
    model = run.load_model(dataset)
    vectors = item_vectors(model)
    say(f"indexing {len(vectors):,} vectors of {vectors.shape[1]} dimensions, {vectors.nbytes / 1e6:,.0f} MB")
    queries, seen = _tuning_queries(model, dataset, run.config.train.seed)
    report = tune(build_index(vectors, config), queries, k, target_recall, exclude=seen)
    if report.fell_back:
        say(report.fell_back)
    save_index(report.index, folder, binding=run.model_hash, report=report.to_dict(), replace=replace)
    return report


def open_index(run: RunDirectory, vectors: Tensor, exact: bool = False) -> Index:
    """The run's index when it has one and ``exact`` is false, else exact search over its item vectors."""
    folder = run.path / INDEX_FOLDER
    if folder.exists() and not exact:
        return load_index(folder, binding=run.model_hash, vectors=vectors)
    return build_index(vectors, IndexConfig(kind="exact"))


def item_vectors(model: TwoTower) -> Tensor:
    """(N, D) item vectors; InputError for a head that has none."""
    vectors = model.item_vectors()
    if vectors is None:
        raise InputError("this model has no item vectors to index", do="use its head's own search")
    return vectors


def _tuning_queries(model: TwoTower, dataset: Dataset, seed: int) -> tuple[Tensor, Ragged]:
    """(B, D) vectors of a sample of the queries that have a history, and those histories."""
    history = dataset.seen(dataset.splits[-1])
    known = history.lengths().nonzero().squeeze(1)
    order = torch.randperm(len(known), generator=torch_generator(seed, "index tuning"))
    chosen = known[order[:TUNING_QUERIES]].sort().values
    batches = list(inference_batches(history, chosen, TUNING_QUERIES))
    return torch.cat([model.query_vectors(batch) for batch in batches]), history.take(chosen).long()
