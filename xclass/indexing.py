"""The index of a finished run: built, tuned on its own queries, written to ``run/index``."""

from __future__ import annotations

import torch
from torch import Tensor

from xclass.data.batches import inference_batches
from xclass.errors import ArtefactError
from xclass.index import IndexConfig, IndexReport, find_index, laid_out, save_index
from xclass.recommender import INDEX_FOLDER, Recommender
from xclass.runtime.progress import say
from xclass.runtime.rng import torch_generator
from xclass.types import Ragged

TUNING_QUERIES = 4096


def index_run(
    recommender: Recommender, config: IndexConfig, target_recall: float, k: int, replace: bool = False
) -> IndexReport:
    """Build an index over a run's item vectors, tune it on held-out queries, write it to ``run/index``.

    It is tuned on up to 4096 queries drawn by the run's seed, with their histories left out of the search, as in use.
    When the target can't be reached, exact search is written instead and the report says so.

    Raises:
        ArtefactError: there is an index already and ``replace`` is false.
    """
    folder = recommender.run.path / INDEX_FOLDER
    if folder.exists() and not replace:
        raise ArtefactError(
            "this run has an index already", where=folder, do="pass --replace (in Python replace=True) to build it anew"
        )
    stored = recommender.item_vectors
    queries, seen = _tuning_queries(recommender)
    vectors = laid_out(stored, recommender.run.path)
    report = find_index(vectors, config, queries, k, target_recall, exclude=seen)
    if report.fell_back:
        say(report.fell_back)
    save_index(report.index, folder, recommender.run.model_hash, report.to_dict(), replace)
    return report


def _tuning_queries(recommender: Recommender) -> tuple[Tensor, Ragged]:
    """(B, D) vectors of a sample of the queries that have a history, and what each of them must not get."""
    dataset = recommender.dataset
    split = dataset.splits[-1]
    history, seen = dataset.history(split), dataset.seen(split)
    lists = dataset.split("train") if recommender.may_repeat else seen
    known = lists.lengths().nonzero().squeeze(1)
    order = torch.randperm(len(known), generator=torch_generator(recommender.run.config.train.seed, "index tuning"))
    chosen = known[order[:TUNING_QUERIES]].sort().values
    batches = inference_batches(history, chosen, TUNING_QUERIES, dataset.query_features)
    vectors = [recommender.model.query_vectors(batch) for batch in batches]
    return torch.cat(vectors), seen.take(chosen).long()
