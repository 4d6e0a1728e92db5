"""Configurations: never ignored, never half-read, and back again unchanged."""

from __future__ import annotations

import os
from pathlib import Path

import pydantic
import pytest

from xclass.config import Config, apply_overrides, build_config, load_config, read_toml, to_toml
from xclass.errors import ConfigError


class Optimiser(Config):
    lr: float = 0.1
    kind: str = "adagrad"


class Run(Config):
    epochs: int = pydantic.Field(3, ge=0)
    note: str | None = None
    optimiser: Optimiser = Optimiser()
    cuts: tuple[int, ...] = (10, 20)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_file_then_overrides(tmp_path: Path) -> None:
    path = write(tmp_path / "a.toml", "epochs = 5\n[optimiser]\nlr = 0.5\n")
    config = load_config(Run, path, ["optimiser.lr=0.25", "optimiser.kind=sgd", "cuts=[5]"])
    assert config == Run(epochs=5, optimiser=Optimiser(lr=0.25, kind="sgd"), cuts=(5,))


def test_round_trip(tmp_path: Path) -> None:
    config = Run(epochs=1, note='quotes " and = signs', cuts=(1, 2, 3))
    text = to_toml(config)
    assert "lr = 0.1" in text, "defaults are written out"
    assert load_config(Run, write(tmp_path / "a.toml", text)) == config


def test_unknown_key_names_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        build_config(Run, {"optimiser": {"learning_rate": 1.0, "lr": 1.0}}, where="a.toml")
    assert caught.value.where == "a.toml: optimiser.learning_rate"
    assert caught.value.do == "known: kind, lr"
    with pytest.raises(ConfigError) as caught:
        build_config(Run, {"epoch": 3})
    assert caught.value.do == 'did you mean "epochs"? known: cuts, epochs, note, optimiser'


@pytest.mark.parametrize(
    ("values", "where"),
    [
        ({"epochs": -1}, "epochs"),
        ({"epochs": "many"}, "epochs"),
        ({"epochs": "3"}, "epochs"),
        ({"epochs": True}, "epochs"),
        ({"epochs": 2.5}, "epochs"),
        ({"note": 7}, "note"),
        ({"optimiser": {"lr": "x"}}, "optimiser.lr"),
        ({"optimiser": 3}, "optimiser"),
    ],
)
def test_wrong_value_has_its_path(values: dict[str, object], where: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_config(Run, values)
    assert caught.value.where == where
    assert caught.value.got is not None


def test_a_whole_number_serves_as_a_float_and_a_list_as_a_tuple() -> None:
    config = build_config(Run, {"optimiser": {"lr": 1}, "cuts": [1]})
    assert config.optimiser.lr == 1.0
    assert config.cuts == (1,)
    with pytest.raises(ConfigError, match="finite"):
        build_config(Run, {"optimiser": {"lr": float("inf")}})


def test_frozen() -> None:
    with pytest.raises(pydantic.ValidationError):
        Run().epochs = 4  # type: ignore[misc]


@pytest.mark.parametrize(
    "text", ["[" + ".".join("a" * 900) + "]\n", "x = " + "[" * 300 + "]" * 300, "x = " + "{a=" * 300 + "1" + "}" * 300]
)
def test_a_file_that_is_nested_deeply(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_config(Run, write(tmp_path / "a.toml", text))


def test_numbers_and_levels_that_json_does_not_take(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no configuration"):
        load_config(Run, write(tmp_path / "a.toml", "epochs = 0x" + "f" * 5000))
    with pytest.raises(ConfigError, match="no configuration"):
        build_config(Run, apply_overrides({}, [".".join("a" * 3000) + "=1"]))


def test_a_byte_order_mark_is_no_part_of_a_configuration(tmp_path: Path) -> None:
    assert load_config(Run, write(tmp_path / "a.toml", "\ufeffepochs = 5\n")).epochs == 5


def test_a_configuration_is_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(ConfigError, match="can't be read"):
            read_toml(path)


@pytest.mark.parametrize("override", ["epochs", "=3", ".a=3", "a..b=3"])
def test_override_of_the_wrong_form(override: str) -> None:
    with pytest.raises(ConfigError, match="wrong form"):
        apply_overrides({}, [override])


def test_override_below_a_value() -> None:
    with pytest.raises(ConfigError, match="below a value"):
        apply_overrides({"epochs": 3}, ["epochs.b=3"])


def test_overrides_leave_the_input_alone() -> None:
    values = {"optimiser": {"lr": 1.0}}
    assert apply_overrides(values, ["optimiser.lr=2.0", "new.key=true"]) == {
        "optimiser": {"lr": 2.0},
        "new": {"key": True},
    }
    assert values == {"optimiser": {"lr": 1.0}}


def test_override_values_are_toml_else_text() -> None:
    read = apply_overrides({}, ["a=1", "b=1e-3", "c=HNSW32,Flat", 'd="7"', "e=x=y", "f="])
    assert read == {"a": 1, "b": 1e-3, "c": "HNSW32,Flat", "d": "7", "e": "x=y", "f": ""}


def test_missing_and_malformed_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such configuration file"):
        read_toml(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="not valid TOML") as caught:
        read_toml(write(tmp_path / "bad.toml", "a = 1\nb = = 2\n"))
    assert "line 2" in str(caught.value.got)
    (tmp_path / "latin.toml").write_bytes(b'a = "\xe9"\n')
    with pytest.raises(ConfigError, match="not valid TOML"):
        read_toml(tmp_path / "latin.toml")
    with pytest.raises(ConfigError, match="can't be read") as caught:
        read_toml(tmp_path)
    assert caught.value.got == "no regular file"
