"""Datasets, runs, indexes, checkpoints and lists, altered: the command refuses them, or answers as if they were whole."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import polars as pl

from tests.robustness.cases import Case, Tools
from tests.robustness.commands import REFUSED, RIGHT, WRONG, Said, Verdict, fault, last_lines
from tests.robustness.mutations import BYTES, TEXT, json_text, mutated

MANIFESTS = ("dataset.json", "run.json", "index.json", "checkpoint.json", "_topk.json", "job.json")
VICTIM = "kept by a stranger\n"
Signature = Callable[[Path, Said], Any]


def _of_file(name: str) -> Signature:
    return lambda folder, said: hashlib.sha256((folder / name).read_bytes()).hexdigest()


def _of_answer(folder: Path, said: Said) -> Any:
    """What is printed, without what it took and where it lies."""
    return _without(json.loads(said.out))


def _without(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            k: _without(v)
            for k, v in value.items()
            if not (k.endswith("_s") or "bytes" in k or k in ("dataset", "path", "took"))
        }
    return [_without(each) for each in value] if isinstance(value, list) else value


def _of_table(name: str) -> Signature:
    return lambda folder, said: pl.read_parquet(folder / name, glob=False).to_dict(as_series=False)


def _nothing(folder: Path, said: Said) -> Any:
    return None


# What is copied and altered → the commands that read it, and what they must answer alike.
USES: dict[str, tuple[tuple[str, Signature], ...]] = {
    "ds": (
        ("inspect ds --json", _of_answer),
        ("train ds --config c.toml --out r --set train.epochs=1", _of_file("r/model.safetensors")),
        (
            'train ds --config c.toml --out r --set train.epochs=1 --set model.query.kind="id"',
            _of_file("r/model.safetensors"),
        ),
        ("retrieve run --dataset ds --out o.jsonl -k 5 --exact", _of_file("o.jsonl")),
        ("evaluate run --dataset ds -k 5 --json", _of_answer),
        ("estimate ds --config c.toml --no-calibrate --json", _nothing),
        ("ingest more.csv --append --base ds --out longer", _of_file("longer/train/values.npy")),
    ),
    "doc": (
        ("inspect doc --json", _of_answer),
        (
            'train doc --config c.toml --out r --set train.epochs=1 --set model.query.kind="features"',
            _of_file("r/model.safetensors"),
        ),
        ("evaluate run_doc --dataset doc -k 5 --json", _of_answer),
        ("export doc --format svmlight --out e", _nothing),
    ),
    "run": (
        ("inspect run --json", _of_answer),
        ("retrieve run --out o.jsonl -k 5 --exact", _of_file("o.jsonl")),
        ("evaluate run -k 5 --json", _of_answer),
        ("export run --item-vectors v.parquet", _of_table("v.parquet")),
        ("index run --kind flat -k 5", _nothing),
        ("train grown --config c.toml --out run --resume --grow-vocab", _of_file("run/model.safetensors")),
        ("train ds --config c.toml --out run --resume", _of_file("run/model.safetensors")),
    ),
    "run_doc": (
        ("inspect run_doc --json", _of_answer),
        ("retrieve run_doc --out o.jsonl -k 5 --exact", _of_file("o.jsonl")),
        ("evaluate run_doc -k 5 --json", _of_answer),
    ),
    "run_tree": (
        ("retrieve run_tree --out o.jsonl -k 5", _of_file("o.jsonl")),
        ("evaluate run_tree -k 5 --json", _of_answer),
    ),
    "run_hnsw": (
        ("inspect run_hnsw --json", _of_answer),
        ("retrieve run_hnsw --out o.jsonl -k 5", _of_file("o.jsonl")),
        ("evaluate run_hnsw -k 5 --json", _of_answer),
    ),
    "run_lsh": (("retrieve run_lsh --out o.jsonl -k 5", _of_file("o.jsonl")), ("inspect run_lsh --json", _of_answer)),
    "run_open": (
        ("train ds --config c.toml --out run_open --resume", _of_file("run_open/model.safetensors")),
        ("inspect run_open --json", _nothing),
    ),
    "lists": (
        ("inspect lists --json", _of_answer),
        ("evaluate --predictions lists --truth pairs.csv -k 3 --json", _of_answer),
    ),
    "lists.parquet": (
        ("inspect lists.parquet --json", _of_answer),
        ("evaluate --predictions lists.parquet --truth truth.csv -k 3 --json", _of_answer),
    ),
    ".stopped.jsonl.parts": (("retrieve run --out stopped.jsonl -k 5 --exact --resume", _of_file("stopped.jsonl")),),
    "c.toml": (("train ds --config c.toml --out r --set train.epochs=1", _nothing),),
}
BESIDE = ("ds", "run", "c.toml", "pairs.csv", "more.csv", "grown", "doc", "run_doc")
_wanted: dict[tuple[str, str], Any] = {}


def case(chance: Random, folder: Path) -> Case:
    """One file of one artefact altered, and a command that reads it."""
    name = chance.choice(list(USES))
    command, signature = chance.choice(USES[name])
    seed = chance.random()

    def check(tools: Tools) -> Verdict:
        wanted = _answer(tools, folder, name, command, signature)
        how, stranger = _alter(Random(seed), folder, name)
        said = tools.run(*command.split())
        verdict = _judged(said, folder, signature, wanted, how, stranger)
        return (
            verdict
            if not verdict.why
            else Verdict(verdict.outcome, f"{how}{', hashed anew' if stranger else ''}\n{verdict.why}")
        )

    return Case(f"{name}: {command}", check)


def _answer(tools: Tools, folder: Path, name: str, command: str, signature: Signature) -> Any:
    """What the command answers to the unaltered artefact; the folder has fresh copies afterwards."""
    _copy(tools.bases, folder, name)
    if (name, command) not in _wanted:
        said = tools.run(*command.split())
        if said.code != 0 or fault(said):
            raise RuntimeError(f"the unaltered artefact is refused: {last_lines(said)}")
        _wanted[name, command] = signature(folder, said)
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        _copy(tools.bases, folder, name)
    return _wanted[name, command]


def _copy(bases: Path, folder: Path, name: str) -> None:
    for each in {*BESIDE, name}:
        if (bases / each).is_dir():
            shutil.copytree(bases / each, folder / each, symlinks=True)
        else:
            shutil.copy(bases / each, folder / each)
    (folder / "truth.csv").write_text((folder / "pairs.csv").read_text().replace("user_id", "query_id"))
    (folder / "pairs.csv").write_text((folder / "pairs.csv").read_text().replace("user_id", "query_id"))
    (folder / "victim").write_text(VICTIM)


def _judged(said: Said, folder: Path, signature: Signature, wanted: Any, how: str, stranger: bool) -> Verdict:
    bad = fault(said)
    if bad is not None:
        return bad
    if (folder / "victim").read_text() != VICTIM:
        return Verdict(WRONG, "a file outside was changed: " + last_lines(said))
    if said.code != 0:
        return Verdict(REFUSED)
    if stranger or (
        said.arguments[0] == "inspect" and any(name in how for name in MANIFESTS)
    ):  # another artefact, whole in itself
        return Verdict(RIGHT)
    got = signature(folder, said)
    return (
        Verdict(RIGHT)
        if got == wanted
        else Verdict(WRONG, f"another answer than to the unaltered one: {last_lines(said)}")
    )


def _alter(chance: Random, folder: Path, name: str) -> tuple[str, bool]:
    """(what was done, whether the manifests were made to agree with it)."""
    artefact = folder / name
    files = sorted(path for path in artefact.rglob("*") if path.is_file()) if artefact.is_dir() else [artefact]
    path = chance.choice(files)
    where = path.relative_to(folder).as_posix()
    if chance.random() < 0.2:
        return f"{where} {_replace(chance, path, folder)}", False
    data, how = _altered(chance, path)
    path.write_bytes(data)
    manifest = path.name in MANIFESTS
    stranger = not manifest and artefact.is_dir() and chance.random() < 0.5
    if stranger:
        rehash(artefact)
    return f"{where} {how}", stranger or manifest or artefact.is_file()


def _replace(chance: Random, path: Path, folder: Path) -> str:
    """Something else than a file in its place."""
    action = chance.choice(["removed", "a folder", "a link to a stranger's file", "a link to nothing", "a link to itself", "a link to a copy",
                            "a pipe", "empty", "a leftover beside it"])  # fmt: skip
    data = path.read_bytes()
    if action == "a leftover beside it":
        (path.parent / f".{path.name}.abcd1234.tmp").write_bytes(data[: len(data) // 2])
        return action
    if action == "a pipe" and path.name == "c.toml":  # a person's own, and rightly waited for
        action = "removed"
    path.unlink()
    if action == "a folder":
        path.mkdir()
    elif action == "a link to a stranger's file":
        path.symlink_to(folder / "victim")
    elif action == "a link to nothing":
        path.symlink_to(folder / "nowhere")
    elif action == "a link to itself":
        path.symlink_to(path)
    elif action == "a link to a copy":
        (folder / "copy").write_bytes(data)
        path.symlink_to(folder / "copy")
    elif action == "a pipe":
        os.mkfifo(path)
    elif action == "empty":
        path.touch()
    return action


def _altered(chance: Random, path: Path) -> tuple[bytes, str]:
    """Its bytes altered: by what the file is, or as bytes."""
    data = path.read_bytes()
    known = {
        ".json": json_text,
        ".npy": _array,
        ".parquet": _parquet,
        ".safetensors": _tensors,
        ".jsonl": _json_line,
    }.get(path.suffix)
    if path.suffix in (".toml", ".txt"):
        altered, names = mutated(data, chance, TEXT, most=2)
        return altered, ", ".join(names)
    if known is not None and data and chance.random() < 0.75:
        return known(data, chance), f"as {path.suffix}"
    altered, names = mutated(data, chance, BYTES, most=2)
    return altered, ", ".join(names)


def _array(data: bytes, chance: Random) -> bytes:
    """A NumPy array with other values, another type, another shape."""
    array = np.load(io.BytesIO(data)).copy()
    action = chance.randrange(8)
    if action <= 2 and array.size:
        odd = chance.choice([-1, 0, 1, 10**6, 2**31 - 1, -(2**31)])
        array[chance.randrange(len(array))] = odd
    elif action == 3:
        array = array.astype(chance.choice(["<f8", "<i2", "?", "<u8", ">i4", "<c8", "U5", "O", "M8[s]"]))
    elif action == 4:
        array = chance.choice(
            [array[:-1], array[:0], np.append(array, array[-1:]), np.append(array, array), array[::-1].copy()]
        )
    elif action == 5:
        array = chance.choice(
            [array.reshape(1, -1), array.reshape(-1, 1), np.asfortranarray(np.stack([array, array])), np.array(7)]
        )
    elif action == 6 and array.size > 1:
        first, second = chance.randrange(len(array)), chance.randrange(len(array))
        array[[first, second]] = array[[second, first]]
    else:
        return data.replace(
            b"'fortran_order': False", chance.choice([b"'fortran_order': True ", b"'fortran_order': 10**99"]), 1
        )
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def _parquet(data: bytes, chance: Random) -> bytes:
    """A table with other columns, types, rows, values."""
    frame = pl.read_parquet(io.BytesIO(data))
    name = chance.choice(frame.columns)
    action = chance.randrange(9)
    if action == 0:
        frame = frame.drop(name)
    elif action == 1:
        frame = frame.rename({name: chance.choice(["x", "", name.upper()])})
    elif action == 2:
        frame = frame.with_columns(_retyped(frame[name], chance))
    elif action == 3:
        frame = frame.with_columns(pl.col(name).shift(1))
    elif action == 4:
        frame = chance.choice(
            [
                frame.reverse(),
                frame.head(0),
                frame.head(3),
                pl.concat([frame, frame]),
                pl.concat([frame, frame.head(1)]),
            ]
        )
    elif action == 5:
        frame = frame.with_columns(pl.lit(frame[name][0] if len(frame) else None).alias(name))
    elif action == 6:
        frame = frame.with_columns(pl.struct(name).alias(name))
    elif action == 7:
        frame = frame.with_columns(pl.concat_list(name).alias(name))
    else:
        frame = frame.with_columns(pl.lit(chance.choice([1, "a", 1.5, True])).alias(chance.choice(["x", name])))
    stream = io.BytesIO()
    frame.write_parquet(stream)
    return stream.getvalue()


def _retyped(column: pl.Series, chance: Random) -> pl.Series:
    """The column in another type; nulls where it has none of its values."""
    kind = chance.choice([pl.String, pl.Float32, pl.Int8, pl.Boolean, pl.Null, pl.Binary, pl.UInt64])
    try:
        return column.cast(kind, strict=False)
    except pl.exceptions.PolarsError:
        return pl.Series(column.name, [None] * len(column), dtype=kind)


def _tensors(data: bytes, chance: Random) -> bytes:
    """A safetensors file with another header."""
    size = struct.unpack("<Q", data[:8])[0]
    if chance.random() < 0.2:
        return struct.pack("<Q", chance.choice([0, 1, 2**63, size + 1, len(data) * 2])) + data[8:]
    header = json_text(data[8 : 8 + size], chance)
    return struct.pack("<Q", len(header)) + header + data[8 + size :]


def _json_line(data: bytes, chance: Random) -> bytes:
    """One line of JSON lines altered."""
    lines = data.split(b"\n")
    place = chance.randrange(max(len(lines) - 1, 1))
    lines[place] = chance.choice(
        [
            lambda: json_text(lines[place], chance).replace(b"\n", b" "),
            lambda: b"\xff",
            lambda: lines[place][:9],
            lambda: b"",
        ]
    )()
    return b"\n".join(lines)


def rehash(artefact: Path) -> None:
    """Make every manifest below agree with the files that are there, the innermost first."""
    found = sorted(
        (path for path in artefact.rglob("*.json") if path.name in MANIFESTS), key=lambda path: -len(path.parts)
    )
    for path in found:
        manifest = json.loads(path.read_bytes())
        for name, entry in manifest.get("files", {}).items():
            file = path.parent / name
            if file.is_file():
                data = file.read_bytes()
                entry.update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        path.write_text(json.dumps(manifest, indent=2))
