"""Messages say what, where, wanted, got and do, in that order, and nothing that is not known."""

from __future__ import annotations

import pytest

from xclass.errors import (
    ArtefactError,
    ConfigError,
    DataError,
    InputError,
    Interrupted,
    XclassError,
    lookup,
    nearest,
)


def test_the_whole_message() -> None:
    error = DataError("column is missing", where="a.csv", wanted="user_id", got="user", do="pass --query-col user")
    assert str(error) == "a.csv: column is missing\n  wanted: user_id\n  got: user\n  do: pass --query-col user"


def test_only_what_is_known() -> None:
    assert str(XclassError("too short")) == "too short"
    assert str(XclassError("too short", got=0)) == "too short\n  got: 0"


@pytest.mark.parametrize("kind", [InputError, DataError, ConfigError, ArtefactError])
def test_one_root(kind: type[XclassError]) -> None:
    assert issubclass(kind, XclassError)


def test_input_error_is_a_value_error() -> None:
    assert issubclass(InputError, ValueError)


def test_interrupted_is_not_a_wrong_input() -> None:
    assert not issubclass(Interrupted, XclassError)
    assert str(Interrupted("stopped", "xclass train --resume")) == "stopped\n  do: xclass train --resume"
    assert str(Interrupted("stopped")) == "stopped"


def test_nearest_of_nothing() -> None:
    assert nearest("a", []) == "nothing is known here"
    assert nearest("zzz", ["loss"]) == "known: loss"


def test_lookup() -> None:
    assert lookup("loss", "nce", {"nce": 1}) == 1
    with pytest.raises(ConfigError, match='there is no loss "ncee"') as caught:
        lookup("loss", "ncee", {"nce": 1, "full": 2}, where="model.loss")
    assert caught.value.do == 'did you mean "nce"? known: full, nce'
    assert caught.value.where == "model.loss"
