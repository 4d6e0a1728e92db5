"""``xclass evaluate RUN``."""

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
    PredictionFile,
    Split,
    TrainFile,
    TruthFile,
)
from xclass.cli.output import print_json, print_line, print_table
from xclass.manifest import write_json

if TYPE_CHECKING:
    from xclass.metrics import Evaluation

RUN_ONLY = "does not go with --predictions"


def evaluate(
    run: Annotated[
        Path | None, typer.Argument(help="A finished run directory; none with --predictions.", show_default=False)
    ] = None,
    split: Split = "test",
    k: CutOffs = [10, 20],  # noqa: B006
    metric: MetricNames = None,
    exact: Annotated[bool, typer.Option("--exact", help="Leave the run's index out, if it has one.")] = False,
    by_popularity: Annotated[
        bool, typer.Option("--by-popularity", help="Recall of popular, middling and rare items apart.")
    ] = False,
    per_query: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write every query's metrics to this Parquet file.")
    ] = None,
    max_queries: MaxQueries = None,
    dataset: DatasetPath = None,
    predictions: PredictionFile = None,
    truth: TruthFile = None,
    train: TrainFile = None,
    num_items: NumItems = None,
    bootstrap: Annotated[
        int, typer.Option(min=0, metavar="N", help="95% intervals of the metrics from N samples of the queries.")
    ] = 0,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the JSON object to this file, too.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure RUN on a split: model metrics, what the index loses, and the popularity baseline beside them.

    With --predictions and --truth: measure two files of any system.
    """
    from xclass.evaluate import DEFAULT_METRICS
    from xclass.metrics import parse_metrics

    metrics = parse_metrics([f"{name}@{cut}" for name in metric or DEFAULT_METRICS for cut in k])
    if predictions is None:
        _refuse({"--truth": truth, "--train": train, "--num-items": num_items}, "goes with --predictions")
        if run is None:
            raise typer.BadParameter("name a run, or --predictions and --truth", param_hint="'RUN'")
        from xclass.recommender import Recommender

        recommender = Recommender.load(run, dataset)
        result = recommender.measure(metrics, split, exact=exact, by_popularity=by_popularity, max_queries=max_queries)
    else:
        chosen = {"--split": None if split == "test" else split, "--exact": exact or None, "--max-queries": max_queries}
        _refuse({"RUN": run, **chosen, "--dataset": dataset}, RUN_ONLY)
        if truth is None:
            raise typer.BadParameter("is needed with --predictions", param_hint="'--truth'")
        from xclass.predictions import evaluate_predictions

        result = evaluate_predictions(
            predictions, truth, metrics=metrics, train=train, num_items=num_items, by_popularity=by_popularity
        )
    _tell(result.with_intervals(bootstrap) if bootstrap else result, per_query, out, as_json)


def _refuse(options: dict[str, object], why: str) -> None:
    for option, value in options.items():
        if value is not None:
            raise typer.BadParameter(why, param_hint=f"'{option}'")


def _tell(result: Evaluation, per_query: Path | None, out: Path | None, as_json: bool) -> None:
    if per_query is not None:
        result.write_per_query(per_query)
    if out is not None:
        write_json(out, result.to_dict())
    if as_json:
        print_json(result.to_dict())
    else:
        _show(result)


def _show(result: Evaluation) -> None:
    table = result.table()
    print_table(table.columns, table.rows())
    cold = result.by_history.get("cold", {}).get("num_queries")
    for parts, title in ((result.by_popularity, "by popularity"), (result.by_history if cold else {}, "by history")):
        names = list(dict.fromkeys(name for values in parts.values() for name in values))
        if parts:
            rows = [[part, *(values.get(name) for name in names)] for part, values in parts.items()]
            print_table([title.removeprefix("by "), *names], rows, title)
    counts = {
        "queries measured": result.num_queries,
        "queries without a positive, skipped": result.num_skipped,
        "queries that got no list, counted as 0": result.num_missing,
        "lists shorter than the largest cut-off": result.num_short,
        "positives without a train pair": result.num_cold_positives,
        "lists for queries that the truth does not have, left out": result.files.get("num_unknown_queries"),
        "repeated predictions, left out": result.files.get("num_repeated_predictions"),
    }
    print_line(", ".join(f"{name}: {number:,}" for name, number in counts.items() if number is not None))
