"""Configuration: TOML in, frozen objects out. An unknown key is an error that names the nearest known one."""

from __future__ import annotations

import json
import stat
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import pydantic
import tomli_w

from xclass.errors import ConfigError, nearest
from xclass.runtime.nesting import DEEPEST, is_deep

SHOWN = 200  # characters of a value in a message
MOST = (1 << 31) - 1  # sizes are counted in int32 here and there, and larger ones fit no memory
LARGEST = 3.4e38  # of float32

Count = Annotated[int, pydantic.Field(ge=0, le=MOST)]
"""How many, where there may be none."""
Positive = Annotated[int, pydantic.Field(ge=1, le=MOST)]
"""How many, at least one."""
Dimension = Annotated[int, pydantic.Field(ge=1, le=1 << 16)]
"""Of vectors and layers."""
Dimensions = Annotated[tuple[Dimension, ...], pydantic.Field(max_length=64)]
"""Of layers, one after the other."""
Seed = Annotated[int, pydantic.Field(ge=0, lt=1 << 63)]
"""Of everything random."""
Number = Annotated[float, pydantic.Field(ge=-LARGEST, le=LARGEST)]
"""Any that float32 holds."""
Amount = Annotated[float, pydantic.Field(ge=0, le=LARGEST)]
"""0 or more."""
PositiveNumber = Annotated[float, pydantic.Field(gt=0, le=LARGEST)]
"""Above 0."""
Exponent = Annotated[float, pydantic.Field(ge=0, le=100)]
"""Of a power of counts or weights."""
Power = Annotated[float, pydantic.Field(ge=-100, le=100)]
"""An exponent that may be below 0."""
Seconds = Annotated[float, pydantic.Field(ge=0, le=1e9)]
"""Up to thirty years."""


class Config(pydantic.BaseModel):
    """Base of every configuration: frozen, keyword-only, no unknown keys, no number that is not finite.

    Every number has a type with a range, one of the above or its own.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


C = TypeVar("C", bound=Config)


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; a missing or malformed file is a ConfigError with the line."""
    path = Path(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe may never end, and a device has no end
            raise ConfigError("this configuration file can't be read", where=path, got="no regular file")
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        if is_deep(values):
            raise ValueError(f"nested in more than {DEEPEST} levels")
        return values
    except FileNotFoundError:
        raise ConfigError("there is no such configuration file", where=path) from None
    except OSError as error:
        raise ConfigError("this configuration file can't be read", where=path, got=error.strerror) from None
    except (ValueError, RecursionError) as error:  # also bytes that are no text, numbers of thousands of digits
        raise ConfigError("this is not valid TOML", where=path, got=str(error)) from None


def apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of ``values`` with each ``a.b=c`` applied; ``c`` is read as TOML, else as a string.

    >>> apply_overrides({"train": {"epochs": 3}}, ["train.epochs=5", "model.kind=mf"])
    {'train': {'epochs': 5}, 'model': {'kind': 'mf'}}
    """
    result = dict(values)
    for override in overrides:
        key, sign, text = override.partition("=")
        parts = key.strip().split(".")
        if not sign or not all(parts):
            raise ConfigError("--set is of the wrong form", wanted="section.key=value", got=override)
        table = result
        for part in parts[:-1]:
            below = table.get(part, {})
            if not isinstance(below, dict):
                raise ConfigError("--set goes below a value that has no keys", where=key, got=override)
            table[part] = table = dict(below)
        table[parts[-1]] = _toml_value(text.strip())
    return result


def build_config(cls: type[C], values: dict[str, Any], where: object = None) -> C:
    """``cls`` from plain values; the first mistake becomes a ConfigError with its dotted path.

    Types are strict in the way of JSON: a list serves as a tuple, but neither ``true`` nor ``"3"`` as a number.
    """
    try:
        text = json.dumps(values, default=str)
    except (TypeError, ValueError, RecursionError) as error:  # numbers of thousands of digits, thousands of levels
        raise ConfigError("this is no configuration", where=where, got=str(error)) from None
    try:
        return cls.model_validate_json(text, strict=True)
    except pydantic.ValidationError as error:
        raise _config_error(cls, error.errors()[0], where) from None


def load_config(cls: type[C], path: Path, overrides: Sequence[str] = ()) -> C:
    """Read a TOML file, apply the overrides, check everything once."""
    return build_config(cls, apply_overrides(read_toml(path), overrides), where=path)


def to_toml(config: Config) -> str:
    """The resolved configuration, every default written out; reading it back gives an equal object."""
    return tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))


def describe_toml(cls: type[Config], prefix: str = "") -> str:
    """Every key with its default and its meaning, as a TOML file that can be read back."""
    plain, tables = [], []
    for name, field in cls.model_fields.items():
        default = field.get_default(call_default_factory=True)
        note = f"# {' '.join((field.description or '').split())}"
        if isinstance(default, Config):
            below = describe_toml(type(default), f"{prefix}{name}.")
            tables.append(f"{note}\n[{prefix}{name}]\n{below}")
        else:
            dumped = cls.model_construct().model_dump(mode="json", include={name}, exclude_none=True)
            plain.append(f"{note}\n{tomli_w.dumps(dumped).strip() or f'# {name} ='}")
    return "\n\n".join(["\n".join(plain), *tables] if plain else tables)


def _config_error(cls: type[Config], detail: Any, where: object) -> ConfigError:
    path = [str(part) for part in detail["loc"]]
    dotted = ".".join(path)
    place = f"{where}: {dotted}" if where is not None else dotted
    if detail["type"] == "extra_forbidden":
        known = _known_keys(cls, path[:-1])
        return ConfigError(
            "this key does not exist",
            where=place,
            got=f"{path[-1]} = {_short(detail['input'])}",
            do=nearest(path[-1], known),
        )
    message = detail["msg"].removeprefix("Value error, ")
    return ConfigError(message[0].lower() + message[1:], where=place, got=_short(detail["input"]))


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}… ({len(text):,} characters)"


def _known_keys(cls: type[Config], path: Sequence[str]) -> list[str]:
    for part in path:
        field = cls.model_fields.get(part)
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, Config)):
            return []
        cls = field.annotation
    return list(cls.model_fields)


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text


def flatten(fields: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Inner mappings spelt with dots.

    >>> flatten({"rows": {"read": 3, "kept": 2}, "seed": 0})
    {'rows.read': 3, 'rows.kept': 2, 'seed': 0}
    """
    flat: dict[str, object] = {}
    for name, value in fields.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
