"""What people's files really look like: marks, encodings, compressions, dates, values that do not fit, nested JSON."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import random
import socket
import zipfile
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from reference.datasets import lists

from xclass.data.dataset import Dataset
from xclass.errors import DataError
from xclass.ingest.ingest import ingest
from xclass.ingest.options import IngestOptions
from xclass.ingest.text import lines
from xclass.ingest.text.dates import from_iso, iso_times
from xclass.ingest.text.lines import zstd

ALL_TRAIN = IngestOptions(split="random", test_fraction=0, valid_fraction=0)
MARK = b"\xef\xbb\xbf"
# name: (content, options); each is of the pairs (1, 10), (1, 11), (2, 10).
PAIRS = {1: ["10", "11"], 2: ["10"]}
TEXTS: dict[str, tuple[str, dict[str, Any]]] = {
    "a.csv": ("user,item\n1,10\n1,11\n2,10\n", {}),
    "a.tsv": ("user\titem\n1\t10\n1\t11\n2\t10\n", {}),
    "a.dat": ("1::10\n1::11\n2::10\n", {}),
    "a.txt": ("1 10 11\n2 10\n", {"format": "adjacency"}),
    "b.txt": ("10 11\n10\n", {"format": "sequences"}),
    "a.inter": ("user_id:token\titem_id:token\n1\t10\n1\t11\n2\t10\n", {}),
    "a.jsonl": ('{"user":1,"item":10}\n{"user":1,"item":11}\n{"user":2,"item":10}\n', {}),
    "a.svm": ("10,11 0:1\n10 0:1\n", {}),
    "a.xmc": ("2 3 12\n10,11 0:1\n10 1:1\n", {}),
}
PACKERS = {"": bytes, ".gz": gzip.compress, ".zst": zstd.compress}


def all_train(path: Path, **options: Any) -> Dataset:
    return ingest(path, path.parent / "out", ALL_TRAIN.model_copy(update=options))


def as_text(dataset: Dataset) -> dict[int, list[str]]:
    return {int(query): sorted(map(str, items)) for query, items in lists(dataset).items() if items}


def refused(path: Path, *words: str, **options: Any) -> None:
    with pytest.raises(DataError) as caught:
        all_train(path, **options)
    assert [word for word in words if word not in str(caught.value)] == [], str(caught.value)
    assert not (path.parent / "out").exists()


@pytest.mark.parametrize("packed", PACKERS)
@pytest.mark.parametrize("mark", [b"", MARK])
@pytest.mark.parametrize("name", TEXTS)
def test_marks_and_compressions(tmp_path: Path, name: str, mark: bytes, packed: str) -> None:
    content, options = TEXTS[name]
    path = tmp_path / (name + packed)
    path.write_bytes(PACKERS[packed](mark + content.encode()))
    assert as_text(all_train(path, **options)) == PAIRS


@pytest.mark.parametrize("packed", PACKERS)
def test_a_cut_file_is_refused(tmp_path: Path, packed: str) -> None:
    rows = "".join(f"{number},{number * 7919 % 1000003}\n" for number in range(5000))
    whole = PACKERS[packed](("user,item\n" + rows + '7,"8').encode())
    path = tmp_path / f"a.csv{packed}"
    path.write_bytes(whole if packed == "" else whole[: len(whole) // 2])
    refused(path, "a.csv")


ENCODINGS = {
    "UTF-16": ("user,item\n1,2\n".encode("utf-16"), "iconv -f utf-16"),
    "gzip": (gzip.compress(b"user,item\n1,2\n"), ".gz"),
    "zstd": (zstd.compress(b"user,item\n1,2\n"), ".zst"),
    "bzip2": (bz2.compress(b"user,item\n1,2\n"), "bunzip2"),
    "xz": (lzma.compress(b"user,item\n1,2\n"), "unxz"),
    "CR": (b"user,item\r1,2\r3,4\r", "tr '\\r' '\\n'"),
}


@pytest.mark.parametrize("packed", [bytes, gzip.compress])
@pytest.mark.parametrize("what", ENCODINGS)
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.dat", "a.inter", "a", "a.svm"])
def test_other_encodings_are_named(tmp_path: Path, name: str, what: str, packed: Any) -> None:
    content, advice = ENCODINGS[what]
    path = tmp_path / (name + (".gz" if packed is gzip.compress else ""))
    path.write_bytes(packed(content))
    refused(path, what, advice)


def test_a_zip_archive_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.csv", "w") as archive:
        archive.writestr("b.csv", "user,item\n1,2\n")
    refused(tmp_path / "a.csv", "zip", "unzip")


@pytest.mark.parametrize("content", [MARK, b"\n", b"\n\n  \n", MARK + b"\r\n", b" \n"])
@pytest.mark.parametrize("name", [*TEXTS, "a", "a.log", "a.ndjson"])
def test_a_file_of_a_mark_or_blank_lines_alone(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, "empty", **TEXTS.get(name, ("", {}))[1])


@pytest.mark.parametrize("name", ["b.csv", "b.parquet", "b.jsonl", "b.npz", "b.svm", "b.txt", "b.csv.gz", "b"])
def test_pipes_sockets_and_devices_are_refused_by_name(tmp_path: Path, name: str) -> None:
    for kind in ("pipe", "socket"):
        folder = tmp_path / kind
        folder.mkdir()
        (folder / "a.csv").write_text("user,item\n1,2\n")
        if kind == "pipe":
            os.mkfifo(folder / name)
        else:
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(str(folder / name))
        refused(folder, f"this is a {kind}", name)
        refused(folder / name, f"this is a {kind}", name)
    refused_device = pytest.raises(DataError, match="this is a device")
    with refused_device:
        ingest("/dev/null", tmp_path / "out", ALL_TRAIN)


# The columns in their order, the lines, and what is right.
QUOTES = {
    "behind": (
        ["user", "item", "title"],
        'u1,a,7" disc\nu2,b,5" disc\nu3,c,x\n',
        {"u1": ["a"], "u2": ["b"], "u3": ["c"]},
    ),
    "behind, CR LF": (["user", "item", "title"], 'u1,a,7" disc\r\nu2,b,x\r\n', {"u1": ["a"], "u2": ["b"]}),
    "before": (
        ["title", "user", "item"],
        '7" disc,u1,a\n5" disc,u2,b\nx,u3,c\n',
        {"u1": ["a"], "u2": ["b"], "u3": ["c"]},
    ),
    "between": (["user", "title", "item"], 'u1,7" a,a\nu2,x,b\n', {"u1": ["a"], "u2": ["b"]}),
    "in the ids": (["user", "item", "title"], 'u"1,a"b",x\nu2,c,x\n', {'u"1': ['a"b"'], "u2": ["c"]}),
    "quoted": (["user", "item", "title"], '"u,1","a,b","x\ny"\nu2,c,x\n', {"u,1": ["a,b"], "u2": ["c"]}),
    "doubled": (["user", "item", "title"], '"u""1",a,""\nu2,c,""""\n', {'u"1': ["a"], "u2": ["c"]}),
}


@pytest.mark.parametrize("separator", [",", "\t", ";", "|"])
@pytest.mark.parametrize("case", QUOTES)
def test_quotes_lose_no_row(tmp_path: Path, case: str, separator: str) -> None:
    names, content, wanted = QUOTES[case]
    path = tmp_path / "a.csv"
    path.write_text((",".join(names) + "\n" + content).replace(",", separator), newline="")
    there = {query.replace(",", separator): [item.replace(",", separator) for item in items]
             for query, items in wanted.items()}  # fmt: skip
    assert lists(all_train(path)) == there


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ('user,item,title\nu1,a,x\n"u2",b,"x" y\nu3,c,x\n', 3),
        ('user,item,title\nu1,a,x\nu2,b,"open\nu3,c,x\n', 3),
        ('user,item,title\nu1,a,7" disc\nu2,b\nu3,c,x,y\n', 3),
        ('user,item,title\nu1,a,"two\nlines"\n\nu2,b\n', 5),
        ("user,item,title\nu1,a,x\nu2\rb,x,y\n", 3),
    ],
)
def test_a_line_that_no_csv_has_is_named(tmp_path: Path, content: str, line: int) -> None:
    (tmp_path / "a.csv").write_text(content, newline="")
    refused(tmp_path / "a.csv", f"line {line}")


def test_many_inch_marks_at_the_size_of_a_block(tmp_path: Path) -> None:
    rng = random.Random(7)
    rows = [
        (f"u{rng.randrange(500)}", f"i{number}", rng.choice(['7" disc', "disc", 'a "b" c'])) for number in range(30_000)
    ]
    (tmp_path / "a.csv").write_text("user,item,title\n" + "".join(",".join(row) + "\n" for row in rows))
    dataset = all_train(tmp_path / "a.csv")
    assert dataset.manifest["report"]["read"] == {"all": 30_000}
    assert len(dataset.items) == 30_000


TIMES = [
    "2024-05-01", "2024-05-01 10:30", "2024-05-01T10:30:00", "2024-05-01T10:30:00.25Z", "1969-12-31T23:59:59.999999Z",
    "2019-10-01 00:00:00 UTC", "2024-05-01T10:30:00+02:00", "2024-05-01T10:30:00.123456-0330", "2024-05-01 10:30:00+02",
    " 2024-05-01 ", "1000-01-01", "9999-12-31T23:59:59",
]  # fmt: skip
NO_TIMES = ["2024-02-30", "2024-05-01T25:00", "2024-05-01T10:00:60", "20240501", "7", "", "2024-05-01T", "01.05.2024",
            "2024/05/01", "0001-01-01", "May 1, 2024"]  # fmt: skip


def moment_of(text: str) -> int:
    """Microseconds since 1970 by Python's own reader of dates."""
    plain = text.strip().replace(" UTC", "Z")
    moment = datetime.fromisoformat(plain)
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def test_dates_are_microseconds_since_1970() -> None:
    wanted = [*map(moment_of, TIMES), *[None] * len(NO_TIMES)]
    assert list(map(from_iso, TIMES + NO_TIMES)) == wanted
    assert pl.DataFrame({"t": TIMES + NO_TIMES}).select(iso_times(pl.col("t")).alias("t"))["t"].to_list() == wanted


def dated(path: Path, times: list[Any]) -> Path:
    rows = [{"user": "u", "item": f"i{place}", "time": time} for place, time in enumerate(times)]
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".csv":
        path.write_text("user,item,time\n" + "".join(f"{row['user']},{row['item']},{row['time']}\n" for row in rows))
    else:
        pl.DataFrame(rows).write_parquet(path)
    return path


def stored_times(dataset: Dataset) -> list[float]:
    return sorted(np.load(dataset.path / "train" / "times.npy").tolist())


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_dates_are_read_as_times(tmp_path: Path, name: str) -> None:
    path = dated(tmp_path / name, TIMES)
    assert stored_times(all_train(path)) == sorted(map(moment_of, TIMES))


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
@pytest.mark.parametrize(
    "times",
    [
        ["2024-05-01", "7"],
        ["7", "2024-05-01"],
        ["7", 2**63],
        ["2024-05-01", ""],
        [1, -(2**63) - 1],
        ["7", "1e19"],
        [1, "x"],
    ],
)
def test_the_row_of_a_bad_time_is_named(tmp_path: Path, name: str, times: list[Any]) -> None:
    refused(dated(tmp_path / name, times), f"{name}, line {3 if name == 'a.csv' else 2}", "time", "--time-col")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (pl.Series([{"a": 1}, {"a": 2}]), "Struct"),
        (pl.Series([datetime(2024, 1, 1).time()] * 2), "Time"),
        (pl.Series([timedelta(1)] * 2), "Duration"),
        (pl.Series([True, False]), "Boolean"),
        (pl.Series([b"a", b"b"]), "Binary"),
        (pl.Series([[[1]], [[2]]]), "List"),
        (pl.Series([1, 2**63], dtype=pl.UInt64), "row 2"),
        (pl.Series([1.0, 1e19]), "row 2"),
        (pl.Series(["2024-05-01", "x"]), "row 2"),
        (pl.Series([None, None], dtype=pl.Null), "Null"),
    ],
)
def test_a_parquet_column_that_is_no_time(tmp_path: Path, values: pl.Series, words: str) -> None:
    frame = pl.DataFrame({"user": [1, 2], "item": [1, 2], "time": values})
    frame.write_parquet(tmp_path / "a.parquet")
    refused(tmp_path / "a.parquet", words, "time")


@pytest.mark.parametrize("values", [pl.Series([{"a": 1}] * 2), pl.Series([b"a"] * 2), pl.Series(["a"] * 2),
                                    pl.Series([1.0, 1e39]), pl.Series([1, -1])])  # fmt: skip
def test_a_parquet_column_that_is_no_weight(tmp_path: Path, values: pl.Series) -> None:
    pl.DataFrame({"user": [1, 2], "item": [1, 2], "rating": values}).write_parquet(tmp_path / "a.parquet")
    refused(tmp_path / "a.parquet", "weight")


def test_decimal_times_keep_their_fraction(tmp_path: Path) -> None:
    times = pl.Series([Decimal("1.5"), Decimal("2.25")])
    pl.DataFrame({"user": [1, 2], "item": [1, 2], "time": times}).write_parquet(tmp_path / "a.parquet")
    assert stored_times(all_train(tmp_path / "a.parquet")) == [1.5, 2.25]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_whole_times_keep_every_digit(tmp_path: Path, name: str) -> None:
    exact = [1_700_000_000_123_456_789, 1_700_000_000_123_456_788]
    assert stored_times(all_train(dated(tmp_path / name, exact))) == sorted(exact)
    mixed = dated(tmp_path / f"b{Path(name).suffix}", [*exact, 1.5])
    with pytest.raises(DataError, match="beyond 2\\^53"):
        ingest(mixed, tmp_path / "other", ALL_TRAIN)


@pytest.mark.parametrize("value", ["1e39", "3.5e38", "1e400"])
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_the_row_of_a_weight_beyond_32_bits_is_named(tmp_path: Path, name: str, value: str) -> None:
    rows = {"a.csv": f"user,item,rating\n1,1,1\n1,2,{value}\n",
            "a.jsonl": f'{{"user":1,"item":1,"rating":1}}\n{{"user":1,"item":2,"rating":{value}}}\n'}  # fmt: skip
    (tmp_path / name).write_text(rows[name])
    refused(tmp_path / name, f"line {3 if name == 'a.csv' else 2}", "weight", "--weight-col")


def test_numbers_with_blanks_around_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.csv").write_text("user, item, rating, time\nu, a, 5 , 17\nv,a, 4,18\n")
    dataset = all_train(tmp_path / "a.csv")
    assert stored_times(dataset) == [17, 18]
    assert np.load(dataset.path / "train" / "weights.npy").tolist() == [5.0, 4.0]
    assert "the item ' a' is another than 'a'" in capsys.readouterr().err


JSON = {
    "nested": ("[" * 100_000, "not JSON"),
    "nested deep in a row": ('{"user":1,"item":2,"x":' + "[" * 50_000 + "]" * 50_000 + "}", "not JSON"),
    "lone surrogate": ('{"user":"a","item":"\\ud800"}', "surrogates"),
    "low surrogate": ('{"user":"a\\udc00","item":"b"}', "surrogates"),
    "a key twice": ('{"user":"a","item":"b","user":"c"}', "twice"),
    "a list for an id": ('{"user":["a"],"item":"b"}', "mixed types"),
    "an object for an id": ('{"user":{"a":1},"item":"b"}', "mixed types"),
    "a boolean weight": ('{"user":"a","item":"b","rating":true}', "weight"),
    "a list of times": ('{"user":"a","item":"b","rating":1,"time":[1]}', "differ"),
}


@pytest.mark.parametrize("place", [1, 2])
@pytest.mark.parametrize("case", JSON)
def test_json_that_means_no_row(tmp_path: Path, case: str, place: int) -> None:
    line, words = JSON[case]
    good = '{"user":"a","item":"b","rating":1,"time":1}\n'
    (tmp_path / "a.jsonl").write_text(good * (place - 1) + line + "\n" + good)
    refused(tmp_path / "a.jsonl", f"line {place}", words)


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
@pytest.mark.parametrize("memory", [None, 0.0])
def test_no_id_before_an_empty_list(tmp_path: Path, name: str, memory: float | None) -> None:
    rows = [{"user": "a", "item": ["b"]}, {"user": None, "item": []}, {"user": "c", "item": []}]
    if name == "a.parquet":
        pl.DataFrame(rows).write_parquet(tmp_path / name)
    else:
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    refused(tmp_path / name, 'column "user"', "2", memory=memory)


def test_whole_pairs_of_surrogates_are_characters(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"user":"\\ud83d\\ude00","item":"a\\\\ud800"}\n')
    assert lists(all_train(tmp_path / "a.jsonl")) == {"\N{GRINNING FACE}": ["a\\ud800"]}


def test_a_label_beyond_the_labels(tmp_path: Path) -> None:
    source = tmp_path / "src"
    source.mkdir()
    (source / "lbl.json").write_text('{"uid":"A","title":"lab a"}\n{"uid":"B","title":"lab b"}\n')
    (source / "trn.json").write_text('{"uid":"1","title":"red shoes","content":"","target_ind":[0,7]}\n')
    (source / "tst.json").write_text('{"uid":"3","title":"shoes","content":"","target_ind":[0]}\n')
    with pytest.raises(DataError, match=r"beyond the 2 labels of lbl.json[^$]*label 7 of document \"1\""):
        ingest(source, tmp_path / "out")


def test_a_parquet_file_that_ends_early_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Polars ends the blocks of a damaged file without an error when one of its threads has failed."""
    pl.DataFrame({"user": [1, 2], "item": [1, 2]}).write_parquet(tmp_path / "a.parquet")
    monkeypatch.setattr(pl.LazyFrame, "collect_batches", lambda frame, **_: iter([frame.collect().head(1)]))
    refused(tmp_path / "a.parquet", "can't be read", "1 rows are missing")


@pytest.mark.parametrize("block_bytes", [1, 1 << 20])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.dat", "a.txt", "b.txt", "a.inter", "a.jsonl"])
def test_marks_of_files_that_were_joined_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, block_bytes: int
) -> None:
    """Every line begins with a mark: in the first lines, in blocks, and read line by line."""
    monkeypatch.setattr(lines, "BLOCK_BYTES", block_bytes)
    content, options = TEXTS[name]
    (tmp_path / name).write_bytes(b"".join(MARK + line for line in content.encode().splitlines(keepends=True)))
    assert as_text(all_train(tmp_path / name, **options)) == PAIRS


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.txt", "a.svm"])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be", "utf-32"])
def test_other_encodings_are_known_without_a_mark(tmp_path: Path, name: str, encoding: str) -> None:
    (tmp_path / name).write_bytes(TEXTS[name][0].encode(encoding))
    refused(tmp_path / name, encoding[:6].upper(), f"iconv -f {encoding.replace('-le', 'le').replace('-be', 'be')} ")


def test_parquet_under_another_name_is_told(tmp_path: Path) -> None:
    for name in ("a.csv", "a.txt"):
        pl.DataFrame({"user_id": [1], "item_id": [2]}).write_parquet(tmp_path / name)
        refused(tmp_path / name, "a Parquet file", ".parquet")


@pytest.mark.parametrize("first", ["user,item", "item,user"])
def test_one_file_of_several_without_a_header(tmp_path: Path, first: str) -> None:
    """Its columns were taken in the usual order, whatever the header of the others said."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.csv").write_text(f"{first}\n1,2\n")
    (tmp_path / "in" / "b.csv").write_text("7,1\n8,1\n")
    refused(tmp_path / "in", "b.csv", "no header")


def test_ids_that_may_not_be_meant_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.csv").write_text("user,item\n1.0,a\n2,NULL\n3,nan\n")
    assert lists(all_train(tmp_path / "a.csv")) == {"1.0": ["a"], "2": ["NULL"], "3": ["nan"]}
    said = capsys.readouterr().err
    assert "the query id '1.0' is text" in said and "among the item ids: 'NULL', 'nan'" in said
