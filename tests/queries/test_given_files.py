"""Files given to commands: headers, quotes, marks, compression, damage; every form as Python's own readers read it."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import polars as pl
import pytest

from xclass.data.ids import IdMap
from xclass.errors import DataError
from xclass.ingest.text.lines import zstd
from xclass.queries.blocks import count_queries, read_query_blocks
from xclass.queries.files import QueryFile, read_item_filter, read_query_file
from xclass.queries.given_files import read_table

MARK = "\ufeff"


def listed(found: QueryFile) -> list[tuple[str, list[str]]]:
    """(query, items) of histories, (query, []) of ids."""
    items = [] if found.items is None else found.items.to_list()
    offsets = [0] * (len(found.query_ids) + 1) if found.offsets is None else found.offsets.tolist()
    return [
        (str(query), items[low:high])
        for query, low, high in zip(found.query_ids, offsets[:-1], offsets[1:], strict=True)
    ]


def in_blocks(path: Path, known: IdMap | None = None) -> list[tuple[str, list[str]]]:
    return [row for block in read_query_blocks(path, 2, known) for row in listed(block)]


@pytest.mark.parametrize("ending", [".csv", ".tsv"])
@pytest.mark.parametrize("mark", ["", MARK])
@pytest.mark.parametrize(
    ("lines", "wanted"),
    [
        (["u1", "u2"], ["u1", "u2"]),  # no name: an id
        (["u1"], ["u1"]),
        (["17", "18"], ["17", "18"]),
        (["gadget", "u2"], ["gadget", "u2"]),  # no usual name
        (["query_id", "u1"], ["u1"]),
        (["User_ID", "u1"], ["u1"]),
        (["itemId", "u1"], ["u1"]),
        (["user", "u1"], ["u1"]),
        (["item", "u1"], ["item", "u1"]),  # a usual name, and an id that is known
        (['"query_id"', "u1"], ["u1"]),
        (['"u ""1"""', "u2"], ['u "1"', "u2"]),
        (["", "u1", "", "u2", ""], ["u1", "u2"]),
    ],
)
def test_a_file_of_one_column(tmp_path: Path, ending: str, mark: str, lines: list[str], wanted: list[str]) -> None:
    known = IdMap(pl.Series(["item", "u1"]))
    for newline in ("\n", "\r\n"):
        path = tmp_path / f"a{ending}"
        path.write_bytes((mark + newline.join(lines) + newline).encode())
        assert [query for query, _ in listed(read_query_file(path, known=known))] == wanted
        assert [query for query, _ in in_blocks(path, known)] == wanted
        assert read_item_filter(path, known).query_ids.to_list() == wanted


PAIRS = [("q 1", ["a", 'b"', "ü"]), ("q2", ["a"]), ('3"', ["c", "b"])]


def forms() -> dict[str, str]:
    rows = [(query, item) for query, items in PAIRS for item in items]
    quoted = [('"' + field.replace('"', '""') + '"' for field in row) for row in rows]
    return {
        "plain.csv": "query_id,item_id\n" + "".join(f"{query},{item}\n" for query, item in rows),
        "quoted.csv": 'query_id,"item_id"\r\n' + "".join(",".join(row) + "\r\n" for row in quoted),
        "before.csv": "title,query_id,item_id\n" + "".join(f'6" x 4",{query},{item}\n' for query, item in rows),
        "behind.tsv": "query_id\titem_id\ttitle\n" + "".join(f'{query}\t{item}\ta "b" c\n' for query, item in rows),
        "lines.csv": "query_id,item_id,title\n" + "".join(f'{query},{item},"a\nb"\n' for query, item in rows),
        "objects.jsonl": "".join(json.dumps({"query_id": q, "history": items}) + "\n\n" for q, items in PAIRS),
    }


@pytest.mark.parametrize("name", list(forms()))
@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
@pytest.mark.parametrize("mark", ["", MARK])
def test_every_form_gives_the_same_histories(tmp_path: Path, name: str, packing: str, mark: str) -> None:
    content = (mark + forms()[name]).encode()
    path = tmp_path / (name + packing)
    path.write_bytes({"": bytes, ".gz": gzip.compress, ".zst": zstd.compress}[packing](content))
    assert listed(read_query_file(path)) == PAIRS
    assert in_blocks(path) == PAIRS
    assert listed(read_item_filter(path)) == PAIRS
    assert 1 <= count_queries(path) <= 20


def test_inch_marks_are_read_as_csv_reads_them(tmp_path: Path) -> None:
    """Thousands of rows, some of them with quotes before, in and behind the ids."""
    rows = [
        (f"{n}", f'{n % 7}"' if n % 5 == 0 else f"i{n}", f'{n}" x "{n}' if n % 11 == 0 else "") for n in range(9000)
    ]
    path = tmp_path / "a.csv"
    path.write_text("title,query_id,item_id\n" + "".join(f"{c},{a},{b}\n" for a, b, c in rows))
    with path.open(newline="") as file:
        wanted = list(csv.reader(file))[1:]
    table = read_table(path, ".csv")
    assert len(table) == 9000 and table["item_id"].to_list() == [row[2] for row in wanted]
    assert len(in_blocks(path)) == 9000


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"u1\ru2\ru3\n", r"a\.txt, line 1"),
        ("a.adj", b"u1 i1\nu2 i2\ru3 i3\n", r"a\.adj, line 2"),
        ("a.jsonl", b"[" * 100_000, r"a\.jsonl:1: this line is not JSON"),
        ("a.jsonl", b'{"history": ' + b"[" * 100_000, "this line is not JSON"),
        ("a.jsonl", b'{"query_id": "a", "history": []}\n{"query_id": {"a": 1}, "history": []}', "a.jsonl:2: an id is"),
        ("a.jsonl", b"3\n", "no JSON object"),
        ("a.jsonl", rb'{"query_id": "\ud800", "history": []}', "no Unicode text"),
        ("a.jsonl", rb'{"query_id": "q", "history": ["a\udc00"]}', "no Unicode text"),
        ("a.jsonl", rb'{"query_id": "q", "text": "\ud800"}', "no Unicode text"),
        ("a.jsonl", b"", "holds no query"),
        ("a.csv", b"", "empty"),
        ("a.csv", MARK.encode(), "empty"),
        ("a.csv", b"\n\n", "empty"),
        ("a.txt", MARK.encode(), "holds no query"),
        ("a.csv", b'query_id,item_id\na,"b\n', "quoted value is not closed"),
        ("a.csv", b"query_id,item_id\na,b,c\n", "line 2"),
        ("a.csv", b"query_id,query_id\na,b\n", "same name"),
        ("a.csv", b"query_id\na\nquery_id\n", "line 3: the header comes again"),
        ("a.jsonl", b'{"query_id": "a", "history": ["b"], "history": []}', "a.jsonl:1: .*not JSON"),
        ("a.jsonl", b'{"query_id": "a", "history": [], "x": NaN}', "a.jsonl:1: .*not JSON"),
        ("a.jsonl", b'{"user_id": "a", "history": ["b"]}', r"(?s)another name.*user_id"),
        ("a.txt", "a\n".encode("utf-16-le") * 3, "UTF-16"),
        ("a.csv", "query_id\na\n".encode("utf-32-be"), "UTF-32"),
        ("a.csv", b"PAR1garbage", "a Parquet file"),
        ("a.csv", b"query_id,item_id\n,b\n", "an id is missing"),
        ("a.csv", "query_id\nü\n".encode("utf-16"), "UTF-16"),
        ("a.csv", gzip.compress(b"query_id\na\n", mtime=0), "gzip"),
        ("a.csv.gz", b"query_id\na\n", "can't be read"),
        ("a.csv.gz", gzip.compress(b"query_id\n" + bytes(range(32, 120)) * 99)[:-20], "can't be read"),
        ("a.csv.zst", b"query_id\na\n", "can't be read"),
        ("a.parquet", b"PAR1garbage", "can't be read"),
        ("a.parquet", b"", "can't be read"),
        ("a.parquet.gz", b"", "compressed in itself"),
        ("a.csv.bz2", b"", "ending is not known"),
    ],
)
def test_damage_is_one_clear_error(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    for read in (read_query_file, in_blocks, *([count_queries] if "can't" in message else [])):
        with pytest.raises(DataError, match=message) as error:
            read(path)
        assert name in str(error.value)


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a directory, not a file"):
        read_query_file(tmp_path)


def test_categories_of_a_parquet_file_are_text(tmp_path: Path) -> None:
    frame = pl.DataFrame({"query_id": pl.Series(["b", "a", "b"], dtype=pl.Categorical)})
    frame.write_parquet(tmp_path / "a.parquet")
    assert read_query_file(tmp_path / "a.parquet").query_ids.to_list() == ["b", "a", "b"]


def test_items_of_queries_of_another_name_are_not_for_everybody(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("user_id,item_id\nu1,i1\n")
    with pytest.raises(DataError, match=r"(?s)another name.*wanted: query_id.*got: user_id"):
        read_item_filter(tmp_path / "a.csv")


def test_columns_that_are_not_read_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.csv").write_text("query_id,movie_id\nu1,i1\n")
    read_query_file(tmp_path / "a.csv")
    in_blocks(tmp_path / "a.csv")
    assert capsys.readouterr().err.count("columns that are not read: movie_id") == 2
