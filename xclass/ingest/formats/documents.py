"""The formats of documents with labels and sparse features, by name."""

from __future__ import annotations

from pathlib import Path

from xclass.ingest.formats.document_blocks import DocumentFormat
from xclass.ingest.formats.document_lines import NUMBER
from xclass.ingest.formats.npz import Npz
from xclass.ingest.formats.svmlight import Svmlight
from xclass.ingest.formats.xmc import Xmc
from xclass.ingest.text import lines as text

DOCUMENT_FORMATS: dict[str, DocumentFormat] = {
    "xmc": Xmc(),
    "svmlight": Svmlight(),
    "npz": Npz(),
}

SUFFIXES = {".svm": "svmlight", ".svmlight": "svmlight", ".libsvm": "svmlight", ".npz": "npz"}


def format_of_file(path: Path) -> str | None:
    """The name of the format when the file holds documents, None when it seems to hold pairs."""
    suffix = Path(text.plain_name(path)).suffix.lower()
    if suffix in SUFFIXES:
        return SUFFIXES[suffix]
    return "xmc" if suffix in (".txt", ".xmc", ".dat", "") and _looks_like_xmc(path) else None


def _looks_like_xmc(path: Path) -> bool:
    """Whether the first line has three numbers and one of the next has a feature with its value."""
    lines = text.head(path)[:20]
    fields = lines[0].split()
    if len(fields) != 3 or not all(NUMBER.fullmatch(field) for field in fields):
        return False
    return any(":" in field.lstrip(":") for line in lines[1:] for field in line.split()[:2])
