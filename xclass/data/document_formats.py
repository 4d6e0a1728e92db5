"""The formats of documents with labels and sparse features, by name."""

from __future__ import annotations

from pathlib import Path

from xclass.data import text
from xclass.data.document_blocks import DocumentFormat
from xclass.data.format_xmc import NUMBER, Xmc
from xclass.data.options import IngestOptions

DOCUMENT_FORMATS: dict[str, DocumentFormat] = {
    "xmc": Xmc(),
}


def document_format(options: IngestOptions, parts: dict[str, list[Path]]) -> str | None:
    """The name of the format when the source holds documents, None when it holds pairs."""
    if options.format != "auto":
        return options.format if options.format in DOCUMENT_FORMATS else None
    first = next(iter(parts.values()))[0]
    return "xmc" if looks_like_xmc(first) else None


def looks_like_xmc(path: Path) -> bool:
    """Whether the first line has three numbers and one of the next has a feature with its value."""
    if Path(path.name.removesuffix(".gz")).suffix.lower() not in (".txt", ".xmc", ".dat", ".svm", ""):
        return False
    lines = text.head(path)[:20]
    fields = lines[0].split()
    if len(fields) != 3 or not all(NUMBER.fullmatch(field) for field in fields):
        return False
    return any(":" in field.lstrip(":") for line in lines[1:] for field in line.split()[:2])
