"""The README's commands are run, in order, in an empty directory, and must print what the README says.

A block marked ``console`` holds commands after ``$ `` and what they print; ``...`` stands for what may differ. A block marked
``python`` is run after them. Blocks marked ``sh`` are for a person's shell (make, pip) and are tested by other means.
"""

from __future__ import annotations

import doctest
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from xclass.cli import main

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def console_steps(block: str) -> list[tuple[str, str]]:
    """(command, what it prints) of a console block."""
    steps = []
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, printed = part.partition("\n")
        while command.endswith("\\"):
            more, _, printed = printed.partition("\n")
            command = command[:-1] + more.removeprefix(">")
        steps.append((command, printed))
    return steps


def test_the_tour_prints_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    namespace: dict[str, object] = {}
    ran = 0
    for kind, block in BLOCK.findall(TEXT):
        if kind == "python":
            exec(compile(block, "README.md", "exec"), namespace)
            ran += 1
        for command, expected in console_steps(block) if kind == "console" else []:
            program, *arguments = shlex.split(command)
            assert program == "xclass"
            capsys.readouterr()
            assert main(arguments) == 0, f"{command}\n{capsys.readouterr().err}"
            check_output(command, expected, capsys.readouterr().out)
            ran += 1
    assert ran >= 2


def check_output(command: str, expected: str, got: str) -> None:
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    if expected and not doctest.OutputChecker().check_output(expected, got, flags):
        pytest.fail(f"$ {command}\nthe README says:\n{expected}\nbut it prints:\n{got}")


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
    listed = re.findall(r"^\| `([a-z]+)` \|", TEXT, flags=re.MULTILINE)
    assert listed == list(project["optional-dependencies"])
