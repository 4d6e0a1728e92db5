"""``xclass evaluate RUN``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xclass.cli.options import AsJson, DatasetPath
from xclass.cli.output import print_json, print_line, print_table

if TYPE_CHECKING:
    from xclass.metrics import Evaluation


def evaluate(
    run: Annotated[Path, typer.Argument(help="A finished run directory.")],
    split: Annotated[str, typer.Option(help="The split to measure on: test or valid.")] = "test",
    k: Annotated[list[int], typer.Option("-k", min=1, help="A cut-off; repeatable.")] = [10, 20],  # noqa: B006
    metric: Annotated[
        list[str] | None,
        typer.Option(help="A metric's name without the cut-off, e.g. recall or psp; repeatable.", show_default=False),
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Leave the run's index out, if it has one.")] = False,
    by_popularity: Annotated[
        bool, typer.Option("--by-popularity", help="Recall of popular, middling and rare items apart.")
    ] = False,
    per_query: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write every query's metrics to this Parquet file.")
    ] = None,
    max_queries: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Measure on a sample of N queries, the same one each time.", show_default=False
        ),
    ] = None,
    dataset: DatasetPath = None,
    as_json: AsJson = False,
) -> None:
    """Measure RUN on a split: model metrics, what the index loses, and the popularity baseline beside them."""
    from xclass.evaluate import DEFAULT_METRICS
    from xclass.metrics import parse_metrics
    from xclass.recommender import Recommender

    metrics = parse_metrics([f"{name}@{cut}" for name in metric or DEFAULT_METRICS for cut in k])
    recommender = Recommender.load(run, dataset)
    result = recommender.measure(metrics, split, exact=exact, by_popularity=by_popularity, max_queries=max_queries)
    if per_query is not None:
        result.write_per_query(per_query, recommender.run.query_ids)
    if as_json:
        print_json(result.to_dict())
    else:
        _show(result)


def _show(result: Evaluation) -> None:
    table = result.table()
    print_table(table.columns, table.rows())
    if result.by_popularity:
        names = list(dict.fromkeys(name for band in result.by_popularity.values() for name in band))
        rows = [[band, *(values.get(name) for name in names)] for band, values in result.by_popularity.items()]
        print_table(["band", *names], rows, "by popularity")
    counts = {
        "queries measured": result.num_queries,
        "queries without a positive, skipped": result.num_skipped,
        "queries that got no list, counted as 0": result.num_missing,
        "lists shorter than the largest cut-off": result.num_short,
        "positives without a train pair": result.num_cold_positives,
    }
    print_line(", ".join(f"{name}: {number:,}" for name, number in counts.items() if number is not None))
