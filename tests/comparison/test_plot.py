"""What the picture of a contest shows: every line, and no range that one line alone stretches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from xclass.comparison.curves import Point
from xclass.comparison.plot import FAR, Line, draw, shown

LINES: dict[str, Line] = {
    "full": ([Point(1, 10.0, {"perplexity": 140.0}), Point(2, 20.0, {"perplexity": 130.0})], 20.0, {}),
    "sampled": ([Point(1, 2.0, {"perplexity": 900.0}), Point(2, 4.0, {"perplexity": 135.0})], 4.0, {}),
    "vectors": ([Point(1, 3.0, {"perplexity": 700.0}), Point(2, 6.0, {"perplexity": 660.4})], 6.0, {}),
    "unvalidated": ([], 5.0, {"perplexity": 150.0, "recall@20": 0.5}),
    "nothing": ([], 0.0, {}),
}


def test_a_loss_far_above_the_others_is_out_of_range_and_says_its_value() -> None:
    found = shown(LINES, "perplexity")
    assert found.top == pytest.approx(FAR * (135 + 150) / 2)  # the median of 130, 135, 660.4 and 150
    assert {name for name in found.points if found.is_above(name)} == {"vectors"}  # part of a line is cut off
    assert found.label("vectors") == "vectors: 660" and found.label("sampled") == "sampled"
    assert found.points["unvalidated"] == [(5.0, 150.0)] and "nothing" not in found.points


def test_what_is_near_and_what_is_better_when_higher_is_all_in_range() -> None:
    assert shown({"full": LINES["full"]}, "perplexity").top is None
    high = shown(LINES, "recall@20")
    assert high.top is None and high.points == {"unvalidated": [(5.0, 0.5)]}
    assert shown({}, "perplexity").points == {}


@pytest.mark.parametrize(("metric", "scale"), [("perplexity", "log"), ("recall@20", "linear")])
def test_axes(metric: str, scale: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot")
    drawn: list[Any] = []
    monkeypatch.setattr(pyplot, "close", drawn.append)
    assert draw(LINES, metric, tmp_path / "picture.png") and (tmp_path / "picture.png").stat().st_size > 5000
    (axes,) = drawn[0].axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", scale)
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == (["full", "sampled", "vectors: 660", "unvalidated"] if scale == "log" else ["unvalidated"])
