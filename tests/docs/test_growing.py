"""docs/growing.md: its commands run, in order, and print what it says; its table of splits is true to the tests of append."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from pages import page, run_page

from xclass.data.dataset import open_dataset
from xclass.runs.directory import RunDirectory

TEXT = page("docs/growing.md")


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_page("docs/growing.md", tmp_path, monkeypatch, capsys) == 6
    run, dataset = RunDirectory("runs/log"), open_dataset("data/log")
    assert run.num_items == dataset.num_items and run.manifest["grown"][0]["items"]["new"] > 0
    found = pl.read_parquet("topk.parquet")
    late = [f"t{thing}" for thing in range(151, 200)]
    assert found["item_id"].is_in(late).any(), "new things are recommended"
    assert found["query_id"].n_unique() == 600
