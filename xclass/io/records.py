"""JSON of ours, checked when it is read: types and ranges are those of a pydantic model beside its owner."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Annotated, Any, TypeVar

import pydantic

from xclass.errors import ArtefactError
from xclass.runtime.nesting import DEEPEST, is_deep

Count = Annotated[int, pydantic.Field(ge=0, lt=1 << 62)]

ABSENT: Any = None  # the default of what may be left out, but may not be null

Place = pydantic.InstanceOf[str]  # a path, which need not be UTF-8
Metric = Annotated[float, pydantic.AllowInfNan(True)]  # a figure that was measured, which may not be finite


class Record(pydantic.BaseModel):
    """Base of what a JSON file of ours holds. Strict types, finite numbers; keys that nobody reads are passed over."""

    model_config = pydantic.ConfigDict(frozen=True, strict=True, extra="ignore", allow_inf_nan=False)


R = TypeVar("R")


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        ArtefactError: the file is missing, is no file, or is cut or altered: not JSON, not UTF-8, nested too deeply.
    """
    path = Path(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ArtefactError("this is not a file", where=path)
        value = json.loads(path.read_bytes().decode("utf-8"))
        if is_deep(value):
            raise ValueError(f"nested in more than {DEEPEST} levels")
        return value
    except FileNotFoundError:
        raise ArtefactError("this file is missing", where=path) from None
    except (ValueError, RecursionError) as error:
        raise ArtefactError("this file is not valid JSON: cut or altered", where=path, got=str(error)) from None


def check_record(model: type[R], value: object, where: object) -> R:
    """``value`` as a ``model``, a Record or a dataclass; ArtefactError with the dotted key of the first mistake."""
    try:
        return pydantic.TypeAdapter(model).validate_python(value)
    except pydantic.ValidationError as error:
        detail = error.errors()[0]
        dotted = ".".join(str(part) for part in detail["loc"])
        message = detail["msg"].removeprefix("Value error, ")
        raise ArtefactError(
            "this file was altered, or another version of xclass wrote it",
            where=where,
            wanted=(f"{dotted}: " if dotted else "") + message[0].lower() + message[1:],
            got="nothing" if detail["type"] == "missing" else _short(detail["input"]),
            do="restore it, or make the directory again",
        ) from None


def read_record(path: Path, model: type[R]) -> R:
    """A JSON file as a ``model``.

    Raises:
        ArtefactError: as :func:`read_json`; or a key is missing, of another type, or out of its range.
    """
    return check_record(model, read_json(path), path)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"
