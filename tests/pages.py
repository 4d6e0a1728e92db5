"""Runs what a page of the documentation says, in order, and holds it to what it says is printed.

A block marked ``console`` holds commands after ``$ `` and what they print; ``...`` stands for what may differ. A block marked
``python`` is run in its place. Blocks marked ``sh`` are for a person's shell (make, pip) and are tested by other means.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from xclass.cli import main

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def page(name: str) -> str:
    """The text of a page, by its path in the repository."""
    return (ROOT / name).read_text(encoding="utf-8")


def run_page(name: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> int:
    """Run its blocks in ``place``, where ``configs`` is the repository's; how many commands and blocks ran."""
    monkeypatch.chdir(place)
    (place / "configs").symlink_to(ROOT / "configs")
    namespace: dict[str, object] = {}
    ran = 0
    for kind, block in BLOCK.findall(page(name)):
        if kind == "python":
            exec(compile(block, name, "exec"), namespace)
            ran += 1
        for command, expected in console_steps(block) if kind == "console" else []:
            program, *arguments = shlex.split(command)
            assert program == "xclass"
            capsys.readouterr()
            assert main(arguments) == 0, f"{command}\n{capsys.readouterr().err}"
            check_output(command, expected, capsys.readouterr().out)
            ran += 1
    return ran


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


NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?(?:e[-+]\d+)?")


def pattern_of(expected: str) -> tuple[re.Pattern[str], list[str]]:
    """What may be printed: blanks as they fall, ``...`` for anything, a group for each number that has a fraction."""
    pieces, fractions = [], []
    for token in re.findall(r"\.\.\.|\s+|-{3,}|" + NUMBER.pattern + r"|.", expected.strip(), flags=re.DOTALL):
        if token == "...":
            pieces.append(r".*?")
        elif token.isspace():
            pieces.append(r"\s+")
        elif set(token) == {"-"} and len(token) > 2:
            pieces.append(r"-+")
        elif NUMBER.fullmatch(token) and "." in token:
            pieces.append(f"({NUMBER.pattern})")
            fractions.append(token)
        else:
            pieces.append(re.escape(token))
    return re.compile("".join(pieces) + r"\s*", re.DOTALL), fractions


def check_output(command: str, expected: str, got: str) -> None:
    """Whole numbers must be equal; a fraction may differ by 10%, as sums do between processors."""
    pattern, fractions = pattern_of(expected)
    found = pattern.fullmatch(got)
    message = f"$ {command}\nthe page says:\n{expected}\nbut it prints:\n{got}"
    assert found is not None or not expected.strip(), message
    for said, printed in zip(fractions, found.groups() if found else (), strict=True):
        assert float(printed.replace(",", "")) == pytest.approx(float(said.replace(",", "")), rel=0.1), message
