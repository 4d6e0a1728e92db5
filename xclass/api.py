"""Functions over whole runs: train one, index one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xclass.data.batches import inference_batches
from xclass.data.dataset import Dataset, open_dataset
from xclass.errors import ArtefactError, InputError
from xclass.index import IndexConfig, IndexReport, find_index, laid_out, save_index
from xclass.recommender import INDEX_FOLDER, Recommender
from xclass.runs.grow import grow_run
from xclass.runs.train import resolve_config, train_run
from xclass.runtime.progress import say
from xclass.runtime.rng import torch_generator
from xclass.training.run_config import RunConfig
from xclass.training.trainer import OnValidation
from xclass.types import Ragged

TUNING_QUERIES = 4096


def train(
    dataset: Dataset | Path | str,
    config: RunConfig | dict[str, Any] | Path | str,
    out: Path | str,
    *,
    overrides: Sequence[str] = (),
    resume: bool = False,
    grow_vocab: bool = False,
    device: str = "auto",
    on_validation: OnValidation | None = None,
    check_memory: bool = True,
) -> Recommender:
    """Train a model and open the finished run.

    Args:
        dataset: an open dataset or its path.
        config: a TOML file, a plain dict or a :class:`RunConfig`.
        out: the run directory to write; with ``resume`` one that was interrupted, or a new one.
        overrides: changes to the configuration, ``"section.key=value"`` each.
        resume: go on from the newest whole checkpoint.
        grow_vocab: with ``resume``, carry the run over to this dataset, which holds all of its items and queries; see
            :func:`xclass.runs.grow.grow_run`.
        device: auto, cpu or cuda.
        on_validation: called with the step and the metrics after each validation of this process; when it returns True,
            training ends there as if it were the last epoch. What it raises ends training; the run can be resumed.
        check_memory: refuse a run that can't fit in this machine's memory or disk before anything is built.

    Raises:
        ConfigError, ArtefactError, XclassError, Interrupted: see :func:`xclass.runs.train.train_run`.
    """
    if grow_vocab and not resume:
        raise InputError("grow_vocab goes with resume", wanted="resume=True")
    opened = dataset if isinstance(dataset, Dataset) else open_dataset(dataset)
    settings = resolve_config(config, list(overrides))
    if grow_vocab:
        return Recommender.load(grow_run(opened, settings, Path(out), device, on_validation, check_memory))
    return Recommender.load(train_run(opened, settings, Path(out), resume, device, on_validation, check_memory))


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
