"""``xclass index RUN``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from xclass.cli.options import MOST, AsJson, DatasetPath, finite
from xclass.cli.output import print_fields, print_json, print_line, print_table


def index(
    run: Annotated[Path, typer.Argument(help="A finished run directory.")],
    kind: Annotated[
        str, typer.Option(help="auto, exact, flat, hnsw, ivf, ivfpq, sq, fastscan, lsh, wta or factory.")
    ] = "auto",
    factory: Annotated[
        str | None,
        typer.Option(
            metavar="STRING",
            help='A Faiss factory string, e.g. "IVF1024,SQ8"; for lsh and wta the tables, e.g. LSH32x14.',
        ),
    ] = None,
    target_recall: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, callback=finite, help="Share of the exact top k that the index must find."),
    ] = 0.95,
    k: Annotated[int, typer.Option("-k", min=1, max=MOST, help="The cut-off that the index is tuned for.")] = 100,
    metric: Annotated[
        str, typer.Option(help="inner_product, or l2_augmented for index types that only know L2.")
    ] = "inner_product",
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Build on one thread: the same vectors give the same index.")
    ] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Replace the index that the run has.")] = False,
    dataset: DatasetPath = None,
    as_json: AsJson = False,
) -> None:
    """Index the item vectors of RUN and tune the search on held-out queries; RUN/index is written.

    Several builds of a kind are tried, and the cheapest that reaches the target is kept. What was measured is written
    to RUN/index/frontier.parquet and, with matplotlib, frontier.png.
    """
    from xclass.api import index_run
    from xclass.index import IndexConfig
    from xclass.recommender import Recommender

    kind = "factory" if factory is not None and kind == "auto" else kind
    config = IndexConfig(kind=kind, factory=factory, metric=metric, deterministic=deterministic)
    report = index_run(Recommender.load(run, dataset), config, target_recall, k, replace)
    result = report.to_dict()
    if as_json:
        print_json(result)
    else:
        _show(result)


def _show(result: dict[str, Any]) -> None:
    from xclass.index.tuning.frontier import written

    frontier, definition = result.pop("frontier"), result.pop("definition")
    print_fields(result, "index")
    best = sorted((point for point in frontier if point["optimal"]), key=lambda point: point["index_recall"])
    if len(frontier) > 1:
        rows = [
            [point["factory"] or point["kind"], written(point["parameters"]), point["index_recall"],
             point["queries_per_s"], point["memory_bytes"]]
            for point in best
        ]  # fmt: skip
        print_table(["build", "search", "index recall", "queries/s", "bytes"], rows, "frontier")
        print_line(f"{len(frontier)} settings were measured; frontier.parquet beside the index has all of them")
    print_line(f"\nindex recall: {definition}")
