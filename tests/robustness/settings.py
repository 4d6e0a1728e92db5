"""Every key of a configuration and every option of every command, with odd values: done, or one clear error."""

from __future__ import annotations

import json
import math
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import click

from tests.robustness.cases import Case, Tools
from tests.robustness.commands import REFUSED, RIGHT, Said, Verdict, fault

ROOT = Path(__file__).resolve().parents[2]
SMALL = (0, -1, 1, 2, 3, 0.5, -0.5, 1.5, 1e-300, -0.0, 0.999999, 7.0, math.nan, math.inf, -math.inf, "", "x", "auto", True, False, [], [1], [0],
         [-1], ["x"], [[1]], {}, {"kind": "x"}, "0", "1e3", "\u00e9", [1.5, 2], [4, 4])  # fmt: skip
HUGE = (2**31, 2**31 - 1, 2**63 - 1, 2**63, -(2**63), 2**64, 10**30, 1e18, 1e308, [10**9], [2**31, 2**31], 10**400)
LONG = ("epochs", "max_steps", "patience", "resamples")  # more of it takes longer, rightly
KINDS = {
    "loss.kind": ("full-softmax", "sampled-softmax", "nce", "negative-sampling", "sampled-logistic", "bpr", "importance", "x"),
    "sampler.kind": ("uniform", "log-uniform", "unigram", "learned-unigram", "in-batch", "mixture", "hard", "bigram", "target", "per-query", "all-items"),
    "head.kind": ("dot", "hierarchical", "adaptive", "differentiated", "cnn", "x"),
    "optimizer": ("adagrad", "adam", "sgd", "x"),
    "model.query.kind": ("history", "id", "features", "context"),
    "model.init": ("random", "spectral", "documents"),
    "tables.storage": ("memory", "mapped", "x"),
    "tables.dtype": ("float32", "bfloat16", "float16"),
    "train.batch.by": ("query", "pair", "x"),
    "train.schedule.kind": ("constant", "linear", "cosine", "x"),
}
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
PATHS = ("pairs.csv", "ds", "run", ".", "nowhere", "nowhere/x", "pairs.csv/x", "run/run.json", "c.toml", "a[b].txt", "loop", "x" * 300, "lists.parquet", "all.jsonl")
EXCLUDED = ("--help", "--calibrate", "--install-completion", "--show-completion")


def configuration(chance: Random, folder: Path) -> Case:
    """One or two keys with odd values, estimated or trained for an epoch; or the file itself altered."""
    keys = _keys()
    given = []
    for _ in range(chance.choice([1, 1, 2])):
        key = chance.choice(keys)
        given.append((key, chance.choice(KINDS[key] if key in KINDS and chance.random() < 0.7 else (*SMALL, *HUGE))))
    trained = chance.random() < 0.5 and not any(key.rpartition(".")[2] in LONG and value in HUGE for key, value in given)
    kinds = [(key, chance.choice(KINDS[key])) for key in chance.sample(list(KINDS), 2) if chance.random() < 0.3]
    sets = [part for key, value in [*kinds, *given] for part in ("--set", f"{key}={_toml(value)}")]
    source = "doc" if any(value == "features" for _, value in kinds) else "ds"

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
        if isinstance(option, click.Option) and option.is_flag:
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
    return fault(said, folder) or Verdict(REFUSED if said.code else RIGHT)


def _value(chance: Random, option: Any) -> str:
    kind = type(option.type).__name__
    takes_path = "Path" in kind or "path" in str(option.metavar or "").lower() or (option.metavar or "") in ("FILE", "DIRECTORY")
    return chance.choice(PATHS if takes_path and chance.random() < 0.8 else WORDS)


def _options(command: str) -> list[Any]:
    """The options of a command, as the command line itself knows them."""
    import typer

    from xclass.cli.app import app

    found: Any = typer.main.get_command(app)
    parameters = found.commands[command].params
    return [each for each in parameters if each.param_type_name == "option" and not set(each.opts) & set(EXCLUDED)]


def _keys() -> list[str]:
    reference = tomllib.loads((ROOT / "configs" / "reference.toml").read_text())
    return [*_paths(reference, ""), *KINDS, "x", "model", "model.x", "train.batch", ""]


def _paths(table: dict[str, Any], before: str) -> Iterator[str]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _paths(value, f"{before}{name}.")
        else:
            yield before + name


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
