"""docs/planning.md: its example prints what it says, and its keys are those of the answer."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from pages import page, run_page

from xclass.cli import main


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_page("docs/planning.md", tmp_path, monkeypatch, capsys) == 1


def test_the_keys_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["planted:items=1e6,queries=1e5,pairs=1e6", "--config", "configs/scale-100m.toml", "--ranks", "2"]
    assert main(["estimate", *arguments, "--flops", "1T", "--memory-bandwidth", "1TB/s", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    table = page("docs/planning.md").partition("## The answer of `--json`")[2]
    named = set(re.findall(r"`(\w+)`", table))
    assert set(found) <= named
    assert set(found["cluster"]) | set(found["exchange"]) | set(found["step"]) <= named
