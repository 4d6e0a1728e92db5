"""Sources of every format, mutated, and ingested: the dataset holds what an independent reader finds, or it is refused."""

from __future__ import annotations

import gzip
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import polars as pl
import scipy.sparse

from tests.robustness import plain_documents, plain_readers
from tests.robustness.cases import Case, Tools
from tests.robustness.commands import CAUTIOUS, REFUSED, RIGHT, UNCLEAR, WRONG, Said, Verdict, fault, last_lines
from tests.robustness.datasets import difference, document_difference, stored, stored_documents
from tests.robustness.mutations import BYTES, TEXT, json_text, mutated
from tests.robustness.plain_documents import Documents
from tests.robustness.plain_readers import Reading, Refusal, unpacked

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

WHOLE = ("--split", "random", "--test-fraction", "0", "--valid-fraction", "0")
GIVEN = ("--valid-fraction", "0")
OUT = "out"
Reader = Callable[[bytes], Any]


def case(chance: Random, folder: Path) -> Case:
    """One source of a random format."""
    return chance.choice(MAKERS)(chance, folder)


def delimited(chance: Random, folder: Path) -> Case:
    """CSV, TSV, ``::``, other separators; header or none."""
    ending, separator = chance.choice(
        [(".csv", ","), (".csv", ";"), (".csv", "|"), (".tsv", "\t"), (".dat", "::"), (".csv", "\t")]
    )
    names = chance.choice([["user_id", "item_id"], ["user_id", "item_id", "rating"], ["user_id", "item_id", "rating", "timestamp"],
                           ["title", "user_id", "item_id", "timestamp"], ["userId", "itemId", "note"]])  # fmt: skip
    rows = [[_cell(name, chance) for name in names] for _ in range(chance.randint(1, 12))]
    header: bool | None = chance.choice([None, None, True, False])
    if header is False and names[0] == "title":
        header = True
    lines = rows if header is False else [names, *rows]
    options = [] if header is None else ["--header" if header else "--no-header"]
    if separator in ";|" or (ending == ".csv" and separator == "\t") or chance.random() < 0.3:
        options += ["--separator", separator]
    data = "".join(separator.join(line) + "\n" for line in lines).encode()
    return _one_file(chance, folder, data, ending, options, lambda raw: plain_readers.delimited(raw, separator, header))


def inter(chance: Random, folder: Path) -> Case:
    """RecBole's atomic files."""
    names = ["user_id:token", "item_id:token", "rating:float", "timestamp:float"][: chance.randint(2, 4)]
    rows = [[_cell(name.partition(":")[0], chance) for name in names] for _ in range(chance.randint(1, 10))]
    data = "".join("\t".join(line) + "\n" for line in [names, *rows]).encode()

    def read(raw: bytes) -> Reading:
        first = next((line for line in plain_readers.text_of(raw).split("\n") if line.strip()), "")
        if ":" not in first:
            raise Refusal("no types")
        return plain_readers.delimited(raw, "\t", True, quoted=False, typed=True)

    return _one_file(chance, folder, data, ".inter", [], read)


def json_lines(chance: Random, folder: Path) -> Case:
    """An object a line, ids of one type, sometimes lists."""
    entries = [_entry(chance) for _ in range(chance.randint(1, 10))]
    shape = chance.choice(["plain", "rating", "timestamp", "both", "dates"])
    lists, whole = chance.random() < 0.3, chance.random() < 0.5
    for entry in entries:
        if shape in ("rating", "both"):
            entry["rating"] = chance.choice([1, 0.5, 2])
        if shape in ("timestamp", "both"):
            entry["timestamp"] = chance.randint(10**9, 2 * 10**9)
        if shape == "dates":
            entry["timestamp"] = _date(chance)
        if whole:
            entry.update(user_id=chance.randint(0, 9), item_id=chance.randint(0, 9))
        if lists:
            entry["item_id"] = [entry["item_id"], _entry(chance)["item_id"] if not whole else chance.randint(10, 19)][
                : chance.randint(0, 2)
            ]
    lines = [json.dumps(entry, ensure_ascii=chance.random() < 0.5).encode() for entry in entries]
    if chance.random() < 0.5:
        place = chance.randrange(len(lines))
        lines[place] = json_text(lines[place], chance).replace(b"\n", b" ")
    data = b"\n".join(lines) + b"\n"
    return _one_file(
        chance, folder, data, chance.choice([".jsonl", ".ndjson", ".json"]), [], plain_readers.json_lines, altered=True
    )


def lists(chance: Random, folder: Path) -> Case:
    """Adjacency and sequences."""
    named = chance.choice(["adjacency", "sequences"])
    blank = chance.choice([" ", " ", "\t", "  "])
    width = chance.choice([1, 0])
    rows = [[_cell("item_id", chance) for _ in range(chance.randint(width, 6))] for _ in range(chance.randint(1, 8))]
    if named == "adjacency":
        rows = [[f"u{number}", *row] for number, row in enumerate(rows)]
    data = "".join(blank.join(row) + "\n" for row in rows).encode()
    read: Reader = plain_readers.adjacency if named == "adjacency" else plain_readers.sequences
    return _one_file(chance, folder, data, chance.choice([".txt", ".adj", ".data", ""]), ["--format", named], read)


def guessed(chance: Random, folder: Path) -> Case:
    """A file whose ending says nothing: read as what it is, or asked about."""
    kind = chance.choice(["adjacency", "sequences", "csv"])
    if kind == "csv":
        rows = [
            [f"u{chance.randrange(5)}", f"i{chance.randrange(9)}", _cell("title", chance)]
            for _ in range(chance.randint(2, 8))
        ]
        mark = chance.choice(["\t", ",", "|", "::"])
        data = "".join(mark.join(row) + "\n" for row in [["user_id", "item_id", "note"], *rows]).encode()
        return _one_file(
            chance,
            folder,
            data,
            chance.choice([".txt", ".log", ""]),
            [],
            lambda raw: plain_readers.delimited(raw, mark),
        )
    rows = [[f"i{chance.randrange(30)}" for _ in range(chance.randint(1, 8))] for _ in range(chance.randint(3, 9))]
    if kind == "adjacency":
        rows = [[f"u{number}", *row] for number, row in enumerate(rows)]
    data = "".join(" ".join(row) + "\n" for row in rows).encode()
    return _one_file(chance, folder, data, chance.choice([".txt", ".data", ""]), [], plain_readers.guessed, sure=False)


def parquet_types(chance: Random, folder: Path) -> Case:
    """Parquet with columns of any type, as Python values say what they hold."""
    size = chance.randint(1, 6)
    columns = {"user_id": _series(chance, size, "id"), "item_id": _series(chance, size, "id")}
    for name, kind in (("rating", "number"), ("timestamp", "time")):
        if chance.random() < 0.4:
            columns[name] = _series(chance, size, kind)
    frame = pl.DataFrame(columns)
    stream = io.BytesIO()
    frame.write_parquet(stream)
    values = {name: frame[name].to_list() for name in frame.columns}
    floats = [name for name in ("user_id", "item_id") if frame[name].dtype.is_float()]

    def read(raw: bytes) -> Reading:
        if floats:
            raise Refusal("ids are floating-point numbers")
        return plain_readers.table(values)

    return _written(
        folder, stream.getvalue(), "a.parquet", [], read, f"columns {dict(frame.schema)}", chance, sure=False
    )


def parquet_bytes(chance: Random, folder: Path) -> Case:
    """A Parquet file with altered bytes, alone or beside a whole one; reading it eagerly is the reference."""
    count = 40
    columns = {"user_id": [f"u{n % 7}" for n in range(count)], "item_id": [n % 11 for n in range(count)]}
    frame = pl.DataFrame({**columns, "rating": [1.0 + n % 3 for n in range(count)]})
    stream = io.BytesIO()
    frame.write_parquet(stream, compression=chance.choice(["zstd", "snappy", "uncompressed", "gzip"]))
    data, how = mutated(stream.getvalue(), chance, BYTES)
    beside = chance.random() < 0.5
    name = "source/b.parquet" if beside else "a.parquet"
    (folder / "source").mkdir()
    if beside:
        frame.with_columns(pl.col("user_id") + "x").write_parquet(folder / "source" / "a.parquet")

    def read(raw: bytes) -> Reading:
        try:
            found = pl.read_parquet(io.BytesIO(raw))
        except BaseException as error:  # noqa: BLE001  Polars panics at some
            raise Refusal(str(error)) from None
        if len(found) != count or not set(frame.columns) <= set(found.columns):
            raise Refusal("rows or columns are missing")
        tables = [found, frame.with_columns(pl.col("user_id") + "x")] if beside else [found]
        return plain_readers.table(
            {each: [value for part in tables for value in part[each].to_list()] for each in frame.columns}
        )

    return _written(folder, data, name, [], read, f"{name}, {how}", chance, sure=False)


def documents(chance: Random, folder: Path) -> Case:
    """The text of the extreme classification repository, svmlight, raw text."""
    form = chance.choice(["xmc", "svmlight", "text"])
    count = chance.randint(1, 8)
    if form == "text":
        entries = [{"text": " ".join(chance.choices(["red", "green", "blue", "é"], k=3)), "labels": chance.sample(["a", "b", "c"], chance.randint(0, 3))}
                   for _ in range(count)]  # fmt: skip
        entries[0]["labels"] = ["a"]
        lines = [json.dumps(entry).encode() for entry in entries]
        if chance.random() < 0.5:
            place = chance.randrange(count)
            lines[place] = json_text(lines[place], chance).replace(b"\n", b" ")
        data = b"\n".join(lines) + b"\n"
        options = ["--format", "text", "--min-documents", "1"]
        return _one_file(chance, folder, data, ".jsonl", options, plain_documents.texts, altered=True)
    rows = [",".join(str(chance.randrange(5)) for _ in range(chance.randint(0, 3))) + "".join(
        f" {chance.randrange(9)}:{chance.choice(['1', '0.5', '-2', '1e-3'])}" for _ in range(chance.randint(0, 4))) for _ in range(count)]  # fmt: skip
    rows[0] = "1 2:1"
    header = [f"{count} 9 5"] if form == "xmc" else []
    data = "".join(line + "\n" for line in [*header, *rows]).encode()
    read: Reader = plain_documents.xmc if form == "xmc" else plain_documents.svmlight
    return _one_file(chance, folder, data, chance.choice([".txt", ".svm", ""]), ["--format", form], read)


def matrices(chance: Random, folder: Path) -> Case:
    """PECOS's pair of sparse matrices."""
    count = chance.randint(2, 8)
    source = np.random.default_rng(chance.randrange(2**32))
    raw = {}
    for name, width in (("X", 9), ("Y", 5)):
        matrix = scipy.sparse.random(count, width, 0.4, format="csr", random_state=source, dtype=np.float32)
        matrix.data[:] = 1
        if chance.random() < 0.4:
            _damage(matrix, chance)
        stream = io.BytesIO()
        scipy.sparse.save_npz(stream, matrix, compressed=chance.random() < 0.5)
        raw[name] = stream.getvalue()
    how = []
    if chance.random() < 0.6:
        chosen = chance.choice("XY")
        raw[chosen], how = mutated(raw[chosen], chance, BYTES)
    (folder / "Y.trn.npz").write_bytes(raw["Y"])
    read: Reader = lambda data: plain_documents.npz(data, raw["Y"])  # noqa: E731
    return _written(folder, raw["X"], "X.trn.npz", ["--format", "npz"], read, f"npz, {how}", chance, sure=False)


def directory(chance: Random, folder: Path) -> Case:
    """A given split: train and test in files of one format."""
    source = folder / "source"
    source.mkdir()
    ending = chance.choice([".csv", ".tsv", ".jsonl", ".txt"])
    mark = "\t" if ending == ".tsv" else ","
    raw, how = {}, []
    for number, part in enumerate(("train", "test")):
        pairs = [
            (f"u{n % 4}", f"i{n + 9 * number if chance.random() < 0.95 else 1}") for n in range(chance.randint(2, 8))
        ]
        lines = [json.dumps({"user_id": a, "item_id": b}) for a, b in pairs]
        if ending in (".csv", ".tsv"):
            lines = [mark.join(row) for row in [("user_id", "item_id"), *pairs]]
        if ending == ".txt":
            lines = [f"u{n} " + " ".join(b for a, b in pairs if a == f"u{n}") for n in range(4)]
        raw[part] = "".join(line + "\n" for line in lines).encode()
    if chance.random() < 0.85:
        chosen = chance.choice(list(raw))
        raw[chosen], how = mutated(raw[chosen], chance, TEXT)
    for part, data in raw.items():
        (source / f"{part}{ending}").write_bytes(data)
    readers = {".jsonl": plain_readers.json_lines, ".txt": plain_readers.adjacency}
    reader = readers.get(ending, lambda data: plain_readers.delimited(data, mark))
    options = ["--format", "adjacency"] if ending == ".txt" else []

    def check(tools: Tools) -> Verdict:
        said = tools.run("ingest", "source", "--out", OUT, *GIVEN, *options)
        return _judged(said, folder, lambda: _both_parts(reader, raw), bool(how))

    return Case(f"directory of {ending}, {how}", check)


MAKERS = (delimited, delimited, delimited, delimited, inter, json_lines, json_lines, json_lines, lists, guessed, parquet_types,
          parquet_bytes, documents, documents, matrices, directory)  # fmt: skip


def _both_parts(reader: Callable[[bytes], Reading], raw: dict[str, bytes]) -> dict[str, Reading]:
    found = {part: reader(data) for part, data in raw.items()}
    if found["train"].pairs.keys() & found["test"].pairs.keys():
        raise Refusal("a pair in both parts")
    everyone = found["train"].queries | found["test"].queries
    return {part: Reading(reading.pairs, everyone) for part, reading in found.items()}


def _one_file(
    chance: Random,
    folder: Path,
    data: bytes,
    ending: str,
    options: list[str],
    read: Reader,
    altered: bool = False,
    sure: bool = True,
) -> Case:
    """A text, mutated more often than not, perhaps compressed."""
    how = ["values"] if altered else []
    if chance.random() < (0.6 if altered else 0.92):
        data, more = mutated(data, chance, TEXT)
        how += more
    packed = chance.choice(["", "", "", "", ".gz", ".zst"]) if ending else ""
    if packed:
        data = gzip.compress(data, mtime=0) if packed == ".gz" else zstd.compress(data)
        if chance.random() < 0.3:
            data, more = mutated(data, chance, BYTES)
            how += [packed, *more]
    name = f"a{ending}{packed}"
    return _written(
        folder,
        data,
        name,
        options,
        lambda raw: read(unpacked(raw, name)),
        f"{name}, {how}",
        chance,
        sure=sure and not how,
    )


def _written(
    folder: Path, data: bytes, name: str, options: list[str], read: Reader, made: str, chance: Random, sure: bool
) -> Case:
    """sure: nothing is wrong with the file, and refusing it would be."""
    (folder / name).write_bytes(data)
    spilled = ["--memory", "0"] if chance.random() < 0.15 and "--format" not in options else []

    def check(tools: Tools) -> Verdict:
        said = tools.run("ingest", name if "/" not in name else "source", "--out", OUT, *WHOLE, *options, *spilled)
        return _judged(said, folder, lambda: {"train": read(data)}, not sure)

    return Case(f"{made} {' '.join(options + spilled)}", check)


def _judged(said: Said, folder: Path, read: Callable[[], dict[str, Any]], doubtful: bool) -> Verdict:
    """The end of an ingest against the independent reader."""
    bad = fault(said, folder)
    if bad is not None:
        return bad
    try:
        wanted, refusal = read(), ""
    except Refusal as error:
        wanted, refusal = {}, str(error)
    if said.code != 0:
        if (folder / OUT).exists():
            return Verdict(UNCLEAR, "refused, but something was written: " + last_lines(said))
        if refusal:
            return Verdict(REFUSED)
        return Verdict(CAUTIOUS if doubtful else WRONG, "refused: " + last_lines(said))
    if refusal:
        return Verdict(WRONG, f"must be refused ({refusal}): {last_lines(said)}")
    for split, reading in wanted.items():
        words = _difference(folder / OUT, split, reading)
        if words:
            return Verdict(WRONG, f"{split}: {words}\n{last_lines(said)}")
    return Verdict(RIGHT)


def _difference(out: Path, split: str, wanted: Any) -> str:
    if isinstance(wanted, list):  # any of them
        return next(
            (words for each in wanted if not (words := _difference(out, split, each))),
            _difference(out, split, wanted[0]),
        )
    if isinstance(wanted, Documents):
        return document_difference(stored_documents(out), wanted)
    return difference(stored(out, split), wanted)


def _cell(name: str, chance: Random) -> str:
    if name in ("rating", "note"):
        return chance.choice(["1", "2.5", "0.5", "3"])
    if name == "timestamp":
        return str(chance.randint(10**9, 2 * 10**9))
    if name == "title":
        return chance.choice(["The Plough", '12" vinyl', "a b c", "ü", "'x'", "Heat"])
    prefix = "u" if name.lower().startswith("u") else "i"
    return f"{prefix}{chance.randrange(8)}"


def _date(chance: Random) -> str:
    return f"20{chance.randint(10, 24)}-{chance.randint(1, 12):02}-{chance.randint(1, 28):02}" + chance.choice(
        ["", "T10:30:00", " 23:59:59", "T01:00:00Z"]
    )


def _entry(chance: Random) -> dict[str, Any]:
    return {"user_id": f"u{chance.randrange(6)}", "item_id": chance.choice(["a", "b", "é", "i1", "i2"])}


def _series(chance: Random, size: int, kind: str) -> pl.Series:
    """A column; of the type that fits more often than of another."""
    usual: dict[str, list[tuple[list[Any], Any]]] = {
        "id": [
            (["a", "b", "c"], pl.String),
            ([1, 2, 3], pl.Int64),
            ([1, 2, 3], pl.UInt8),
            (["a", "b"], pl.Categorical),
            ([[1], [2, 3], []], pl.List(pl.Int64)),
        ],
        "number": [([1.0, 0.5], pl.Float64), ([1, 2], pl.Int32), ([1.5], pl.Float32)],
        "time": [([10, 20, 30], pl.Int64), ([1.5, 2.0], pl.Float64), ([_moment(1), _moment(2)], pl.Datetime("us"))],
    }
    values, dtype = chance.choice(usual[kind] if chance.random() < 0.7 else ODD_COLUMNS)
    return pl.Series([chance.choice(values) for _ in range(size)], dtype=dtype)


def _moment(day: int) -> Any:
    return plain_readers.EPOCH.replace(tzinfo=None, day=day)


ODD_COLUMNS: list[tuple[list[Any], Any]] = [
    ([True, False], pl.Boolean), ([1.0, 2.5], pl.Float64), ([None], pl.Null), ([None, 1], pl.Int64), ([None, "a"], pl.String),
    ([{"a": 1}], pl.Struct({"a": pl.Int64})), ([[["a"]]], pl.List(pl.List(pl.String))), ([b"a", b"\xff"], pl.Binary),
    (["", "a"], pl.String), ([2**64 - 1, 1], pl.UInt64), ([[1, 2]], pl.Array(pl.Int64, 2)), ([["a"], None], pl.List(pl.String)),
    ([[None, "a"]], pl.List(pl.String)), (["x", "y"], pl.Enum(["x", "y"])), (["1", "2"], pl.String), ([float("nan"), 1.0], pl.Float64),
    ([float("inf")], pl.Float64), ([-1, 1], pl.Int64), ([0, 0], pl.Int64), ([3e38], pl.Float64), ([1e300], pl.Float64),
    (["2024-05-01"], pl.String), ([2**62, -(2**63)], pl.Int64),
]  # fmt: skip


def _damage(matrix: Any, chance: Random) -> None:
    """A matrix that scipy would save but that cannot be."""
    action = chance.randrange(5)
    if action == 0 and len(matrix.indices):
        matrix.indices[chance.randrange(len(matrix.indices))] = chance.choice([-1, 99, 2**31 - 1])
    elif action == 1:
        matrix.indptr[chance.randrange(len(matrix.indptr))] = chance.choice([-1, 99])
    elif action == 2 and len(matrix.data):
        matrix.data[0] = chance.choice([float("nan"), float("inf"), -1])
    elif action == 3:
        matrix.indices = matrix.indices.astype(chance.choice(["<f4", "<i8", "<u1", ">i4", "<U3"]))
    else:
        matrix.data = matrix.data.astype(chance.choice(["<f8", "<i1", "?", "<c8", ">f4"]))
