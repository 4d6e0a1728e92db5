"""Tables line up as text and read as Markdown; JSON is always valid."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from xclass.cli.output import print_fields, print_json, print_table


def test_a_table_off_the_terminal_is_markdown(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["split", "pairs", "share"], [["train", 810128, 0.5], ["te|st", None, 12.0]], title="pairs")
    assert capsys.readouterr().out == (
        "pairs\n"
        "\n"
        "| split  |   pairs |   share |\n"
        "|--------|--------:|--------:|\n"
        "| train  | 810,128 |  0.5000 |\n"
        "| te\\|st |         | 12.0000 |\n"
    )


def test_a_table_without_rows(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["a", "b"], [])
    assert capsys.readouterr().out == "| a | b |\n|---|---|\n"


def test_on_a_terminal_nothing_is_read_as_markup(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    print_table(["id", "n"], [["[bold]x[/bold]", 1234]])
    assert "[bold]x[/bold]" in (printed := capsys.readouterr().out)
    assert "1,234" in printed


def test_fields_are_spelt_with_dots(capsys: pytest.CaptureFixture[str]) -> None:
    print_fields({"rows": {"read": 3, "dropped": {"null id": 1}}, "names": ["a", "b"], "rate": 0.000001})
    lines = capsys.readouterr().out.splitlines()
    assert lines[2:] == [
        "| rows.read            | 3     |",
        "| rows.dropped.null id | 1     |",
        "| names                | a, b  |",
        "| rate                 | 1e-06 |",
    ]


def test_json_of_everything_we_hold(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": float("nan"), "b": Path("x/y"), "c": np.int64(2**53 + 1), "d": (1, [np.float32(0.5)]), "é": None})
    text = capsys.readouterr().out
    assert json.loads(text) == {"a": None, "b": "x/y", "c": 2**53 + 1, "d": [1, [0.5]], "é": None}
    assert "é" in text
