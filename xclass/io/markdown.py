"""Values as people read them, and tables of them in Markdown."""

from __future__ import annotations

from collections.abc import Sequence


class Brief(float):
    """A number of which three figures are enough.

    >>> cell(Brief(8.0)), cell(Brief(0.30219)), cell(Brief(12345.6)), cell(Brief(98.76))
    ('8', '0.302', '12,346', '98.8')
    """

    def __str__(self) -> str:
        """Without an exponent where it can be."""
        return f"{round(self):,}" if abs(self) >= 100 else f"{float(self):.3g}"


def cell(value: object) -> str:
    """A value as people read it.

    >>> cell(29858), cell(0.18312), cell(0.00002), cell(None), cell(True), cell(["a", "b"])
    ('29,858', '0.1831', '2e-05', '', 'yes', 'a, b')
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, Brief):
        return str(value)
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, list | tuple):
        return ", ".join(cell(part) for part in value)
    return str(value)


def are_numbers(rows: Sequence[Sequence[object]], columns: int) -> list[bool]:
    """For each column whether there is nothing but numbers in it: such columns are aligned to the right."""
    return [bool(rows) and all(_is_number(row[place]) for row in rows) for place in range(columns)]


def markdown(columns: Sequence[str], cells: Sequence[Sequence[str]], numeric: Sequence[bool]) -> str:
    r"""A Markdown table whose columns also line up as plain text.

    >>> print(markdown(["split", "pairs"], [["train", "810"], ["a|b", "7"]], [False, True]))
    | split | pairs |
    |-------|------:|
    | train |   810 |
    | a\|b  |     7 |
    """
    rows = [[text.replace("|", "\\|").replace("\n", " ") for text in row] for row in [columns, *cells]]
    widths = [max(1, *(len(row[place]) for row in rows)) for place in range(len(columns))]
    lines = [_aligned(row, widths, numeric) for row in rows]
    rule = "|".join("-" * (width + 1) + (":" if right else "-") for width, right in zip(widths, numeric, strict=True))
    return "\n".join([lines[0], f"|{rule}|", *lines[1:]])


def _aligned(row: Sequence[str], widths: Sequence[int], numeric: Sequence[bool]) -> str:
    parts = zip(row, widths, numeric, strict=True)
    return "| " + " | ".join(text.rjust(width) if right else text.ljust(width) for text, width, right in parts) + " |"


def _number(value: float) -> str:
    if value != 0 and abs(value) < 1e-3:
        return f"{value:.3g}"
    return f"{value:.4f}" if abs(value) < 100 else f"{value:,.1f}"


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
