"""What a command prints on stdout: a JSON object, or tables: drawn on a terminal, Markdown elsewhere."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from xclass.io.markdown import are_numbers, cell, markdown
from xclass.runtime.streams import abandon, is_terminal, printable


class Undelivered(Exception):
    """Stdout took no more; its cause says why."""


def flush() -> None:
    """Hand over what was printed; Undelivered when that fails."""
    with _delivering():
        sys.stdout.flush()


@contextlib.contextmanager
def _delivering() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        abandon(sys.stdout)
        raise Undelivered from error


def print_json(value: Mapping[str, Any]) -> None:
    """One JSON object. A number that is not finite becomes null: JSON has no name for it."""
    text = json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False)
    if printable(text, sys.stdout) != text:
        text = json.dumps(_plain(value), indent=2, allow_nan=False)
    print_line(text)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str | None = None) -> None:
    """One table; columns of numbers are aligned to the right."""
    numeric = are_numbers(rows, len(columns))
    cells = [[cell(value) for value in row] for row in rows]
    if is_terminal(sys.stdout):
        _draw(columns, cells, numeric, title)
    else:
        print_line((f"{title}\n\n" if title else "") + markdown(columns, cells, numeric))


def print_fields(fields: Mapping[str, object], title: str | None = None) -> None:
    """A mapping as a table of two columns; inner mappings are spelt with dots."""
    from xclass.config import flatten

    rows = [[name, f"{value:,.6g}" if isinstance(value, float) else value] for name, value in flatten(fields).items()]
    print_table(["", ""], rows, title)


def print_line(text: str = "") -> None:
    """One line of text."""
    with _delivering():
        sys.stdout.write(printable(text, sys.stdout) + "\n")


def _draw(columns: Sequence[str], cells: Sequence[Sequence[str]], numeric: Sequence[bool], title: str | None) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_header=any(columns))
    for name, right in zip(columns, numeric, strict=True):
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for row in cells:
        table.add_row(
            *(Text(printable(value, sys.stdout)) for value in row)
        )  # Text: ids may hold what rich would read as markup
    with _delivering():
        Console(file=sys.stdout).print(table)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | bool | int):
        return value
    return str(value) if isinstance(value, Path) else _plain(value.item())
