"""Trains configurations on one dataset, measures the finished runs, and times what they do in turns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from xclass.comparison.curves import Target, curve, examples_per_s, reached_s, read_records, target_of
from xclass.comparison.result import Contest, Entry
from xclass.comparison.timing import BATCH, Layer, layer_of, medians, queries_to_time, time_once
from xclass.data.dataset import Dataset, open_dataset
from xclass.errors import InputError, Interrupted
from xclass.estimate import warm_up
from xclass.evaluation.evaluate import metrics_at
from xclass.metrics import Evaluation, MetricName
from xclass.metrics.comparison import compare_evaluations, distinct_names
from xclass.recommender import Recommender
from xclass.runs.directory import MANIFEST
from xclass.runs.train import resolve_config, train_run
from xclass.runtime.progress import say
from xclass.training.build import choose_device
from xclass.training.run_config import RunConfig
from xclass.training.validation import SHOWN, chosen_metric

TURNS = 5
METRICS = ("recall", "ndcg")


class Measured(NamedTuple):
    """What is kept of a finished run when it is closed again."""

    evaluation: Evaluation
    layer: Layer | None
    train_s: float


def compare_configs(
    dataset: Dataset | Path | str,
    configs: Sequence[Path | str],
    out: Path | str,
    k: Sequence[int] = (10, 20),
    metrics: Sequence[MetricName] | None = None,
    *,
    overrides: Sequence[str] = (),
    split: str = "test",
    device: str = "auto",
    max_queries: int | None = None,
    target: Target | None = None,
    turns: int = TURNS,
    resamples: int = 10_000,
    seed: int = 0,
) -> Contest:
    """Train each configuration in ``out``, measure the runs on the same queries, and write what was found there.

    A run that is finished already is taken as it is, and one that was interrupted goes on: the same call again finishes
    what the first one began, or adds a configuration. Times are taken when all are trained, in turns: each run is
    opened, timed and closed, ``turns`` times round, so memory holds one at a time.

    Args:
        dataset: what ``xclass ingest`` made, opened or its path.
        configs: TOML files; the first is what the others are compared with.
        out: a directory for the runs (named as the files are), comparison.json, comparison.md and comparison.png.
        metrics: of the measured split; recall and ndcg at every ``k`` where they are not given.
        overrides: changes to every configuration, ``"section.key=value"`` each.
        max_queries: measure on a sample of so many queries, drawn by ``seed``, the same for all runs.
        target: the quality whose training time is looked for on the valid split; by default within 1% of the first
            configuration's best, by the metric that it is validated by.

    Raises:
        ConfigError: a configuration is wrong, or is not that of the run in its place.
        InputError: no configuration; a target that runs are not validated by.
        Interrupted: a signal came while one was trained.
    """
    opened = dataset if isinstance(dataset, Dataset) else open_dataset(dataset)
    wanted = list(metrics) if metrics is not None else metrics_at(k, METRICS)
    settings = _resolved(configs, overrides)
    validated = {
        name: chosen_metric(each.train.validation.metric, opened.sequence is not None)
        for name, each in settings.items()
    }
    _check_target(target, validated)
    runs = {name: Path(out) / name for name in settings}
    for number, (name, config) in enumerate(settings.items(), 1):
        say(f"training {name}, {number} of {len(settings)}")
        _train(opened, config, runs[name], device)
    found = {name: _measure(name, run, opened, wanted, split, max_queries, seed) for name, run in runs.items()}
    largest = max(metric.k for metric in wanted)
    times = _times(runs, opened, split, largest, turns, seed)
    if target is None:
        first, metric = next(iter(validated.items()))
        target = target_of(curve(read_records(runs[first])), metric)
    entries = [
        _entry(str(config), name, runs[name], found[name], times[name], target)
        for config, name in zip(configs, settings, strict=True)
    ]
    evaluations = {name: each.evaluation for name, each in found.items()}
    comparison = compare_evaluations(evaluations, resamples, seed) if len(entries) > 1 else None
    conditions = {"batch": BATCH, "k": largest, "threads": torch.get_num_threads(), "turns": turns}
    contest = Contest(entries, comparison, target, found[entries[0].name].evaluation.definitions, conditions)
    contest.write(Path(out))
    return contest


def _entry(
    config: str, name: str, run: Path, found: Measured, times: dict[str, float | None], target: Target | None
) -> Entry:
    records = read_records(run)
    points, evaluation = curve(records), found.evaluation
    return Entry(
        config,
        name,
        run,
        evaluation.metrics,
        evaluation.metrics_index,
        evaluation.index_recall,
        evaluation.calibration,
        examples_per_s(records),
        found.train_s,
        reached_s(points, target),
        times,
        found.layer,
        points,
    )


def _resolved(configs: Sequence[Path | str], overrides: Sequence[str]) -> dict[str, RunConfig]:
    """Name → configuration; all of them are checked before anything is trained."""
    if isinstance(configs, str | Path) or not configs:
        raise InputError("there is nothing to compare", wanted="a list of configurations", got=repr(configs))
    names = [name.replace(" #", "-") for name in distinct_names([Path(config).stem for config in configs])]
    return {name: resolve_config(Path(config), list(overrides)) for name, config in zip(names, configs, strict=True)}


def _check_target(target: Target | None, validated: dict[str, str]) -> None:
    for name, metric in validated.items():
        known = list(dict.fromkeys([metric, *SHOWN]))
        if target is not None and target.metric not in known:
            raise InputError(
                f"{name} is not validated by the metric of the target",
                where="--target",
                wanted=", ".join(known),
                got=target.metric,
                do=f"choose one of these, or set train.validation.metric={target.metric}",
            )


def _train(dataset: Dataset, config: RunConfig, run: Path, device: str) -> None:
    """A run that is not finished begins or goes on, with everything compiled: the first is timed as the others are."""
    if config.documents.towers and not (run / MANIFEST).exists():
        run.parent.mkdir(parents=True, exist_ok=True)
        warm_up(dataset, config, choose_device(device), run.parent)
    try:
        train_run(dataset, config, run, resume=True, device=device)
    except Interrupted as stop:  # the same call goes on, without being told to
        raise Interrupted(stop.what) from None


def _measure(
    name: str, run: Path, dataset: Dataset, metrics: list[MetricName], split: str, most: int | None, seed: int
) -> Measured:
    say(f"measuring {name}")
    recommender = Recommender.load(run, dataset.path)
    evaluation = recommender.measure(metrics, split, max_queries=most, sample_seed=seed)
    return Measured(evaluation, layer_of(recommender), recommender.run.manifest["result"]["train_s"])


def _times(
    runs: dict[str, Path], dataset: Dataset, split: str, k: int, turns: int, seed: int
) -> dict[str, dict[str, float | None]]:
    found: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
    for turn in range(turns):
        say(f"timing, turn {turn + 1} of {turns}")
        for name, run in runs.items():
            recommender = Recommender.load(run, dataset.path)
            found[name].append(time_once(recommender, queries_to_time(recommender, split, k, seed)))
    return {name: medians(each) for name, each in found.items()}
