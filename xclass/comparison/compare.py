"""Runs of one dataset, or files of predictions for one truth, beside one another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from xclass.errors import InputError
from xclass.evaluation.evaluate import metrics_at
from xclass.evaluation.predictions import Rows, evaluate_predictions
from xclass.metrics import Evaluation, MetricName
from xclass.metrics.comparison import Comparison, compare_evaluations, distinct_names
from xclass.recommender import Recommender
from xclass.runtime.progress import say

RESAMPLES = 10_000


def compare_runs(
    runs: Sequence[Path | str],
    k: Sequence[int] = (10, 20),
    metrics: Sequence[MetricName] | None = None,
    *,
    split: str = "test",
    dataset: Path | str | None = None,
    max_queries: int | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Measure finished runs on the same queries by exact search, and compare each with the first.

    Args:
        runs: run directories, trained on the same dataset.
        dataset: where that dataset is now, if it was moved.
        max_queries: measure on a sample of so many queries, drawn by ``seed``, the same for all runs.

    Raises:
        ArtefactError: not a finished run. InputError: fewer than two runs; runs of different datasets.
    """
    wanted = list(metrics) if metrics is not None else metrics_at(k)
    _check_enough(runs)
    opened = [Recommender.load(run, dataset) for run in runs]
    for path, recommender in zip(runs[1:], opened[1:], strict=True):
        if recommender.dataset.fingerprint != opened[0].dataset.fingerprint:
            raise InputError("this run was trained on another dataset", where=path, wanted=f"the dataset of {runs[0]}")
    found: dict[str, Evaluation] = {}
    for name, recommender in zip(distinct_names([str(run) for run in runs]), opened, strict=True):
        say(f"measuring {name}")
        found[name] = recommender.measure(wanted, split, exact=True, max_queries=max_queries, sample_seed=seed)
    return compare_evaluations(found, resamples, seed)


def compare_predictions(
    predictions: Sequence[Rows],
    truth: Rows,
    k: Sequence[int] | int = (10, 20),
    metrics: Sequence[MetricName] | None = None,
    *,
    train: Rows | None = None,
    num_items: int | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Measure files of predictions against one truth, and compare each with the first.

    See :func:`xclass.evaluation.predictions.evaluate_predictions` for the files. Tables in memory are called "table 1",
    …
    """
    _check_enough(predictions)
    found: dict[str, Evaluation] = {}
    called = [str(each) if isinstance(each, str | Path) else f"table {n}" for n, each in enumerate(predictions, 1)]
    for name, path in zip(distinct_names(called), predictions, strict=True):
        say(f"measuring {name}")
        found[name] = evaluate_predictions(path, truth, k, metrics, train=train, num_items=num_items)
    return compare_evaluations(found, resamples, seed)


def _check_enough(given: Sequence[object]) -> None:
    if not isinstance(given, list | tuple):
        got = repr(given)[:80]
        raise InputError("a list of paths or tables is wanted", wanted="[first, second, …]", got=got)
    if len(given) < 2:
        raise InputError("there is nothing to compare", wanted="two or more", got=len(given))
