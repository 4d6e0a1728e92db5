"""Which files make up a source, and which part of a split each belongs to."""

from __future__ import annotations

import re
from pathlib import Path

from xclass.errors import DataError
from xclass.ingest.text.lines import check_regular, plain_name

PARTS = ("train", "valid", "test")
PART_NAMES = {"train": "train", "valid": "valid", "validation": "valid", "val": "valid", "dev": "valid", "test": "test"}
WHOLE = "all"
DESCRIPTION = re.compile(r"(readme|licen[sc]e|copying|changelog)\b|.*\.(md|rst|pdf|html)$", re.IGNORECASE)


def find_parts(source: Path) -> dict[str, list[Path]]:
    """The files of each part: ``{"all": […]}`` for one table, ``{"train": […], "test": […]}`` for a given split.

    A directory is a given split when it holds ``train.*`` and ``test.*`` (``valid.*`` if there is one; RecBole's
    ``name.train.inter`` too) or the folders ``train/`` and ``test/`` of part files. Any other directory is one table in
    part files, read in the order of their names. Hidden files and ``_SUCCESS`` markers are passed over, READMEs and
    licences too, and beside RecBole's ``name.inter`` all that has another ending. The folders ``split=train/`` and
    ``split=test/``, as Spark writes them, are a given split, too.

    Raises:
        DataError: there is no such source, nothing in it, a pipe or a device, or a test part without a train part.
    """
    parts = _find_parts(source)
    for path in (path for paths in parts.values() for path in paths):
        check_regular(path)
    return parts


def _find_parts(source: Path) -> dict[str, list[Path]]:
    if not source.exists():
        raise DataError("there is no such file or directory", where=source, do="check the path")
    if not source.is_dir():
        return {WHOLE: [source]}
    parts: dict[str, list[Path]] = {}
    for entry in _visible(source):
        name = part_name(entry)
        if name is not None:
            _add_part(parts, name, entry, source)
    if parts:
        return _checked(parts, source)
    files = _tables(_files_below(source))
    if not files:
        raise DataError(
            "there are no files in this directory", where=source, wanted="train.* and test.*, or data files"
        )
    return {WHOLE: files}


def files_not_read(source: Path) -> list[str]:
    """What lies in a directory, not hidden, beside the files that are read: paths below it."""
    if not source.is_dir():
        return []
    read = {path for paths in _find_parts(source).values() for path in paths}
    return [path.relative_to(source).as_posix() for path in _files_below(source) if path not in read]


def _tables(files: list[Path]) -> list[Path]:
    """The files that may hold pairs: of RecBole's the interactions only; no descriptions."""
    interactions = [path for path in files if plain_name(path).endswith(".inter")]
    return interactions or [path for path in files if not DESCRIPTION.match(path.name)]


def part_name(path: Path) -> str | None:
    """The part that a file or folder name stands for, or None.

    >>> part_name(Path("train.csv")), part_name(Path("ml-1m.valid.inter")), part_name(Path("train_extra.csv"))
    ('train', 'valid', None)
    """
    stems = plain_name(path).removeprefix("split=").split(".")
    if len(stems) == 1:
        return PART_NAMES.get(stems[0])
    return PART_NAMES.get(stems[0]) if len(stems) == 2 else PART_NAMES.get(stems[-2])


def _add_part(parts: dict[str, list[Path]], name: str, entry: Path, source: Path) -> None:
    if name in parts:
        raise DataError(
            f"there are two {name} parts", where=source, got=f"{parts[name][0].name} and {entry.name}", do="leave one"
        )
    parts[name] = _files_below(entry) if entry.is_dir() else [entry]
    if not parts[name]:
        raise DataError(f"the {name} part is an empty directory", where=entry)


def _checked(parts: dict[str, list[Path]], source: Path) -> dict[str, list[Path]]:
    if "train" not in parts:
        raise DataError(
            f"there is a {next(iter(parts))} part but no train part",
            where=source,
            wanted="train.* beside it",
            got=", ".join(entry.name for entry in _visible(source)),
            do="name the training file train.*, or give one file as the source and let --split cut it",
        )
    return {name: parts[name] for name in PARTS if name in parts}


def _visible(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not _is_hidden(entry.name))


def _is_hidden(name: str) -> bool:
    """Marks of Spark and Hadoop, checksums, files half-written; ``_day=7`` is a folder of data."""
    return name.startswith(".") or (name.startswith("_") and "=" not in name)


def _files_below(folder: Path) -> list[Path]:
    files = []
    for entry in _visible(folder):
        files += _files_below(entry) if entry.is_dir() else [entry]
    return files
