"""docs/extreme.md: its commands run, in order, and print what it says; what it says of options and names is so."""

from __future__ import annotations

from pathlib import Path

import pytest
from pages import page, run_page

from xclass.data.dataset import open_dataset
from xclass.data.vectorizer import TextOptions
from xclass.ingest.formats.documents import DOCUMENT_FORMATS

TEXT = page("docs/extreme.md")


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_page("docs/extreme.md", tmp_path, monkeypatch, capsys) == 10
    first, again = open_dataset("data/pages"), open_dataset("data/again")
    assert sorted(first.items["item_id"]) == sorted(again.items["title"])


def test_options_and_formats_are_those_of_the_library() -> None:
    for name in TextOptions.model_fields:
        assert f"--{name.replace('_', '-')}" in TEXT
    for name in DOCUMENT_FORMATS:
        assert f"| `{name}` |" in TEXT
    assert f"{TextOptions().max_features:,}" in TEXT
