"""``xclass evaluate RUN``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xclass.cli.options import (
    MOST,
    MOST_RESAMPLES,
    AsJson,
    DatasetPath,
    MaxQueries,
    MetricNames,
    NumItems,
    PredictionFile,
    Split,
    TrainFile,
    TruthFile,
    constants_of,
)
from xclass.cli.output import print_json, print_line, print_table
from xclass.io.files import check_files

if TYPE_CHECKING:
    from xclass.metrics import Evaluation, MetricName
    from xclass.recommender import Recommender

RUN_ONLY = "does not go with --predictions"
Bootstrap = Annotated[
    int,
    typer.Option(
        min=0, max=MOST_RESAMPLES, metavar="N", help="95% intervals of the metrics from N samples of the queries."
    ),
]


def evaluate(
    run: Annotated[
        Path | None, typer.Argument(help="A finished run directory; none with --predictions.", show_default=False)
    ] = None,
    split: Split = "test",
    k: Annotated[
        list[int] | None,
        typer.Option(
            "-k",
            min=1,
            max=MOST,
            help="A cut-off; repeatable. [default: 10 and 20; of documents 1, 3 and 5; of text 1, 10 and 20]",
        ),
    ] = None,
    metric: MetricNames = None,
    propensity: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Constants of psp and psndcg. [default: the dataset's, else 0.55,1.5]"),
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Search exactly only, without the run's index.")] = False,
    by_popularity: Annotated[
        bool, typer.Option("--by-popularity", help="Also report recall for popular, medium, rare and cold items.")
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
    bootstrap: Bootstrap = 0,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the JSON object to this file, too.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure RUN on a split: model metrics, what the index loses, and the popularity baseline beside them.

    With --predictions and --truth: measure two files of any system.
    """
    constants = None if propensity is None else constants_of(propensity)
    check_files(per_query, out)
    if predictions is None:
        _refuse({"--truth": truth, "--train": train, "--num-items": num_items}, "goes with --predictions")
        if run is None:
            raise typer.BadParameter("name a run, or --predictions and --truth", param_hint="'RUN'")
        from xclass.recommender import Recommender

        recommender = Recommender.load(run, dataset)
        how: dict[str, Any] = {"by_popularity": by_popularity, "max_queries": max_queries, "propensity": constants}
        metrics, likelihood = _of_run(recommender, metric, k)
        result = recommender.measure(metrics, split, exact=exact, likelihood=likelihood, **how)
    else:
        chosen = {"--split": None if split == "test" else split, "--exact": exact or None, "--max-queries": max_queries}
        _refuse({"RUN": run, **chosen, "--dataset": dataset}, RUN_ONLY)
        if truth is None:
            raise typer.BadParameter("is needed with --predictions", param_hint="'--truth'")
        from xclass.evaluation.predictions import evaluate_predictions

        how = {"train": train, "num_items": num_items, "by_popularity": by_popularity, "propensity": constants}
        result = evaluate_predictions(predictions, truth, metrics=_wanted(metric, k), **how)
    _tell(result.with_intervals(bootstrap) if bootstrap else result, per_query, out, as_json)


def _of_run(
    recommender: Recommender, names: list[str] | None, cut_offs: list[int] | None
) -> tuple[list[MetricName], bool | None]:
    """Ranking metrics, and whether one of probabilities was asked for; None: as the data wants it."""
    from xclass.metrics import LIKELIHOODS

    kind = "text" if recommender.may_repeat else "documents" if recommender.dataset.holds_documents else "pairs"
    if names is None:
        return _wanted(None, cut_offs, kind), None
    ranking = [name for name in names if name not in LIKELIHOODS]
    return _wanted(ranking, cut_offs, kind) if ranking else [], len(ranking) < len(names)


def _wanted(names: list[str] | None, cut_offs: list[int] | None, kind: str = "pairs") -> list[MetricName]:
    """What was asked for, else the usual metrics: of documents those of the extreme classification repository."""
    from xclass.evaluation.evaluate import DEFAULT_METRICS, DOCUMENT_METRICS, TEXT_METRICS
    from xclass.metrics import parse_metrics

    usual = {"pairs": DEFAULT_METRICS, "documents": DOCUMENT_METRICS, "text": TEXT_METRICS}
    names = names or list(usual[kind])
    cut_offs = cut_offs or {"pairs": [10, 20], "documents": [1, 3, 5], "text": [1, 10, 20]}[kind]
    return parse_metrics([f"{name}@{cut}" for name in names for cut in cut_offs])


def _refuse(options: dict[str, object], why: str) -> None:
    for option, value in options.items():
        if value is not None:
            raise typer.BadParameter(why, param_hint=f"'{option}'")


def _tell(result: Evaluation, per_query: Path | None, out: Path | None, as_json: bool) -> None:
    if per_query is not None:
        result.write_per_query(per_query)
    if out is not None:
        from xclass.io.manifest import write_json

        write_json(out, result.to_dict())
    if as_json:
        print_json(result.to_dict())
    else:
        _show(result)


def _show(result: Evaluation) -> None:
    table = result.table()
    print_table(table.columns, table.rows())
    both = all(result.by_history.get(part, {}).get("num_queries") for part in ("warm", "cold"))
    for parts, title in ((result.by_popularity, "by popularity"), (result.by_history if both else {}, "by history")):
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
