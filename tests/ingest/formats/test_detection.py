"""Formats are found from what stands in the files: one for a directory, and nothing is guessed where two would do."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from reference.datasets import ingest_text, lists, write

from xclass.errors import ConfigError, DataError
from xclass.ingest.formats.pairs import find_formats
from xclass.ingest.ingest import ingest
from xclass.ingest.options import IngestOptions

DRAW = random.Random(0)


def rows(count: int, *columns: tuple[int, int], between: str = " ") -> str:
    """Lines of numbers, each column drawn from a range of its own."""
    return "".join(between.join(str(DRAW.randint(*column)) for column in columns) + "\n" for _ in range(count))


def uneven(count: int, least: int = 1, most: int = 9, items: int = 500, heads: bool = True) -> str:
    """Lines of different lengths; with ``heads`` each begins with its own number."""
    lines = []
    for number in range(count):
        length = DRAW.randint(least, most)
        line = [str(DRAW.randint(0, items)) for _ in range(length)]
        lines.append(" ".join([str(number)] * heads + line))
    return "\n".join(lines) + "\n"


def even(count: int, length: int, between: str = " ") -> str:
    return "".join(
        between.join([str(number), *(str(DRAW.randint(0, 500)) for _ in range(length))]) + "\n"
        for number in range(count)
    )


TIMES = (1_500_000_000, 1_600_000_000)
PROSE = "the jury said friday , an investigation of it\nproduced no evidence .\nthe jury further said\n" * 8
FOUND = {
    # as the real ones are
    "beauty: user item a line": ({"a.txt": rows(300, (1, 30), (1, 99))}, "csv"),
    "yelp: user item time": ({"a.txt": rows(300, (1, 30), (1, 99), TIMES)}, "csv"),
    "gowalla: user item item": ({"train.txt": uneven(40), "test.txt": uneven(40)}, "adjacency"),
    "gowalla, a test part of even lines": ({"train.txt": uneven(40), "test.txt": even(40, 4)}, "adjacency"),
    "gowalla, one test item each": ({"train.txt": uneven(40), "test.txt": even(40, 1)}, "adjacency"),
    "even lines in both, of different lengths": ({"train.txt": even(40, 20), "test.txt": even(40, 5)}, "adjacency"),
    "s3-beauty": ({"sequences.txt": uneven(50, 5, 12)}, "adjacency"),
    "diginetica's sessions": ({"train_sessions.txt": uneven(300, 2, 6, items=60, heads=False)}, "sequences"),
    "ml-1m": ({"ratings.dat": rows(30, (1, 9), (1, 99), (1, 5), TIMES, between="::")}, "csv"),
    "ml-1m without its ending": ({"ratings": rows(30, (1, 9), (1, 99), (1, 5), TIMES, between="::")}, "csv"),
    "ml-100k": ({"u.data": rows(30, (1, 9), (1, 99), (1, 5), TIMES, between="\t")}, "csv"),
    # tables whatever the ending
    **{f"tabs, {name}": ({name: rows(30, (1, 9), (1, 99), between="\t")}, "csv") for name in
       ("a.txt", "a.log", "a.tab", "a", "part-00000", "a.data")},
    **{f'"{mark}"': ({"a.txt": rows(30, (1, 9), (1, 99), (1, 5), between=mark)}, "csv") for mark in (",", ";", "|", "::")},
    "titles with blanks": ({"a.txt": "user_id\titem_id\ttitle\nu1\ta\tRed big shoe\nu1\tb\tHat\nu2\ta\tBlue coat\n"}, "csv"),
    "titles, no header": ({"a.txt": "u1\ta\tRed big shoe\nu1\tb\tHat\nu2\ta\tBlue coat long\n"}, "csv"),
    "five columns, no header": ({"a.txt": "0\t2010-10-19T23:55:27Z\t30.2\t-97.7\t22847\n1\t2010-10-17T23:42:03Z\t30.1\t-97.6\t7\n"}, "csv"),
    "five columns and blanks": ({"a.txt": rows(50, (1, 9), (1, 99), (1, 5), TIMES, (0, 9))}, "csv"),
    "a header and blanks": ({"a.txt": "user_id item_id note\n1 2 good\n1 3 very good indeed\n"}, "csv"),
    "a header and commas": ({"a.txt": "userId,movieId\n1,2\n1,3\n"}, "csv"),
    "a table in two parts": ({"train.txt": rows(50, (1, 9), (1, 99)), "test.txt": rows(9, (1, 9), (1, 99))}, "csv"),
    "user item weight, each user once": ({"a.txt": "".join(f"{n} {n * 7 % 89} {n % 5}.5\n" for n in range(30))}, "csv"),
    "user item rating, each user once": ({"a.txt": "".join(f"{n} {n * 7 % 89} {n % 5}\n" for n in range(30))}, "csv"),
    "user item with text ids, a number": ({"a.txt": "ann shoe 3\nbob hat 4\n"}, "csv"),
    "one line of another length in a table": ({"a.txt": rows(200, (1, 9), (1, 99), (1, 5), between="\t") + "1\t2\n"}, "csv"),
    "quotes around a comma": ({"a.txt": 'u1,a,"x, y"\nu1,b,z\nu2,c,w\n'}, "csv"),
    # lists
    "tabs between a user's items": ({"a.txt": uneven(40).replace(" ", "\t")}, "adjacency"),
    "a tab behind the user": ({"a.txt": "1\t5 6 7\n2\t5\t8 9\n3\t1\n"}, "adjacency"),
    "a user without items": ({"a.txt": "1 5 6\n2\n3 7\n"}, "adjacency"),
    "few lines, different heads": ({"a.txt": "1 2\n3 4 5\n2 7\n"}, "adjacency"),
    "few lines, a head again": ({"a.txt": "1 2\n3 4 5\n1 3\n"}, "sequences"),
    # what says so itself
    "objects": ({"a.txt": '{"user": 1, "item": 2}\n'}, "jsonl"),
    "one table by its ending, one by its lines": ({"a.csv": "1,2\n", "b.txt": "3,4\n3,5\n"}, "csv"),
}  # fmt: skip


def places(folder: Path, files: dict[str, str]) -> list[Path]:
    return [write(folder / name, content) for name, content in files.items()]


@pytest.mark.parametrize("case", FOUND)
def test_format_is_found(tmp_path: Path, case: str) -> None:
    files, wanted = FOUND[case]
    assert set(find_formats(places(tmp_path, files), IngestOptions())) == {wanted}


UNCLEAR = {
    "few lines, a head again that is no item": (
        {"a.txt": "1 2\n3 4 5\n1 7\n"}, ["adjacency", "sequences"]),
    "user item and what": ({"a.txt": even(30, 2)}, ["csv", "adjacency"]),
    "ten of each user": ({"a.txt": even(30, 10)}, ["csv", "adjacency"]),
    "sequences of one length": ({"a.txt": rows(300, *[(1, 40)] * 6)}, ["csv", "sequences"]),
    "a user's sessions": ({"a.txt": "".join(f"{900 + n // 3} {n} {n + 1}" + " 7" * (n % 3) + "\n" for n in range(30))},
                          ["adjacency", "sequences"]),
    "prose": ({"a.txt": PROSE}, ["text", "sequences"]),
    "few lines of prose": ({"a.txt": "one said , yes .\nthe other said no .\n"}, ["text", "sequences"]),
    "one even part": ({"train.txt": rows(50, (1, 9), (1, 99), (1, 5)), "test.txt": "1 2 3\n1 2 3\n2 3\n"}, ["csv", "sequences"]),
    "a tab, then one item or more": ({"a.txt": "1\t5 6 7\n2\t8\n"}, ["csv", "adjacency"]),
    "a damaged line in a table": ({"a.txt": "user^id|item_id|note\nu3|i0|x\nu1|i5|a b c\nu0|i7|a b c\nu1|i3|+7\n0x10\n"}, ["csv", "adjacency"]),
    "a damaged header": ({"a.txt": "user_iditem_id\tnote\nu3\ti5\ta b c\nu4\ti5\td e f\nu0\ti3\tThe Plough\n"}, ["csv", "adjacency"]),
    "a damaged line of ::": ({"a.txt": "userem_id::note\nu4::i4::Heat\nu5::i0::The Plough\nu6::i3::x\n"}, ["csv", "adjacency"]),
    "a comma, then one item or more": ({"a.txt": "u1,a b\nu2,c\n"}, ["csv", "adjacency"]),
}  # fmt: skip


@pytest.mark.parametrize("case", UNCLEAR)
def test_two_formats_are_named_with_what_each_reads(tmp_path: Path, case: str) -> None:
    files, wanted = UNCLEAR[case]
    with pytest.raises(DataError) as caught:
        find_formats(places(tmp_path, files), IngestOptions())
    assert all(f"--format {name}" in str(caught.value) for name in wanted)
    assert find_formats(places(tmp_path, files), IngestOptions(format="sequences"))[0] == "sequences"


@pytest.mark.parametrize("options", [{"query_col": "1", "item_col": "3"}, {"header": False}, {"separator": " "}])
def test_options_of_tables_say_that_it_is_one(tmp_path: Path, options: dict[str, object]) -> None:
    assert find_formats(places(tmp_path, {"a.txt": even(30, 10)}), IngestOptions(**options)) == ["csv"]


@pytest.mark.parametrize(("line", "marks"), [("1;2;3,5\n", (",", ";")), ("1,a|b\n", (",", "|"))])
def test_two_separators_that_cut_alike_are_asked_about(tmp_path: Path, line: str, marks: tuple[str, str]) -> None:
    with pytest.raises(DataError, match="both cut every line alike") as caught:
        ingest_text(tmp_path, "a.csv", line * 3)
    assert all(f'--separator "{mark}"' in str(caught.value) for mark in marks)
    assert lists(ingest_text(tmp_path, "a.csv", line * 3, separator=marks[0], header=False))


def test_a_header_decides_between_separators(tmp_path: Path) -> None:
    assert lists(ingest_text(tmp_path, "a.csv", "user;item;a|b\nu1;x;1|2\nu1;y;3|4\n")) == {"u1": ["x", "y"]}


def test_files_of_different_formats_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "raw" / "a.csv", "user,item\n1,2\n")
    write(tmp_path / "raw" / "notes.txt", "1 2 3\n4 5\n6 7 8 9\n")
    with pytest.raises(DataError, match=r"different formats(.|\n)*a.csv is csv, notes.txt looks like adjacency"):
        ingest(tmp_path / "raw", tmp_path / "out")


def test_parquet_without_an_ending_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    import polars as pl

    pl.DataFrame({"user": [1], "item": [2]}).write_parquet(tmp_path / "part-00000")
    assert find_formats([tmp_path / "part-00000"], IngestOptions()) == ["parquet"]


def test_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no format"):
        find_formats([tmp_path], IngestOptions(format="pairs"))
