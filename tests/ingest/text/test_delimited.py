"""Delimited files against Python's csv module: the same rows, or an error that names the line."""

from __future__ import annotations

import csv
import gzip
import io
import random
import re
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from xclass.errors import DataError
from xclass.ingest.text.delimited import blocks
from xclass.ingest.text.lines import zstd

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
        wanted = wanted_rows(re.sub("^\ufeff", "", text, flags=re.MULTILINE), separator, quoted)
        path.write_bytes(rng.choice([b"", b"\xef\xbb\xbf"]) + text.encode())
        for size in (1, 7, 30, 1 << 20):
            assert read(path, separator, False, quoted=quoted, block_bytes=size) == wanted, (seed, size, text)
        agreed += wanted is not None
    assert agreed > len(SEEDS) / 4


@pytest.mark.parametrize("separator", ["::", " ", "§", "||"])
def test_longer_separators_cut_lines_without_quotes(tmp_path: Path, separator: str) -> None:
    path, rng = tmp_path / "a.dat", random.Random(separator)
    blank = [" ", "\t", "  "] if separator == " " else [separator]
    for seed in range(200):
        width, end = rng.randrange(1, 4), rng.choice(["\n", "\r\n"])
        cells = ["a", '"b"', "é", "\x1f", "7"] + ([] if separator == " " else ["", "x y", ",", ":"])
        rows = [[rng.choice(cells) for _ in range(width)] for _ in range(rng.randrange(1, 9))]
        lines = [rng.choice(blank).join(row) for row in rows]
        text = end.join(lines) + rng.choice([end, "", end + end])
        path.write_bytes(text.encode())
        if separator == " ":
            wanted = [re.split("[ \t]+", line.strip(" \t")) for line in re.split("\r?\n", text) if line]
        else:
            wanted = [line.split(separator) for line in re.split("\r?\n", text) if line.strip(" ")]
        even = wanted and len({len(row) for row in wanted}) == 1
        for size in (1, 11, 1 << 20):
            assert read(path, separator, False, block_bytes=size) == (wanted if even else None), (seed, text)


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstd.compress])
def test_names_and_columns(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    path = tmp_path / {bytes: "a.csv", gzip.compress: "a.csv.gz", zstd.compress: "a.csv.zst"}[pack]
    path.write_bytes(pack(b'\xef\xbb\xbf\n"the ""first""",b,"c\nd"\n1,2,3\n\n4,,"6\n"\n'))
    frames = pl.concat(blocks(path, ",", True, block_bytes=4))
    assert frames.to_dict(as_series=False) == {'the "first"': ["1", "4"], "b": ["2", ""], "c\nd": ["3", "6\n"]}
    chosen = pl.concat(blocks(path, ",", True, columns=["c\nd", "b"], block_bytes=4))
    assert chosen.rows() == [("3", "2"), ("6\n", "")]
    assert pl.concat(blocks(path, ",", False)).columns == ["1", "2", "3"]
    with pytest.raises(DataError, match="a column is missing"):
        list(blocks(path, ",", True, columns=["x"]))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,a\n1,2\n", "same name"),
        ("", "is empty"),
        ("\n\n", "is empty"),
        ('a,b\n1,2\n3,"4\n' + "5,6\n" * 100_000, "line 3.*longer than 131,072"),
        ('a,b\n1,2\n3,"4\n5,6\n', "line 3.*not closed"),
        ('a,b\n1,2\n3,"4" \n5,6\n', "line 3.*goes on after"),
        ("a,b\n1,2\n3\r4,5\n", "line 3.*carriage return"),
        ("a,b\n1,2\n\n3,4,5\n", "line 4.*another number of fields"),
        ('a,b\n"1\n\n",2\n3\n', "line 5.*another number of fields"),
    ],
)
@pytest.mark.parametrize("size", [1, 100, 1 << 24])
def test_what_is_wrong_is_named(tmp_path: Path, text: str, words: str, size: int) -> None:
    (tmp_path / "a.csv").write_bytes(text.encode())
    with pytest.raises(DataError, match=words):
        list(blocks(tmp_path / "a.csv", ",", True, block_bytes=size))


@pytest.mark.parametrize("size", [1, 9, 1 << 20])
def test_a_byte_that_is_no_utf8_names_its_line(tmp_path: Path, size: int) -> None:
    (tmp_path / "a.csv").write_bytes(b"a,b\n1,\xc3\xa9\n3,\xff\n")
    with pytest.raises(DataError, match="line 3, byte 3"):
        list(blocks(tmp_path / "a.csv", ",", True, columns=["a"], block_bytes=size))


def test_rows_that_polars_reads_otherwise_go_through_csv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.csv").write_text("a,b\n1,2\n3,4\n")
    fewer = pl.DataFrame({"0": ["1"], "1": ["2"]})
    monkeypatch.setattr(pl, "read_csv", lambda *_, **__: fewer)
    assert read(tmp_path / "a.csv", ",", True) == [["1", "2"], ["3", "4"]]
