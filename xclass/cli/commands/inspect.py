"""``xclass inspect PATH``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from xclass.cli.options import AsJson
from xclass.cli.output import print_fields, print_json, print_line, print_table


def inspect(
    path: Annotated[Path, typer.Argument(help="A dataset, run, index or checkpoint; a .parquet or .safetensors file.")],
    verify: Annotated[bool, typer.Option(help="Read every file and compare its SHA-256 with the manifest's.")] = True,
    as_json: AsJson = False,
) -> None:
    """Say what PATH contains, after checking that it is complete."""
    from xclass.runs.inspect import describe

    description = describe(path, verify)
    if as_json:
        print_json(description)
    else:
        _show(description)


def _show(description: dict[str, Any]) -> None:
    from xclass.ingest.report import render_report

    title = f"{description['kind']} {description['path']}"
    apart = ("kind", "path", "report")
    print_fields({key: value for key, value in description.items() if key not in apart and not _is_table(value)}, title)
    if "report" in description and description["kind"] == "dataset":
        print_line(f"\n{render_report(description['report'])}\n")
    for name, table in description.items():
        if _is_table(table):
            columns = list(dict.fromkeys(column for row in table.values() for column in row))
            rows = [[key, *(row.get(column) for column in columns)] for key, row in table.items()]
            print_table([name, *columns], rows)


def _is_table(value: object) -> bool:
    """A mapping of mappings of plain values: one row per key."""
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(row, dict) and not any(isinstance(v, dict) for v in row.values()) for row in value.values())
    )
