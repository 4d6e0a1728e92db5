"""``xclass compare RUN RUN``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xclass.cli.options import (
    AsJson,
    CutOffs,
    DatasetPath,
    MaxQueries,
    MetricNames,
    NumItems,
    Split,
    TrainFile,
    TruthFile,
)
from xclass.cli.output import print_json, print_line, print_table

if TYPE_CHECKING:
    from xclass.metrics.comparison import Comparison


def compare(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN RUN ...",
            help="Finished runs of one dataset; with --truth, files of predictions. The first is the baseline.",
        ),
    ],
    split: Split = "test",
    k: CutOffs = [10, 20],  # noqa: B006
    metric: MetricNames = None,
    truth: TruthFile = None,
    train: TrainFile = None,
    num_items: NumItems = None,
    max_queries: MaxQueries = None,
    resamples: Annotated[
        int, typer.Option(min=100, metavar="N", help="Random samples of the intervals and of the test.")
    ] = 10_000,
    seed: Annotated[int, typer.Option(help="The seed of these samples.")] = 0,
    dataset: DatasetPath = None,
    as_json: AsJson = False,
) -> None:
    """Measure several runs on the same queries; say how they differ and how sure that is."""
    from xclass.compare import compare_predictions, compare_runs
    from xclass.evaluate import DEFAULT_METRICS
    from xclass.metrics import parse_metrics

    metrics = parse_metrics([f"{name}@{cut}" for name in metric or DEFAULT_METRICS for cut in k])
    if truth is None:
        for option, value in (("--train", train), ("--num-items", num_items)):
            if value is not None:
                raise typer.BadParameter("goes with --truth; a run knows it", param_hint=f"'{option}'")
        found = compare_runs(
            paths,
            metrics=metrics,
            split=split,
            dataset=dataset,
            max_queries=max_queries,
            resamples=resamples,
            seed=seed,
        )
    else:
        chosen = None if split == "test" else split
        for option, given in (("--dataset", dataset), ("--max-queries", max_queries), ("--split", chosen)):
            if given is not None:
                raise typer.BadParameter("goes with runs, not with --truth", param_hint=f"'{option}'")
        found = compare_predictions(
            paths, truth, metrics=metrics, train=train, num_items=num_items, resamples=resamples, seed=seed
        )
    if as_json:
        print_json(found.to_dict())
    else:
        _show(found)


def _show(found: Comparison) -> None:
    for table, title in ((found.table(), None), (found.difference_table(), f"against {next(iter(found.runs))}")):
        print_table(table.columns, table.rows(), title)
        print_line()
    first = next(iter(found.runs.values()))
    print_line(
        f"queries measured: {first.num_queries:,}; low and high: 95% bootstrap interval; p: paired randomisation test,"
        f" {found.resamples:,} samples; p (Holm): corrected for the number of runs"
    )
