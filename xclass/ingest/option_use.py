"""Which options each kind of source reads. One that a source does not read is refused, never ignored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from xclass.errors import ConfigError
from xclass.ingest.options import IngestOptions
from xclass.ingest.reading.reader import File

SHARED = {
    "format", "split", "test_fraction", "valid_fraction", "seed", "memory", "propensity_a", "propensity_b",
}  # fmt: skip
PAIRS = SHARED | {"min_query_count", "min_item_count"}
TABLE = PAIRS | {"query_col", "item_col", "weight_col", "time_col", "min_weight"}
DOCUMENTS = SHARED | {"split_number"}
PLANTED = {"split", "test_fraction", "valid_fraction", "seed"}
READS = {
    "csv": TABLE | {"header", "separator"},
    "inter": TABLE | {"separator"},
    "jsonl": TABLE,
    "parquet": TABLE,
    "adjacency": PAIRS,
    "sequences": PAIRS,
    "xmc": DOCUMENTS,
    "svmlight": DOCUMENTS,
    "npz": DOCUMENTS,
    "documents with text": DOCUMENTS | {"query_col", "item_col", "text_col", "item_text", "text"},
    "plain text": SHARED | {"vocabulary", "context", "borders", "min_item_count"},
    "planted data": PLANTED,
    "planted documents": PLANTED,
    "planted text": PLANTED | {"context"},
}
"""Kind of source → the fields of :class:`IngestOptions` that it reads."""
FLAGS = {"header": "--header/--no-header", "propensity_a": "--propensity", "propensity_b": "--propensity"}


def check_use(options: IngestOptions, kind: str, where: object) -> None:
    """Refuse an option that was given and that sources of this kind do not read. A default value is no fault.

    Raises:
        ConfigError: names the option, the kind of source, and the kinds that read it.
    """
    default = IngestOptions()
    for name in type(options).model_fields:
        value = getattr(options, name)
        if name in READS[kind] or name not in options.model_fields_set or value in (None, "", ()):
            continue
        if value == getattr(default, name):
            continue
        flags = _text_flags(options) if name == "text" else FLAGS.get(name, flag_of(name))
        readers = ", ".join(each for each, fields in READS.items() if name in fields)
        raise ConfigError(
            "this option has no effect on this source",
            where=f"{where}, {flags}",
            wanted=f"one of: {readers}",
            got=kind,
            do=f"leave {flags} out, or say what the source is: --format NAME",
        )


def check_files(files: Sequence[File], options: IngestOptions, source: Path | str) -> None:
    """:func:`check_use` of files with pairs.

    Raises:
        ConfigError: names the option.
    """
    for name in sorted({file.format for file in files}):
        check_use(options, name, source)
    columns = files[0].columns
    if options.min_weight is not None and columns.weight is None:
        raise ConfigError(
            "a minimum weight needs weights",
            where=f"{source}, --min-weight",
            wanted="a column of ratings or weights",
            got=f"columns {', '.join(columns.names)}",
            do="name it: --weight-col NAME",
        )


def check_shares(options: IngestOptions, split: str, where: object) -> None:
    """Refuse ``--test-fraction`` where the split does not divide by shares.

    Raises:
        ConfigError: names the split.
    """
    if split in ("given", "leave-last") and "test_fraction" in options.model_fields_set and options.test_fraction:
        raise ConfigError(
            "this option has no effect with this split",
            where=f"{where}, --test-fraction",
            wanted="--split random or time",
            got=f"{options.test_fraction} with the split {split}",
            do="leave --test-fraction out, or choose another --split",
        )


def flag_of(name: str) -> str:
    """The option of the command line for a field.

    >>> flag_of("min_weight")
    '--min-weight'
    """
    return "--" + name.replace("_", "-")


def _text_flags(options: IngestOptions) -> str:
    return " ".join(map(flag_of, sorted(options.text.model_fields_set))) or "--weighting"
