"""svmlight and libsvm text: a document a line, ``label,label feature:value … # comment``; no header."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from xclass.errors import DataError
from xclass.ingest.formats.document_blocks import Documents, Layout
from xclass.ingest.formats.document_lines import line_blocks, line_error, parse_lines
from xclass.ingest.options import IngestOptions
from xclass.ingest.text import lines as text
from xclass.runtime.progress import say

COMMENT = "#.*$"
QUERY = r"(^| )qid:[^ ]*"


class Svmlight:
    """Labels are ids: numbers or any text without a comma or a blank. Features keep their numbers, from 0 or from 1.

    Blank lines, comments and ``qid:…`` are passed over. A line may begin with a blank: no labels. There are as many
    features as the largest number says. What comes again in a document is treated as in the format xmc.
    """

    def layout(self, path: Path, options: IngestOptions) -> Layout:
        """Nothing is known before reading; a file that is empty or not text is an error."""
        text.head(path)
        return Layout()

    def read(self, path: Path, layout: Layout) -> Iterator[Documents]:
        """Polars takes the lines apart; the first thing that looks wrong starts the search for its line."""
        for block in line_blocks(path):
            lines = block.str.replace_all("\t", " ", literal=True).str.replace(COMMENT, "")
            lines = lines.str.replace_all(QUERY, "")
            lines = lines.filter(lines.str.strip_chars(" \r") != "")
            documents = parse_lines(lines, layout, numbered=False)
            if documents is None:
                raise _diagnosed(path, layout)
            if len(documents):
                yield documents


def _diagnosed(path: Path, layout: Layout) -> DataError:
    """The error of the first line that is wrong."""
    say(f"{path}: something looks wrong, checking every line")
    for number, line in text.numbered_lines(path):
        plain = " ".join(field for field in line.partition("#")[0].split(" ") if not field.startswith("qid:"))
        error = line_error(plain, layout, f"{path}, line {number:,}", numbered=False)
        if error is not None:
            return error
    return DataError("this file can't be read", where=path, do="check that it is whole")
