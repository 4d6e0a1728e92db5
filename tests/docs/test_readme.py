"""The commands of the README and of the tour are run, in order, in an empty directory, and print what the pages say."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from pages import BLOCK, ROOT, check_output, page, run_page

TEXT = page("README.md")


@pytest.mark.parametrize(("name", "steps"), [("README.md", 5), ("docs/getting-started.md", 8)])
def test_a_page_prints_what_it_says(
    name: str, steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_page(name, tmp_path, monkeypatch, capsys) == steps


@pytest.mark.parametrize(
    ("expected", "got", "same"),
    [
        ("a 0.50 | 1,000", "a  0.53 | 1,000\n", True),
        ("a 0.50 | 1,000", "a  0.57 | 1,000\n", False),
        ("a 0.50 | 1,000", "a  0.50 | 1,001\n", False),
        ("a\n...\nz", "a\nb\nc\nz\n", True),
        ("a\n...\nz", "a\nb\nc\ny\n", False),
        ("|-----:|", "|---:|", True),
    ],
)
def test_the_comparison_itself(expected: str, got: str, same: bool) -> None:
    if same:
        check_output("x", expected, got)
    else:
        with pytest.raises(AssertionError):
            check_output("x", expected, got)


def test_every_block_has_a_kind_that_is_known() -> None:
    blocks = BLOCK.findall(TEXT)
    assert {kind for kind, _ in blocks} <= {"sh", "console", "python", "toml"}
    assert 2 * len(blocks) == len(re.findall(r"^```", TEXT, flags=re.MULTILINE))


def test_make_targets_and_extras_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"\bmake ([a-z]+)", "\n".join(block for kind, block in BLOCK.findall(TEXT) if kind == "sh")))
    assert named
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in named)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    listed = re.findall(r"^\| `([a-z]+)` \|", page("docs/installation.md"), flags=re.MULTILINE)
    assert listed == list(project["optional-dependencies"])
