"""Quality against training time, as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from xclass.contest.curves import Point
from xclass.manifest import atomic_file
from xclass.progress import say

Line = tuple[Sequence[Point], float, Mapping[str, float]]
"""Validations; seconds of training; metrics of the finished run."""


def draw(lines: Mapping[str, Line], metric: str, path: Path) -> bool:
    """Name → line, into a PNG file; False, and a word on stderr, where no plotting library is installed.

    A run without validations is one point: its metric on the measured split at the end of training.
    """
    try:
        from matplotlib import colormaps, pyplot, ticker
    except ImportError:
        say('no picture: it needs a plotting library, pip install "xclass[report]"')
        return False
    figure, axes = pyplot.subplots(figsize=(9, 5))
    colours = colormaps["tab20"]
    for number, (name, (points, train_s, metrics)) in enumerate(lines.items()):
        found = [(point.train_s, point.metrics[metric]) for point in points if metric in point.metrics]
        if not found and metric in metrics:
            found = [(train_s, metrics[metric])]
        if found:
            axes.plot(
                *zip(*found, strict=True), marker="o", ms=3.5, lw=1.4, color=colours(number % colours.N), label=name
            )
    axes.set(xlabel="seconds of training", ylabel=metric, xscale="log")
    for which in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        which(ticker.LogFormatter(minor_thresholds=(2, 0.7)))
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8, frameon=False)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, bbox_inches="tight", metadata={"Software": None})
    pyplot.close(figure)
    return True
