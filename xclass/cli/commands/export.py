"""``xclass export RUN`` and ``xclass export DATASET --format NAME --out DIRECTORY``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xclass.cli.options import AsJson, DatasetPath, one_of
from xclass.cli.output import print_fields, print_json

FORMATS = ("xmc", "svmlight", "npz")


def export(
    run: Annotated[
        Path, typer.Argument(metavar="PATH", help="A finished run directory; with --format a dataset of documents.")
    ],
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
            help="The queries: ids or histories, as for retrieve. Every query of the dataset if left out.",
        ),
    ] = None,
    texts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help='With --item-vectors, for a run with head.kind = "cnn": write the vectors of these new items (.txt: a '
            "text a line; .csv, .parquet with item_id and text) instead of the run's.",
        ),
    ] = None,
    dataset: DatasetPath = None,
    format_name: Annotated[
        str | None,
        typer.Option("--format", metavar="NAME", help=f"Write a dataset's documents as {', '.join(FORMATS)}."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIRECTORY", help="With --format: where to write; it must not exist.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write vectors for a vector database (item_id or query_id, and vector), or a dataset's documents."""
    if format_name is not None:
        chosen = {
            "--item-vectors": item_vectors,
            "--query-vectors": query_vectors,
            "--queries": queries,
            "--texts": texts,
        }
        _documents(run, format_name, out, {**chosen, "--dataset": dataset}, as_json)
        return
    if out is not None:
        raise typer.BadParameter("goes with --format", param_hint="'--out'")
    if item_vectors is None and query_vectors is None:
        raise typer.BadParameter("say what to export", param_hint="'--item-vectors' / '--query-vectors'")
    if texts is not None and item_vectors is None:
        raise typer.BadParameter("goes with --item-vectors", param_hint="'--texts'")
    from xclass.batch.export import export_vectors
    from xclass.recommender import Recommender

    said = export_vectors(Recommender.load(run, dataset), item_vectors, query_vectors, queries, texts)
    print_json(said) if as_json else print_fields(said, "exported")


def _documents(dataset: Path, format_name: str, out: Path | None, others: dict[str, object], as_json: bool) -> None:
    one_of("--format", format_name, FORMATS)
    for option, value in others.items():
        if value is not None:
            raise typer.BadParameter("does not go with --format", param_hint=f"'{option}'")
    if out is None:
        raise typer.BadParameter("is needed with --format", param_hint="'--out'")
    from xclass.data.dataset import open_dataset
    from xclass.ingest.documents.export import export_documents

    said = {"out": str(out), **export_documents(open_dataset(dataset), out, format_name)}
    print_json(said) if as_json else print_fields(said, "exported")
