"""Which format text files have whose names do not say it: found from their first lines, one format for all of them.

    lines that one separator cuts into the same number of fields          csv
    lines of different lengths, no two of a file with the same first id   adjacency
    other lines of different lengths                                      sequences

Where two formats explain the files and would read different pairs, nothing is guessed: the error shows what each reads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from xclass.errors import DataError
from xclass.ingest.columns import names_a_pair
from xclass.ingest.options import IngestOptions
from xclass.ingest.text import lines as text
from xclass.ingest.text.delimited import cut_lines
from xclass.ingest.text.times import are_times

MOST_FILES = 32  # of a directory are looked at
NEARLY = 0.9  # of the lines have the same number of fields: the others are taken for faults
ENOUGH = 10  # lines, before repetition or the lack of it says something
FEW_VALUES = 10
MAGIC = {b"PAR1": "parquet"}
WEAK = (",", ";", "|")  # often stand inside a value, too
READINGS = {
    "csv": lambda row: f"query {row[0]}, item {row[1]}" + (f", further columns {_listed(row[2:])}" if row[2:] else ""),
    "adjacency": lambda row: f"query {row[0]} with items {_listed(row[1:])}",
    "sequences": lambda row: f"one query, named by its line number, with items {_listed(row)}",
    "text": lambda row: f"words to predict, each from those before it: {_listed(row)}",
}


class Sample:
    """The first lines of one file, and how separators cut them. separator: one that cuts all of them alike, or all but
    a few, or None; blanks count where nothing else does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines = text.head(path)
        self.rows = [text.split_line(line, " ") for line in self.lines]

    @cached_property
    def separator(self) -> str | None:
        """A separator other than blanks that makes a table of the lines."""
        return next((mark for mark in _by_strength(self.lines, self.path) if mark != " "), None)

    @cached_property
    def width(self) -> int | None:
        """The number of fields between blanks that the lines have in common."""
        return _width(self.rows, nearly=not self.distinct)

    @cached_property
    def distinct(self) -> bool:
        """Whether no two lines start with the same id."""
        return len({row[0] for row in self.rows}) == len(self.rows)

    @cached_property
    def named(self) -> bool:
        """Whether the first line names a query and an item column, with blanks between."""
        return names_a_pair(self.rows[0])

    @cached_property
    def prose(self) -> bool:
        """Whether there are marks of punctuation by themselves, as in tokenised text, or at the end of many words."""
        words = [word for row in self.rows for word in row]
        alone = sum(not any(letter.isalnum() for letter in word) for word in words)
        ending = sum(word[-1] in ".,;:!?" for word in words)
        return max(alone, ending) > len(words) / 50 and not all(map(text.is_number, self.rows[0]))

    @cached_property
    def typed(self) -> bool:
        """Whether columns after the first differ in kind, so that they cannot all be items."""
        rows = self.rows[1:] or self.rows
        columns = list(zip(*(row for row in rows if len(row) == len(rows[0])), strict=True))[1:]
        kinds = {_kind(column) for column in columns}
        return len(kinds) > 1 or bool(kinds & {"fraction", "time"}) or _few_values(columns)

    @cached_property
    def torn(self) -> bool:
        """Whether most lines hold a separator that does not cut them alike: a table with damaged lines. Blanks do not
        count; tabs only where a line has several, and blanks besides."""
        marked = [sum(mark in line for line in self.lines) for mark in text.SEPARATORS if mark not in " \t"]
        tabbed = sum(line.count("\t") > 1 and " " in line.strip() for line in self.lines)
        return 2 * max(*marked, tabbed) > len(self.lines)

    @cached_property
    def heads_apart(self) -> bool:
        """Whether the first ids of the lines look like those of queries: they come in groups, or never as an item."""
        heads = [row[0] for row in self.rows]
        starts = 1 + sum(one != other for one, other in zip(heads, heads[1:], strict=False))
        grouped = len(heads) >= ENOUGH and starts == len(set(heads))
        return grouped or not set(heads) & {word for row in self.rows for word in row[1:]}


def detect_format(paths: Sequence[Path], options: IngestOptions) -> str:
    """The format that explains all of these text files.

    Raises:
        DataError: two formats would read different pairs; or the lines look like prose.
    """
    magic = {_magic(path) for path in paths[:MOST_FILES]}
    if len(magic) == 1 and None not in magic:
        return str(magic.pop())
    step = -(-len(paths) // MOST_FILES)
    samples = [Sample(path) for path in paths[::step]]
    if any(sample.lines[0].lstrip().startswith(("{", "[{")) for sample in samples):
        return "jsonl"
    if _asked_for_a_table(options) or any(sample.named for sample in samples):
        return "csv"
    return _strong_table(samples) or _of_blanks(samples)


def find_separator(lines: list[str], path: Path) -> str:
    """The separator of a table: one under which the first line names the columns, else one that cuts all lines alike,
    else one that cuts nearly all of them, else one that cuts the first line: the file is uneven and will be told so.

    Raises:
        DataError: two of ``, ; |`` cut all lines alike.
    """
    found = _by_strength(lines, path)
    cutting = [mark for mark in text.SEPARATORS if len(text.split_line(lines[0], mark)) > 1]
    return next(iter([*found, *cutting]), ",")


def _strong_table(samples: list[Sample]) -> str | None:
    """The format csv where something other than blanks cuts the lines alike; None leaves it to the blanks."""
    marks = {sample.separator for sample in samples}
    if marks <= {None, "\t"}:
        tabbed = [sample for sample in samples if sample.separator == "\t"]
        widths = {sample.width for sample in samples}
        inside = any(" " in line.strip() for sample in tabbed for line in sample.lines)
        lists = not inside and len(widths) > 1 and all(sample.distinct for sample in samples)
        if not tabbed or lists:
            return None
    for sample in samples:
        _refuse_listed_items(sample)
    return "csv"


def _refuse_listed_items(sample: Sample) -> None:
    """``query<TAB>item item …`` is a table of two columns only if no id of an item has blanks."""
    if sample.separator is None or names_a_pair(text.split_line(sample.lines[0], sample.separator)):
        return
    fields = [text.split_line(line, sample.separator) for line in sample.lines]
    if all(len(row) == 2 for row in fields) and any(" " in row[1].strip() for row in fields):
        longest = max(fields, key=lambda row: len(row[1]))
        items = longest[1].split()
        raise DataError(
            "it is not clear whether the second field is one item or a list of items",
            where=sample.path,
            got=f'query "{longest[0][:40]}", then "{longest[1][:40]}"',
            wanted=f"--format csv, for one item a line; or --format adjacency, for the items {_listed(items)}"
            + ("" if sample.separator == "\t" else ", with blanks alone between them"),
            do="pass --format",
        )


def _of_blanks(samples: list[Sample]) -> str:
    """The format of lines of ids with blanks between them."""
    prose = next((sample for sample in samples if sample.prose), None)
    if prose is not None:
        raise _unclear(prose, ["text", "sequences"])
    torn = next((sample for sample in samples if sample.torn), None)
    if torn is not None:
        raise DataError(
            "most lines hold a separator, but it does not cut them into the same number of fields",
            where=torn.path,
            got="lines such as " + " and ".join(repr(line[:40]) for line in torn.lines[:2]),
            wanted="a table of even lines (--format csv), or ids with blanks alone between them (--format adjacency)",
            do="mend the lines, or pass --format csv or --format adjacency",
        )
    distinct = all(sample.distinct for sample in samples)
    widths = {sample.width for sample in samples}
    if None in widths:
        return _of_uneven_lines(samples, distinct)
    if len(widths) > 1:
        return "adjacency" if distinct else "csv"
    width = widths.pop()
    assert width is not None
    if width <= 2 or any(sample.typed for sample in samples):
        return "csv"
    if distinct:
        raise _unclear(samples[0], ["csv", "adjacency"])
    if width > 4:
        raise _unclear(samples[0], ["csv", "sequences"])
    return "csv"


def _of_uneven_lines(samples: list[Sample], distinct: bool) -> str:
    if distinct:
        return "adjacency"
    table = next((sample for sample in samples if _looks_like_a_table(sample)), None)
    if table is not None:
        raise _unclear(table, ["csv", "sequences"])
    apart = next((sample for sample in samples if sample.heads_apart), None)
    if apart is not None:
        raise _unclear(apart, ["adjacency", "sequences"])
    return "sequences"


def _looks_like_a_table(sample: Sample) -> bool:
    """One file of several whose lines are even, although those of others are not."""
    return sample.width is not None and not sample.distinct and len(sample.rows) >= ENOUGH


def _unclear(sample: Sample, formats: list[str]) -> DataError:
    row = max(sample.rows[:100], key=len)
    return DataError(
        f"these lines can be read as {' or as '.join(formats)}, and they mean something else in each",
        where=sample.path,
        got=f'lines such as "{" ".join(row)[:60]}"',
        wanted="; ".join(f"--format {name}: {READINGS[name](row)}" for name in formats),
        do=f"pass {' or '.join(f'--format {name}' for name in formats)}",
    )


def _by_strength(lines: list[str], path: Path) -> list[str]:
    """The separators that make a table of the lines, the likeliest first."""
    rows = {mark: cut_lines(lines, mark, path) for mark in text.SEPARATORS}
    naming = [mark for mark in rows if names_a_pair(text.split_line(lines[0].replace('"', ""), mark))]
    even = [mark for mark in rows if _width(rows[mark]) is not None]
    unsure = [mark for mark in even if mark in WEAK]
    if not naming and len(unsure) > 1 and even[0] in WEAK:
        raise DataError(
            f"it is not clear what separates the fields: {' and '.join(unsure)} both cut every line alike",
            where=path,
            got=lines[0][:80],
            do=f'pass --separator "{unsure[0]}" or --separator "{unsure[1]}"',
        )
    repeated = [mark for mark in rows if len({row[0] for row in rows[mark]}) < len(rows[mark])]
    nearly = [mark for mark in repeated if mark != " " and _width(rows[mark], nearly=True) is not None]
    strong = [mark for mark in even if mark != " "]
    return list(dict.fromkeys([*naming, *strong, *nearly, *even]))


def _width(rows: list[list[str]], nearly: bool = False) -> int | None:
    """The number of fields, two or more, that all rows have; with ``nearly`` three or more that nearly all have."""
    (width, count), *others = Counter(map(len, rows)).most_common()
    if others:
        return width if nearly and width > 2 and len(rows) >= ENOUGH and count >= NEARLY * len(rows) else None
    return width if width > 1 else None


def _kind(column: Sequence[str]) -> str:
    if are_times(column):
        return "time"
    if all(map(text.is_number, column)):
        return "fraction" if any("." in value for value in column) else "integer"
    return "text"


def _few_values(columns: list[tuple[str, ...]]) -> bool:
    """Whether a column has few different values beside one that has many: ratings, not items."""
    counts = [len(set(column)) for column in columns]
    return len(columns[0]) >= 2 * FEW_VALUES and min(counts) <= FEW_VALUES < max(counts) / 2


def _asked_for_a_table(options: IngestOptions) -> bool:
    names = (options.query_col, options.item_col, options.weight_col, options.time_col)
    return any(names) or options.header is not None or options.separator is not None


def _magic(path: Path) -> str | None:
    with text.readable(path), path.open("rb") as file:
        return MAGIC.get(file.read(4))


def _listed(values: Sequence[str]) -> str:
    return ", ".join(values[:4]) + (", …" if len(values) > 4 else "")
