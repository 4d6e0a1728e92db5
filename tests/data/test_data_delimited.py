"""Delimited files against Python's csv module: the same rows, or an error that names the line."""

from __future__ import annotations

import csv
import io
import random
import re
from pathlib import Path

import polars as pl
import pytest

from xclass.data.delimited import blocks
from xclass.errors import DataError

SEEDS = range(400)


def wanted_rows(text: str, separator: str, quoted: bool) -> list[list[str]] | None:
    """What Python's csv reads, blank lines left out; None where it refuses, or a line has another width."""
    quoting = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    lines = io.StringIO(text, newline="\n")
    try:
        rows = [row for row in csv.reader(lines, delimiter=separator, quoting=quoting, strict=True) if row]
    except csv.Error:
        return None
    return rows if rows and len({len(row) for row in rows}) == 1 else None


def read(path: Path, separator: str, header: bool, **options: object) -> list[list[str]] | None:
    """The rows of all blocks; None where they are refused with the number of a line."""
    try:
        frames = list(blocks(path, separator, header, **options))  # type: ignore[arg-type]
    except DataError as error:
        assert "the file is empty" in str(error) or re.search(r"line \d|is empty", str(error)), str(error)
        return None
    assert all(dtype == pl.String for frame in frames for dtype in frame.dtypes)
    return [list(row) for frame in frames for row in frame.iter_rows()]


def some_text(rng: random.Random, separator: str) -> str:
    """A small file: mostly tables, well quoted or with quotes astray; sometimes any characters at all."""
    end = rng.choice(["\n", "\n", "\r\n"])
    if rng.random() < 0.2:
        return "".join(
            rng.choice(['"', separator, "\n", "\r\n", "a", "é", " ", '""', "\r"]) for _ in range(rng.randrange(40))
        )
    width, astray = rng.randrange(1, 4), rng.random() < 0.4
    inside = ["a", "bc", "", " ", "é", "x" * 9, separator, end, '""', end + end]

    def value() -> str:
        if rng.random() < 0.4:
            return '"' + "".join(rng.choice(inside) for _ in range(rng.randrange(4))) + '"'
        plain = "".join(rng.choice(["a", "7", " ", "é", "\ufeff", "b" * 5]) for _ in range(rng.randrange(4)))
        return plain + rng.choice(['"', '" x', 'in"'] if astray and rng.random() < 0.2 else [""])

    lines = [separator.join(value() for _ in range(width)) for _ in range(rng.randrange(1, 12))]
    for _ in range(rng.choice([0, 0, 1])):
        lines.insert(rng.randrange(len(lines)), "")
    return end.join(lines) + rng.choice([end, ""])


@pytest.mark.parametrize("separator", [",", "\t", ";", "|"])
@pytest.mark.parametrize("quoted", [True, False])
def test_rows_are_those_of_pythons_csv(tmp_path: Path, separator: str, quoted: bool) -> None:
    path, agreed = tmp_path / "a.csv", 0
    for seed in SEEDS:
        rng = random.Random(f"{seed}{separator}{quoted}")
        text = some_text(rng, separator).lstrip("\ufeff")
        wanted = wanted_rows(text, separator, quoted)
        path.write_bytes(rng.choice([b"", b"\xef\xbb\xbf"]) + text.encode())
        for size in (1, 7, 30, 1 << 20):
            assert read(path, separator, False, quoted=quoted, block_bytes=size) == wanted, (seed, size, text)
        agreed += wanted is not None
    assert agreed > len(SEEDS) / 4
