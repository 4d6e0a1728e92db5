"""Numbers that can't be: every key of a configuration and every option refuses them, in one message."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
import typer

from xclass.cli import app, main
from xclass.config import Config, build_config, load_config
from xclass.data.vectorizer import TextOptions
from xclass.errors import ConfigError
from xclass.index import IndexConfig
from xclass.ingest.options import IngestOptions
from xclass.training.run_config import RunConfig

NUMBERS: list[Any] = [0, -1, 2**31, 2**63 - 1, 10**20, -(10**20), math.nan, math.inf, -math.inf, 1e39, 5e-324]
OTHERS: list[Any] = ["", "x" * 100_000, True, None, [], [10**20], [-1], [math.nan], {}, {"x": 1}]
MODELS = [RunConfig, IngestOptions, TextOptions, IndexConfig]


def keys(model: type[Config], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(path, annotation) of every key below a model; a model inside itself is not looked into again."""
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Config):
            yield from keys(inner, (*path, name))
        else:
            yield (*path, name), inner


def has(annotation: Any, wanted: type) -> bool:
    if get_origin(annotation) in (typing.Union, types.UnionType, tuple, list):
        return any(has(part, wanted) for part in get_args(annotation))
    if get_origin(annotation) is typing.Annotated:
        return has(get_args(annotation)[0], wanted)
    return annotation is wanted


def refused(model: type[Config], path: tuple[str, ...], value: Any) -> bool:
    """Whether there is a ConfigError; any other error is a failure of the test."""
    values: Any = value
    for key in reversed(path):
        values = {key: values}
    try:
        build_config(model, values)
    except ConfigError as error:
        assert len(str(error)) < 2000, "a message is to be read"
        return True
    return False


CASES = [(model, path, kind) for model in MODELS for path, kind in keys(model)]


@pytest.mark.parametrize(("model", "path", "kind"), CASES, ids=[f"{m.__name__}.{'.'.join(p)}" for m, p, _ in CASES])
def test_every_key_takes_a_value_or_refuses_it(model: type[Config], path: tuple[str, ...], kind: Any) -> None:
    taken = [value for value in [*NUMBERS, *OTHERS] if not refused(model, path, value)]
    numbers = [value for value in taken if isinstance(value, int | float) and not isinstance(value, bool)]
    assert all(math.isfinite(value) and abs(value) < 3.5e38 for value in numbers), numbers
    if has(kind, int) and path[-1] != "seed":
        assert all(abs(value) < 2**31 for value in numbers), numbers
    if get_origin(kind) is tuple:
        assert [10**20] not in taken and not any(math.isnan(v[0]) for v in taken if isinstance(v, list) and v)


@pytest.mark.parametrize("text", ["a = " + "9" * 5000, "a = " + "[" * 5000, 'a = "\\ud800"', "a = \xff"])
def test_toml_that_the_reader_gives_up_on(text: str, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError):
        load_config(RunConfig, tmp_path / "c.toml")
    (tmp_path / "c.toml").write_text("")
    with pytest.raises(ConfigError):
        load_config(RunConfig, tmp_path / "c.toml", [f"train.epochs={text[4:]}"])


def options() -> Iterator[tuple[str, Any]]:
    for name, command in typer.main.get_command(app.app).commands.items():  # type: ignore[attr-defined]
        for option in command.params:
            if option.param_type_name == "option" and not option.is_flag and option.opts[-1] != "--help":
                yield name, option


OPTIONS = list(options())
POSITIONAL = {"doctor": [], "demo": []}
NEEDED = {"train": ["--config", "--out"], "ingest": ["--out"], "estimate": ["--config"], "retrieve": ["--out"]}


@pytest.mark.parametrize(("command", "option"), OPTIONS, ids=[f"{c} {o.opts[-1]}" for c, o in OPTIONS])
def test_every_option_takes_a_value_or_refuses_it(
    command: str, option: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a dataset or run that is not there: what is taken ends with that, exit code 1."""
    monkeypatch.chdir(tmp_path)
    if command == "demo":
        pytest.skip("its options are paths")
    given = [command, *POSITIONAL.get(command, ["nothing"])]
    for name in NEEDED.get(command, []):
        given += [name, "nothing-either"] if name != option.opts[-1] else []
    codes = {}
    for value in ["-1", str(2**63), str(10**20), "nan", "inf", "", "x" * 10_000]:
        codes[value] = main([*given, option.opts[-1], value])
        said = capsys.readouterr().err
        assert codes[value] in (1, 2) and "defect" not in said and "Traceback" not in said, (value, said)
    ranged = getattr(option, "max", None) is not None
    if ranged:
        assert codes[str(10**20)] == codes["nan"] == codes["inf"] == codes["-1"] == 2
    assert not list(tmp_path.iterdir())


def test_every_whole_number_has_a_range() -> None:
    types_of = {name: typing.get_type_hints(command, include_extras=True) for name, command in app.COMMANDS.items()}
    whole = [(command, option) for command, option in OPTIONS if has(types_of[command][option.name], int)]
    without = [(command, option.opts[-1]) for command, option in whole if None in (option.min, option.max)]
    assert not without and len(whole) > 10
