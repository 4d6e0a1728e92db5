"""``xclass compare RUN RUN`` and ``xclass compare DATASET --config FILE --config FILE``."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict

import typer

from xclass.cli.options import (
    LARGEST_SEED,
    MOST_RESAMPLES,
    AsJson,
    CutOffs,
    DatasetPath,
    Device,
    MaxQueries,
    MetricNames,
    NumItems,
    Overrides,
    Split,
    TrainFile,
    TruthFile,
    one_of,
)
from xclass.cli.output import print_json, print_line, print_table
from xclass.errors import Interrupted

if TYPE_CHECKING:
    from xclass.comparison import Contest
    from xclass.metrics import MetricName
    from xclass.metrics.comparison import Comparison


ConfigFiles = Annotated[
    list[Path],
    typer.Option(
        "--config",
        metavar="FILE",
        help="A run's TOML file, to be trained on DATASET; repeatable. The first is the baseline.",
    ),
]
OutFolder = Annotated[
    Path | None,
    typer.Option(
        help="With --config: directory for the runs and comparison.json, .md and .png; the same command continues "
        "with what is there. Without it the runs are removed at the end.",
        show_default=False,
    ),
]
TargetQuality = Annotated[
    str | None,
    typer.Option(
        metavar="METRIC=VALUE",
        help="With --config: report the training time until this quality on the valid split; by default within 1% of "
        "the first configuration's best.",
        show_default=False,
    ),
]


def compare(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN RUN ... | DATASET",
            help="Finished runs of one dataset; with --truth, files of predictions. The first is the baseline. Or, "
            "with --config, a dataset that each configuration is trained on.",
        ),
    ],
    config: ConfigFiles = [],  # noqa: B006
    out: OutFolder = None,
    overrides: Overrides = [],  # noqa: B006
    target: TargetQuality = None,
    device: Device = "auto",
    split: Split = "test",
    k: CutOffs = [10, 20],  # noqa: B006
    metric: MetricNames = None,
    truth: TruthFile = None,
    train: TrainFile = None,
    num_items: NumItems = None,
    max_queries: MaxQueries = None,
    resamples: Annotated[
        int,
        typer.Option(
            min=100, max=MOST_RESAMPLES, metavar="N", help="Number of random samples for intervals and p-values."
        ),
    ] = 10_000,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="The seed of these samples.")] = 0,
    dataset: DatasetPath = None,
    as_json: AsJson = False,
) -> None:
    """Measure several runs, or train several configurations and measure them, on the same queries, and compare them."""
    one_of("--device", device, ("auto", "cpu", "cuda"))
    of_files = {"--truth": truth, "--train": train, "--num-items": num_items}
    of_configs = {"--config": config or None, "--out": out, "--set": overrides or None, "--target": target}
    of_configs["--device"] = None if device == "auto" else device
    sampled: Sampled = {"split": split, "max_queries": max_queries, "resamples": resamples, "seed": seed}
    found: Comparison | Contest
    if _is_dataset(paths) or config:
        _refuse(of_files | {"--dataset": dataset}, "goes with runs and files, not with --config")
        found = _trained(paths, config, out, k, metric, overrides, target, device, sampled)
    elif truth is None:
        _refuse(of_files, "goes with --truth; a run knows it")
        _refuse(of_configs, "goes with a dataset and --config, not with runs")
        found = _runs(paths, dataset, k, metric, sampled)
    else:
        chosen = None if split == "test" else split
        _refuse(
            {"--dataset": dataset, "--max-queries": max_queries, "--split": chosen},
            "goes with runs, not with --truth",
        )
        _refuse(of_configs, "goes with a dataset and --config, not with files")
        found = _files(paths, truth, train, num_items, k, metric, resamples, seed)
    if as_json:
        print_json(found.to_dict())
    else:
        _show(found)


class Sampled(TypedDict):
    """Which queries are measured, and how sure the differences are."""

    split: str
    max_queries: int | None
    resamples: int
    seed: int


def _is_dataset(paths: list[Path]) -> bool:
    from xclass.data.dataset import MANIFEST

    return len(paths) == 1 and (paths[0] / MANIFEST).exists()


def _refuse(options: Mapping[str, object], why: str) -> None:
    for option, given in options.items():
        if given is not None:
            raise typer.BadParameter(why, param_hint=f"'{option}'")


def _wanted(names: Sequence[str], k: list[int]) -> list[MetricName]:
    from xclass.metrics import parse_metrics

    return parse_metrics([f"{name}@{cut}" for name in names for cut in k])


def _trained(
    paths: list[Path],
    configs: list[Path],
    out: Path | None,
    k: list[int],
    metric: list[str] | None,
    overrides: list[str],
    target: str | None,
    device: str,
    sampled: Sampled,
) -> Contest:
    if len(paths) > 1:
        raise typer.BadParameter("goes with one dataset", param_hint="'--config'")
    if not configs:
        raise typer.BadParameter(
            f"{paths[0]} is a dataset: say with --config what is to be trained on it", param_hint="'--config'"
        )
    from xclass.comparison import compare_configs, parse_target

    wanted = None if target is None else parse_target(target)
    metrics = None if metric is None else _wanted(metric, k)
    with tempfile.TemporaryDirectory(prefix="xclass-compare-") as passing:
        try:
            return compare_configs(
                paths[0],
                configs,
                out or passing,
                k,
                metrics,
                overrides=overrides,
                device=device,
                target=wanted,
                **sampled,
            )
        except (Interrupted, KeyboardInterrupt):
            if out is None:
                resume = "run it with --out DIRECTORY: there the same command goes on after an interruption"
                raise Interrupted("interrupted; what was trained is removed", resume) from None
            raise Interrupted(f"interrupted; what was trained is kept in {out}") from None


def _runs(
    paths: list[Path], dataset: Path | None, k: list[int], metric: list[str] | None, sampled: Sampled
) -> Comparison:
    from xclass.comparison.compare import compare_runs
    from xclass.evaluation.evaluate import DEFAULT_METRICS

    return compare_runs(paths, metrics=_wanted(metric or DEFAULT_METRICS, k), dataset=dataset, **sampled)


def _files(
    paths: list[Path],
    truth: Path,
    train: Path | None,
    num_items: int | None,
    k: list[int],
    metric: list[str] | None,
    resamples: int,
    seed: int,
) -> Comparison:
    from xclass.comparison.compare import compare_predictions
    from xclass.evaluation.evaluate import DEFAULT_METRICS

    metrics = _wanted(metric or DEFAULT_METRICS, k)
    return compare_predictions(
        paths, truth, metrics=metrics, train=train, num_items=num_items, resamples=resamples, seed=seed
    )


def _show(found: Comparison | Contest) -> None:
    from xclass.metrics.comparison import Comparison

    if isinstance(found, Comparison):
        _show_comparison(found)
        return
    for columns, rows in (found.quality(), found.cost()):
        print_table(columns, rows)
        print_line()
    if found.comparison is not None:
        _show_comparison(found.comparison, tables=False)


def _show_comparison(found: Comparison, tables: bool = True) -> None:
    shown = [(found.table(), None)] if tables else []
    for table, title in [*shown, (found.difference_table(), f"against {next(iter(found.runs))}")]:
        print_table(table.columns, table.rows(), title)
        print_line()
    first = next(iter(found.runs.values()))
    print_line(
        f"queries measured: {first.num_queries:,}; low and high: 95% bootstrap interval; p: paired randomisation test,"
        f" {found.resamples:,} samples; p (Holm): corrected for the number of runs"
    )
