"""docs/extreme.md: its commands run, in order, and print what it says; what it says of options and names is so."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from test_readme import BLOCK, check_output, console_steps

from xclass.cli import main
from xclass.data.document_formats import DOCUMENT_FORMATS
from xclass.data.store import open_dataset
from xclass.data.vectoriser import TextOptions

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "extreme.md").read_text(encoding="utf-8")


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    ran = 0
    for kind, block in BLOCK.findall(TEXT):
        if kind == "python":
            exec(compile(block, "docs/extreme.md", "exec"), {})
        for command, expected in console_steps(block) if kind == "console" else []:
            capsys.readouterr()
            assert main(shlex.split(command)[1:]) == 0, f"{command}\n{capsys.readouterr().err}"
            check_output(command, expected, capsys.readouterr().out)
            ran += 1
    assert ran == 7
    first, again = open_dataset("data/pages"), open_dataset("data/again")
    assert sorted(first.items["item_id"]) == sorted(again.items["title"])


def test_options_and_formats_are_those_of_the_library() -> None:
    for name in TextOptions.model_fields:
        assert f"--{name.replace('_', '-')}" in TEXT
    for name in DOCUMENT_FORMATS:
        assert f"| `{name}` |" in TEXT
    assert f"{TextOptions().max_features:,}" in TEXT
