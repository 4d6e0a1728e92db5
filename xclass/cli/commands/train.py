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
        bool, typer.Option("--resume", help="Continue from the newest complete checkpoint in RUN, if there is one.")
    ] = False,
    grow_vocab: Annotated[
        bool,
        typer.Option(
            "--grow-vocab",
            help="With --resume: carry RUN over to DATASET, which has all of its items and queries and more, and train "
            "all epochs of the configuration there. Old rows and their optimiser state move bit for bit. RUN stays as "
            "it was until the grown run takes its place.",
        ),
    ] = False,
    device: Device = "auto",
    memory_check: Annotated[
        bool, typer.Option(help="Refuse a run that can't fit in memory or on the disk, before anything is built.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Train a two-tower model. Checkpoints and metrics.jsonl are written to RUN during training."""
    one_of("--device", device, ("auto", "cpu", "cuda"))
    if grow_vocab and not resume:
        raise typer.BadParameter("it goes with --resume", param_hint="'--grow-vocab'")

    from xclass.data.dataset import open_dataset
    from xclass.distributed import is_first
    from xclass.runs.directory import RunDirectory
    from xclass.runs.grow import grow_run
    from xclass.runs.train import resolve_config, train_run

    opened, settings = open_dataset(dataset), resolve_config(config, overrides)
    if grow_vocab:
        path = grow_run(opened, settings, out, device, check_memory=memory_check)
    else:
        path = train_run(opened, settings, out, resume, device, check_memory=memory_check)
    if not is_first():
        return  # rank 0 answers for the launch
    run = RunDirectory(path)
    summary = {"run": str(path), **run.manifest["result"]}
    if "grown" in run.manifest:
        summary["grown"] = run.manifest["grown"][-1]
    if as_json:
        print_json(summary)
    else:
        print_fields(summary, "trained")
