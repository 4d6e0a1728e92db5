"""Quality against training time, as a picture."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from xclass.comparison.curves import Point
from xclass.io.files import atomic_file
from xclass.runtime.progress import say
from xclass.training.validation import lower_is_better

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FAR = 1.6
"""A loss above so many times the median of all lines' ends is left out of the picture's range."""

Line = tuple[Sequence[Point], float, Mapping[str, float]]
"""Validations; seconds of training; metrics of the finished run."""


class Shown(NamedTuple):
    """What is drawn. points: seconds and value, by name. top: the upper end of the axis; None leaves it open."""

    points: dict[str, list[tuple[float, float]]]
    top: float | None

    def label(self, name: str) -> str:
        """The name, and the last value of a line that lies above the axis."""
        return f"{name}: {self.points[name][-1][1]:,.0f}" if self.is_above(name) else name

    def is_above(self, name: str) -> bool:
        """Whether no point of a line is in range."""
        return self.top is not None and all(value > self.top for _, value in self.points[name])


def shown(lines: Mapping[str, Line], metric: str) -> Shown:
    """The points of each line: its validations, or the finished run's metric where it has none.

    Perplexities of one task are near one another but for methods that aren't made for it: values beyond FAR times the
    median are above the axis.
    """
    points = {}
    for name, (validations, train_s, metrics) in lines.items():
        found = [(point.train_s, point.metrics[metric]) for point in validations if metric in point.metrics]
        if not found and metric in metrics:
            found = [(train_s, metrics[metric])]
        if found:
            points[name] = found
    if not points or not lower_is_better(metric):
        return Shown(points, None)
    top = FAR * statistics.median(found[-1][1] for found in points.values())
    return Shown(points, top if any(value > top for found in points.values() for _, value in found) else None)


def draw(lines: Mapping[str, Line], metric: str, path: Path) -> bool:
    """Name → line, into a PNG file; False, and a word on stderr, where no plotting library is installed.

    A run without validations is one point: its metric on the measured split at the end of training. Losses have a
    logarithmic axis; a line that is far above the others is an arrow at its edge, with the value in the legend.
    """
    try:
        from matplotlib import colormaps, pyplot
    except ImportError:
        say('no picture: it needs a plotting library, pip install "xclass[report]"')
        return False
    figure, axes = pyplot.subplots(figsize=(9, 5))
    colours, found = colormaps["tab20"], shown(lines, metric)
    for number, name in enumerate(lines):
        if name in found.points:
            _draw_line(axes, found, name, colours(number % colours.N))
    axes.set(xlabel="seconds of training", ylabel=metric, xscale="log")
    if lower_is_better(metric):
        axes.set_yscale("log")
    if found.top is not None:
        axes.set_ylim(top=found.top)
    _label_axes(axes)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8, frameon=False)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, bbox_inches="tight", metadata={"Software": None})
    pyplot.close(figure)
    return True


def _draw_line(axes: Axes, found: Shown, name: str, colour: tuple[float, ...]) -> None:
    points, label = found.points[name], found.label(name)
    if found.top is not None and found.is_above(name):
        axes.plot(points[-1][0], found.top, "^", ms=7, color=colour, label=label, clip_on=False)
    else:
        axes.plot(*zip(*points, strict=True), marker="o", ms=3.5, lw=1.4, color=colour, label=label)


def _label_axes(axes: Axes) -> None:
    """Plain numbers beside the ticks, and beside those between them where the axis is short."""
    from matplotlib import ticker

    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_scale() == "log":
            axis.set_major_formatter(ticker.LogFormatter(minor_thresholds=(2, 0.7)))
            axis.set_minor_formatter(ticker.LogFormatter(minor_thresholds=(2, 0.7)))
    axes.grid(alpha=0.3, which="both" if axes.get_yscale() == "log" else "major")
