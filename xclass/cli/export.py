"""``xclass export RUN``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xclass.cli.options import AsJson, DatasetPath
from xclass.cli.output import print_fields, print_json


def export(
    run: Annotated[Path, typer.Argument(help="A finished run directory.")],
    item_vectors: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write every item's vector to this Parquet file.")
    ] = None,
    query_vectors: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the queries' vectors to this Parquet file.")
    ] = None,
    queries: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Whose vectors: ids or histories, as for retrieve. Every query of the dataset if left out.",
        ),
    ] = None,
    dataset: DatasetPath = None,
    as_json: AsJson = False,
) -> None:
    """Write vectors for a vector database: item_id or query_id, and vector. Scores are inner products."""
    if item_vectors is None and query_vectors is None:
        raise typer.BadParameter("say what to export", param_hint="'--item-vectors' / '--query-vectors'")
    from xclass.export import export_vectors
    from xclass.recommender import Recommender

    said = export_vectors(Recommender.load(run, dataset), item_vectors, query_vectors, queries)
    print_json(said) if as_json else print_fields(said, "exported")
