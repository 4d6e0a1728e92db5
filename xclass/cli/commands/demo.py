"""``xclass demo``."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from xclass.cli.options import AsJson
from xclass.cli.output import print_json, print_line, print_table
from xclass.errors import Interrupted


def demo(
    out: Annotated[
        Path | None, typer.Option(help="Keep the results in this new directory.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """The whole flow on synthetic data, in about a minute: ingest, train, index, retrieve, evaluate."""
    from xclass.cli.commands.demo_flow import run_demo

    folder = Path(tempfile.mkdtemp(prefix="xclass-demo-")) if out is None else out
    try:
        result = run_demo(folder)
    except (Interrupted, KeyboardInterrupt):
        again = "the same command again" if out is None else f"it again with another --out, or remove {out} first"
        raise Interrupted("the demonstration was interrupted", f"run {again}") from None
    finally:
        if out is None:
            shutil.rmtree(folder, ignore_errors=True)
    if as_json:
        print_json(result)
        return
    best = result["rows"]["best possible"]
    rows = [[what, value, f"{value / best:.0%}"] for what, value in result["rows"].items()]
    print_table([result["metric"], "", "of the best"], rows)
    if out is not None:
        print_line(f"\nkept in {out}: dataset/, run/, topk.parquet; look with: xclass inspect {out / 'run'}")
