"""``xclass retrieve RUN --out FILE``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xclass.cli.options import AsJson, DatasetPath
from xclass.cli.output import print_fields, print_json

if TYPE_CHECKING:
    from torch import Tensor

    from xclass.data.queries import Queries
    from xclass.recommender import Recommender


def retrieve(
    run: Annotated[Path, typer.Argument(help="A finished run directory.")],
    out: Annotated[Path, typer.Option(help="The file to write: .parquet or .jsonl.")],
    k: Annotated[int, typer.Option("-k", min=1, help="At most so many items for each query.")] = 100,
    queries: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Whom to retrieve for: ids (.txt, or .csv/.parquet with query_id), or histories (.jsonl, or "
            ".csv/.parquet with query_id and item_id). Every query of the dataset if left out.",
        ),
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Search exactly even if the run has an index.")] = False,
    include_seen: Annotated[
        bool, typer.Option("--include-seen", help="Keep items that a query has in its history.")
    ] = False,
    candidates: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Retrieve nothing but these items (.txt, .csv, .parquet).")
    ] = None,
    exclude: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Retrieve none of these items (.txt, .csv, .parquet).")
    ] = None,
    dataset: DatasetPath = None,
    as_json: AsJson = False,
) -> None:
    """Write the best k items of every query to a file: query_id, rank, item_id, score."""
    from xclass.recommender import Recommender
    from xclass.retrieve import write_topk
    from xclass.training.log import peak_rss_bytes

    recommender = Recommender.load(run, dataset)
    wanted = _queries(recommender, queries)
    results = recommender.lists(
        wanted,
        k,
        exact=exact,
        include_seen=include_seen,
        candidates=_items(recommender, candidates),
        exclude=_items(recommender, exclude),
    )
    written = write_topk(out, results, wanted.ids, recommender.run.item_ids, k)
    unknown = {"unknown_queries": wanted.unknown_queries.count, "unknown_items": wanted.unknown_items.count}
    summary = {"out": str(out), **written.to_dict(), **unknown, "peak_rss_bytes": peak_rss_bytes()}
    if as_json:
        print_json(summary)
    else:
        print_fields(summary, "retrieved")


def _queries(recommender: Recommender, path: Path | None) -> Queries:
    from xclass.data.queries import dataset_queries
    from xclass.data.query_files import read_query_file

    if path is None:
        return dataset_queries(recommender.dataset)
    return recommender.queries_of(read_query_file(path))


def _items(recommender: Recommender, path: Path | None) -> Tensor | None:
    from xclass.data.query_files import read_item_ids

    return None if path is None else recommender.item_numbers(read_item_ids(path), f"items of {path}")
