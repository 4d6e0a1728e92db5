"""The README's commands are run, in order, in an empty directory, and must print what the README says.

A block marked ``console`` holds commands after ``$ `` and what they print; ``...`` stands for what may differ. A block marked
``python`` is run in its place. Blocks marked ``sh`` are for a person's shell (make, pip) and are tested by other means.
"""

from __future__ import annotations

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
    assert ran >= 8


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
    message = f"$ {command}\nthe README says:\n{expected}\nbut it prints:\n{got}"
    assert found is not None or not expected.strip(), message
    for said, printed in zip(fractions, found.groups() if found else (), strict=True):
        assert float(printed.replace(",", "")) == pytest.approx(float(said.replace(",", "")), rel=0.1), message


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
    listed = re.findall(r"^\| `([a-z]+)` \|", TEXT, flags=re.MULTILINE)
    assert listed == list(project["optional-dependencies"])
