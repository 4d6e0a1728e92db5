"""Options that several commands share, so that they are named and explained once."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

MOST = (1 << 31) - 1  # of anything that is counted, as in configurations
MOST_RESAMPLES = 1_000_000
MOST_RANKS = 1 << 14
LARGEST_SEED = (1 << 63) - 1


def finite(value: float) -> float:
    """``value``; NaN, which is inside every range for Typer, is a usage error."""
    if not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a number")
    return value


AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")]
ConfigFile = Annotated[
    Path,
    typer.Option(
        "--config",
        help="The run's TOML file; see configs/. An empty file means all defaults. An empty file means all defaults.",
    ),
]
Overrides = Annotated[
    list[str],
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change one value of the configuration; repeatable."),
]
DatasetPath = Annotated[
    Path | None,
    typer.Option("--dataset", help="The run's dataset, if it has moved.", show_default=False),
]
Device = Annotated[str, typer.Option("--device", metavar="NAME", help="Where to compute: auto, cpu or cuda.")]
CutOffs = Annotated[list[int], typer.Option("-k", min=1, max=MOST, help="A cut-off; repeatable.")]
MetricNames = Annotated[
    list[str] | None,
    typer.Option(
        help="A metric's name without the cut-off, e.g. recall, psp or perplexity; repeatable.", show_default=False
    ),
]
Split = Annotated[str, typer.Option(help="The split to measure on: test or valid.")]
MaxQueries = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=MOST,
        metavar="N",
        help="Measure on a sample of N queries; the sample is always the same.",
        show_default=False,
    ),
]
PredictionFile = Annotated[
    Path | None,
    typer.Option(
        "--predictions",
        metavar="FILE",
        help="Instead of RUN: rows of query_id, item_id and rank or score, from any system; a file or a directory.",
        show_default=False,
    ),
]
TruthFile = Annotated[
    Path | None,
    typer.Option(
        "--truth",
        metavar="FILE",
        help="For files of predictions: rows of query_id, item_id; a file or a directory.",
        show_default=False,
    ),
]
TrainFile = Annotated[
    Path | None,
    typer.Option(
        "--train",
        metavar="FILE",
        help="With --truth: the train pairs, for the popularity baseline, cold items, psp and psndcg.",
        show_default=False,
    ),
]
NumItems = Annotated[
    int | None,
    typer.Option(
        "--num-items",
        min=1,
        max=MOST,
        metavar="N",
        help="With --truth: number of items in the catalogue.",
        show_default=False,
    ),
]


def one_of(option: str, value: str, allowed: tuple[str, ...]) -> str:
    """``value`` when it is allowed, else a usage error (exit code 2) that names the nearest allowed one."""
    if value in allowed:
        return value
    from xclass.errors import nearest

    raise typer.BadParameter(f'"{value}": {nearest(value, allowed)}', param_hint=f"'{option}'")


def constants_of(text: str) -> tuple[float, float]:
    """A and B of ``A,B``; anything else is a usage error."""
    try:
        a, b = map(float, text.split(","))
    except ValueError:
        raise typer.BadParameter(f'"{text}": wanted A,B, for example 0.6,2.6', param_hint="'--propensity'") from None
    return a, b
