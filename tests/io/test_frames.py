"""No path is a pattern: ``[ ]``, ``*`` and ``?`` in a name are letters."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import polars as pl
import pytest

from xclass.errors import ArtefactError
from xclass.io import frames

PACKAGE = Path(frames.__file__).parent


def test_polars_readers_are_called_through_their_door() -> None:
    """Or with ``glob=False`` in the call itself; readers without that switch through the door only."""
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        safe = {call.func for call in calls for word in call.keywords if ast.unparse(word) == "glob=False"}
        wrong += [
            f"{path.relative_to(PACKAGE)}: {ast.unparse(node)}"
            for node in {node for node in ast.walk(tree) if isinstance(node, ast.Attribute)} - safe
            if re.fullmatch(r"pl\.(scan|read)_\w+", ast.unparse(node)) and path != Path(frames.__file__)
        ]
    assert wrong == []


@pytest.mark.parametrize("name", ["a[12]", "a*", "a?", "[!b]", "a=1", "**"])
def test_a_name_is_read_as_it_is_written(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    folder.mkdir()
    for beside in (tmp_path / "a1", tmp_path / "a"):
        beside.mkdir()
        pl.DataFrame({"x": [2], "y": [3]}).write_parquet(beside / "f.parquet")
    frame = pl.DataFrame({"x": [1]})
    frame.write_parquet(folder / "f.parquet")
    frame.write_ipc(folder / "f.arrow")
    found = [
        frames.scan_parquet(folder / "f.parquet").collect(),
        frames.scan_parquet([folder / "f.parquet"]).collect(),
        frames.read_parquet(folder / "f.parquet"),
        frames.scan_ipc(folder / "f.arrow").collect(),
        frames.read_ipc(folder / "f.arrow"),
    ]
    assert all(each.equals(frame) for each in found)
    assert frames.parquet_schema(folder / "f.parquet") == pl.Schema({"x": pl.Int64})


def test_what_polars_cannot_read_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1" + bytes(100) + b"PAR1")
    with pytest.raises(ArtefactError, match="can't be read"):
        frames.check_columns(tmp_path / "a.parquet", None, {"x": (pl.Int64,)})
