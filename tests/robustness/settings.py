"""Every key of a configuration and every option of every command, with odd values: done, or one clear error."""

from __future__ import annotations

import functools
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from tests.robustness.cases import Case, Tools
from tests.robustness.commands import REFUSED, RIGHT, Said, Verdict, fault, last_lines

SMALL = (0, -1, 1, 2, 3, 0.5, -0.5, 1.5, 1e-300, -0.0, 0.999999, 7.0, math.nan, math.inf, -math.inf, "", "x", "auto", True, False, [], [1], [0],
         [-1], ["x"], [[1]], {}, {"kind": "x"}, "0", "1e3", "\u00e9", [1.5, 2], [4, 4])  # fmt: skip
HUGE = (2**31, 2**31 - 1, 2**63 - 1, 2**63, -(2**63), 2**64, 10**30, 1e18, 1e308, [10**9], [2**31, 2**31], 10**400)
TYPED: dict[str, tuple[Any, ...]] = {
    "integer": (0, 1, 2, 3, 7, 64, -1, 1000, 2**31 - 1, 2**31, 2**40),
    "number": (0.0, 1e-300, 1e-30, 1e-3, 0.5, 0.999999, 1.0, 1.5, 3, 100.0, 1e6, 1e30, 1e308, -1.0),
    "boolean": (True, False),
    "array": ([], [1], [4, 4], [0], [64], ["x"], [0.5], [1, 2, 3], [2**31]),
    "string": ("", "x", "c.toml", "ds", "pairs.csv", "nowhere", "IVF4,Flat"),
}
LONG = ("epochs", "max_steps", "patience", "resamples")  # more of it takes longer, rightly
# A command line that works; an option comes behind it.
LINES = {
    "ingest": "pairs.csv --out o --split random",
    "train": "ds --config c.toml --out r --set train.epochs=1",
    "estimate": "ds --config c.toml --no-calibrate",
    "index": "run --kind flat -k 5",
    "retrieve": "run --out o.parquet -k 5",
    "evaluate": "run -k 5",
    "export": "run --item-vectors v.parquet",
    "compare": "run run_open -k 5 --resamples 20",
    "inspect": "run",
    "doctor": "",
}
WORDS = ("", " ", "x", "0", "-1", "1", "nan", "inf", "-inf", "1e400", "9" * 30, "2147483648", "9223372036854775808", "0x10", "1_000", "1,5", "0.5,1.5",
         "nan,inf", "é", "a,b", "=", "a=b", "a=", "[", "{}", "null", ",", "::", "\t", "\\", "'", '"', "x" * 300, "auto", "cpu", "cuda", "recall",
         "recall@5", "ndcg", "user_id", "item_id", "1GiB", "-1GiB", "1e300GiB", "10GB/s", "1us", "nan GB", "LSH4x4", "IVF4,Flat", "HNSW8", "PQ4", "😀")  # fmt: skip
PATHS = (
    "pairs.csv",
    "ds",
    "run",
    ".",
    "nowhere",
    "nowhere/x",
    "pairs.csv/x",
    "run/run.json",
    "c.toml",
    "a[b].txt",
    "loop",
    "x" * 300,
    "lists.parquet",
    "all.jsonl",
)
EXCLUDED = ("--help", "--calibrate", "--install-completion", "--show-completion")


def configuration(chance: Random, folder: Path) -> Case:
    """One to three keys, mostly with values of their type; estimated, or trained for an epoch."""
    keys = _keys()
    given = [_setting(chance, keys) for _ in range(chance.choice([1, 1, 2, 3]))]
    trained = chance.random() < 0.6 and not any(
        key.rpartition(".")[2] in LONG and value in HUGE for key, value in given
    )
    sets = [part for key, value in given for part in ("--set", f"{key}={_toml(value)}")]
    source = "doc" if any(value == "features" for _, value in given) else "ds"

    def check(tools: Tools) -> Verdict:
        _bring(tools, folder)
        command = ["train", source, "--out", "r"] if trained else ["estimate", source, "--no-calibrate"]
        return _judged(tools.run(*command, "--config", "c.toml", "--set", "train.epochs=1", *sets), folder)

    return Case(f"{'train' if trained else 'estimate'} {source} {' '.join(sets)}"[:300], check)


def options(chance: Random, folder: Path) -> Case:
    """One or two options of a command with odd values."""
    command = chance.choice(list(LINES))
    known = _options(command)
    arguments = [command, *LINES[command].split()]
    for _ in range(chance.choice([1, 1, 2])) if known else ():
        option = chance.choice(known)
        name = chance.choice(option.opts)
        if getattr(option, "is_flag", False):
            arguments.append(chance.choice([*option.opts, *option.secondary_opts]))
        elif name.startswith("--"):
            arguments.append(f"{name}={_value(chance, option)}")
        else:
            arguments += [name, _value(chance, option)]

    def check(tools: Tools) -> Verdict:
        _bring(tools, folder)
        return _judged(tools.run(*arguments), folder)

    return Case(" ".join(arguments)[:300], check)


def _judged(said: Said, folder: Path) -> Verdict:
    return fault(said, folder) or Verdict(REFUSED if said.code else RIGHT, last_lines(said))


def _value(chance: Random, option: Any) -> str:
    takes_path = option.metavar in ("FILE", "DIRECTORY") or "Path" in str(option.type_descriptor)
    return chance.choice(PATHS if takes_path and chance.random() < 0.8 else WORDS)


def _options(command: str) -> list[Any]:
    """The options of a command, as the command line itself knows them."""
    import typer

    from xclass.cli.app import app

    found: Any = typer.main.get_command(app)
    parameters = found.commands[command].params
    return [each for each in parameters if each.param_type_name == "option" and not set(each.opts) & set(EXCLUDED)]


def _setting(chance: Random, keys: dict[str, dict[str, Any]]) -> tuple[str, Any]:
    """A key and a value; one that the key's type allows in three of four cases."""
    key = chance.choice([*keys, *(name for name in keys if "enum" in keys[name])])
    kind = keys[key]
    if chance.random() < 0.25:
        return key, chance.choice((*SMALL, *HUGE))
    if "enum" in kind:
        return key, chance.choice(kind["enum"])
    return key, chance.choice(TYPED.get(kind.get("type", ""), (*SMALL, *HUGE)))


@functools.cache
def _keys() -> dict[str, dict[str, Any]]:
    """Every key of a configuration → what its schema says of it."""
    from xclass.training.run_config import RunConfig

    schema = RunConfig.model_json_schema()
    return dict(_leaves(schema, schema["$defs"], "")) | {"x": {}, "model": {}, "model.x": {}, "": {}}


def _leaves(schema: dict[str, Any], known: dict[str, Any], before: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, entry in schema.get("properties", {}).items():
        choices = [entry, *entry.get("anyOf", [])]
        tables = [known[each["$ref"].rpartition("/")[2]] for each in choices if "$ref" in each]
        for table in tables:
            yield from _leaves(table, known, f"{before}{name}.")
        if not tables:
            yield (
                before + name,
                next((each for each in choices if "enum" in each), choices[-1] if len(choices) == 1 else choices[1]),
            )


def _toml(value: Any) -> str:
    """As a person writes it behind ``--set``."""
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + "}"
    return json.dumps(value)


def _bring(tools: Tools, folder: Path) -> None:
    for name in ("ds", "doc", "run", "run_open"):
        shutil.copytree(tools.bases / name, folder / name)
    for name in ("run.json", "model.safetensors"):  # a second run that is whole, for comparisons
        shutil.copy(tools.bases / "run" / name, folder / "run_open" / name)
    for name in ("pairs.csv", "c.toml", "lists.parquet", "all.jsonl"):
        shutil.copy(tools.bases / name, folder / name)
    (folder / "loop").symlink_to(folder / "loop")
