"""docs/growing.md: its commands run, in order, and print what it says; its table of splits is true to the tests of append."""

from __future__ import annotations

import shlex
from pathlib import Path

import polars as pl
import pytest
from test_readme import BLOCK, check_output, console_steps

from xclass.cli import main
from xclass.data.store import open_dataset
from xclass.run import RunDirectory

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "growing.md").read_text(encoding="utf-8")


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    ran = 0
    for kind, block in BLOCK.findall(TEXT):
        if kind == "python":
            exec(compile(block, "docs/growing.md", "exec"), {})
        for command, expected in console_steps(block) if kind == "console" else []:
            capsys.readouterr()
            assert main(shlex.split(command)[1:]) == 0, f"{command}\n{capsys.readouterr().err}"
            check_output(command, expected, capsys.readouterr().out)
            ran += 1
    assert ran == 5
    run, dataset = RunDirectory("runs/log"), open_dataset("data/log")
    assert run.num_items == dataset.num_items and run.manifest["grown"][0]["items"]["new"] > 0
    found = pl.read_parquet("topk.parquet")
    late = [f"t{thing}" for thing in range(151, 200)]
    assert found["item_id"].is_in(late).any(), "new things are recommended"
    assert found["query_id"].n_unique() == 600
