"""``xclass train DATASET --config FILE --out RUN``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xclass.cli.options import AsJson, ConfigFile, Device, Overrides, one_of
from xclass.cli.output import print_fields, print_json


def train(
    dataset: Annotated[Path, typer.Argument(help="A directory that `xclass ingest` made.")],
    config: ConfigFile,
    out: Annotated[Path, typer.Option(help="The run directory to write.")],
    overrides: Overrides = [],  # noqa: B006  Typer wants a list; it is never changed
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest whole checkpoint in RUN, if there is one.")
    ] = False,
    device: Device = "auto",
    memory_check: Annotated[
        bool, typer.Option(help="Refuse a run that can't fit in memory or on the disk, before anything is built.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Train a two-tower model; checkpoints and metrics.jsonl are written into RUN as it goes."""
    one_of("--device", device, ("auto", "cpu", "cuda"))

    from xclass.data.store import open_dataset
    from xclass.run import RunDirectory, resolve_config, train_run

    settings = resolve_config(config, overrides)
    path = train_run(open_dataset(dataset), settings, out, resume, device, check_memory=memory_check)
    run = RunDirectory(path)
    summary = {"run": str(path), **run.manifest["result"]}
    if as_json:
        print_json(summary)
    else:
        print_fields(summary, "trained")
