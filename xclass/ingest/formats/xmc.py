"""Extreme-classification text: a header ``N D L``, then a document a line: ``label,label feature:value …``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from xclass.errors import DataError
from xclass.ingest.formats.document_blocks import MOST_NUMBERS, Documents, Layout
from xclass.ingest.formats.document_lines import NUMBER, line_blocks, line_error, parse_lines
from xclass.ingest.options import IngestOptions
from xclass.ingest.text import lines
from xclass.runtime.progress import say


class Xmc:
    """The text of the extreme classification repository.

    A line may begin with a blank: no labels. It may end after the labels: no features. A blank line is a document with
    neither and counts as one; blank lines after the last document are passed over. Values may be negative or 0. A
    feature that comes again in a document adds up, a label that comes again counts once.
    """

    def layout(self, path: Path, options: IngestOptions) -> Layout:
        """The three numbers of the first line."""
        first = lines.head(path)[0]
        fields = first.split()
        if len(fields) != 3 or not all(NUMBER.fullmatch(field) for field in fields):
            raise DataError(
                "the first line is not a header",
                where=f"{path}, line 1",
                wanted="three numbers: documents, features, labels",
                got=first[:80],
                do='write the header, for example "4880 1836 159"',
            )
        documents, features, labels = map(int, fields)
        if max(features, labels) > MOST_NUMBERS or documents < 1:
            raise DataError(
                "the header's numbers can't be right",
                where=f"{path}, line 1",
                wanted=f"at least one document, and at most {MOST_NUMBERS:,} features and labels",
                got=first[:80],
            )
        return Layout(documents, features, labels)

    def read(self, path: Path, layout: Layout) -> Iterator[Documents]:
        """Polars takes the lines apart; the first thing that looks wrong starts the search for its line."""
        left, header = layout.documents, 1
        assert left is not None
        for block in line_blocks(path):
            found, header = block[header:], 0
            if len(found) > left and (found[left:].str.strip_chars() == "").all():
                found = found[:left]
            documents = None if len(found) > left else parse_lines(found, layout)
            if documents is None:
                raise _diagnosed(path, layout)
            left -= len(documents)
            if len(documents):
                yield documents
        if left:
            raise _diagnosed(path, layout)


def _diagnosed(path: Path, layout: Layout) -> DataError:
    """The error of the first line that is wrong."""
    say(f"{path}: something looks wrong, checking every line")
    wanted = layout.documents
    assert wanted is not None
    count = 0
    for number, line in lines.numbered_lines(path):
        if number == 1:
            continue
        count = count + 1 if count < wanted or line.strip() else count
        if count > wanted:
            return _miscounted(path, f"line {number:,}", wanted, f"one more: {line[:60]!r}")
        where = f"{path}, line {number:,}"
        error = line_error(line, layout, where)
        if error is not None:
            return error
    if count < wanted:
        return _miscounted(path, "end of file", wanted, f"{count:,}")
    return DataError("this file can't be read", where=path, do="check that it is whole")


def _miscounted(path: Path, place: str, wanted: int, got: str) -> DataError:
    return DataError(
        "the header's number of documents is not the file's",
        where=f"{path}, {place}",
        wanted=f"{wanted:,} documents, as line 1 says",
        got=got,
        do="check that the file is whole, or mend its first line",
    )
