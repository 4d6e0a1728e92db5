"""``xclass retrieve RUN --out FILE``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from xclass.cli.options import MOST, AsJson, DatasetPath, one_of
from xclass.cli.output import print_fields, print_json

PROBABILITIES = ("exact", "retrieved")
SHORT = ("keep", "popular", "error")
DIVIDED = ("queries", "items")
FORMATS = ("parquet", "jsonl", "trec")
ITEMS = (
    "(.txt, .csv, .parquet with item_id; with query_id beside it, or .jsonl, for each query). The first line of a "
    ".csv with one column is a header only if it is a usual name, such as item_id, and not a known id."
)

QueryFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="The queries: ids (.txt, or .csv/.parquet with query_id), histories (.jsonl, or "
        ".csv/.parquet with query_id and item_id), or texts (the same with text). The first line of a .csv with "
        "one column is a header only if it is a usual name and no known id. Every query of the dataset if left out.",
    ),
]
Divide = Annotated[
    str,
    typer.Option(
        metavar="WHAT",
        help="Under torchrun: each process retrieves for some of the queries with the whole index (queries), or "
        "searches some of the items exactly for all queries (items).",
    ),
]
AsShort = Annotated[
    str,
    typer.Option(
        "--short",
        metavar="WAY",
        help="A list with fewer than k items: keep it, fill it up with popular items (popular), or stop (error).",
    ),
]
AsProbabilities = Annotated[
    str | None,
    typer.Option(
        "--probabilities",
        metavar="WAY",
        help="Add a column of probabilities: exact (over all items), or retrieved (over the items that the search "
        "found: cheap, and too large by what the others hold, which is measured and said).",
    ),
]
Over = Annotated[
    int | None,
    typer.Option(
        metavar="M",
        min=1,
        max=MOST,
        help="With --probabilities retrieved: over the best M items, not the k of the list.",
    ),
]


def retrieve(
    run: Annotated[Path, typer.Argument(help="A finished run directory.")],
    out: Annotated[Path, typer.Option(help="The file to write: .parquet, .jsonl, or .trec for a TREC run.")],
    k: Annotated[int, typer.Option("-k", min=1, max=MOST, help="Largest number of items for each query.")] = 100,
    queries: QueryFile = None,
    exact: Annotated[bool, typer.Option("--exact", help="Search exactly even if the run has an index.")] = False,
    include_seen: Annotated[
        bool, typer.Option("--include-seen", help="Keep items that a query has in its history.")
    ] = False,
    candidates: Annotated[Path | None, typer.Option(metavar="FILE", help=f"Retrieve only these items {ITEMS}")] = None,
    exclude: Annotated[Path | None, typer.Option(metavar="FILE", help=f"Retrieve none of these items {ITEMS}")] = None,
    short: AsShort = "keep",
    format_name: Annotated[
        str | None,
        typer.Option(
            "--format", metavar="NAME", help="parquet, jsonl or trec. If left out, the ending of --out decides."
        ),
    ] = None,
    directory: Annotated[
        bool, typer.Option("--directory", help="Make --out a directory of parts, about a million rows each.")
    ] = False,
    probabilities: AsProbabilities = None,
    over: Over = None,
    unknown: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write every unknown id to this file, one per line.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue a stopped job after its last finished part.")
    ] = False,
    divide: Divide = "queries",
    dataset: DatasetPath = None,
    as_json: AsJson = False,
) -> None:
    """Write the best k items of every query to a file: query_id, rank, item_id, score."""
    short, divide = one_of("--short", short, SHORT), one_of("--divide", divide, DIVIDED)
    if probabilities is not None:
        one_of("--probabilities", probabilities, PROBABILITIES)
    if over is not None and probabilities != "retrieved":
        raise typer.BadParameter("goes with --probabilities retrieved", param_hint="'--over'")
    if format_name is not None:
        one_of("--format", format_name, FORMATS)
    from xclass.batch.retrieve import WAIT_S, Job, retrieve_to_file
    from xclass.distributed import Group
    from xclass.recommender import Recommender
    from xclass.training.metrics_log import peak_rss_bytes

    job = Job(k, queries, exact, include_seen, candidates, exclude, short, format_name, directory, unknown)
    job = replace(job, probabilities=probabilities, over=over, divide=divide)
    with Group(WAIT_S) as group:
        written = retrieve_to_file(Recommender.load(run, dataset), out, job, resume, group)
    summary = {"out": str(out), **written.to_dict(), "peak_rss_bytes": peak_rss_bytes()}
    if not group.is_first:
        return
    if as_json:
        print_json(summary)
    else:
        print_fields(summary, "retrieved")
