"""Names of labels and features that lie beside a file of documents: ``label_names.txt``, ``feature_names.txt``."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from xclass.data import text
from xclass.errors import DataError


def read_names(folder: Path, what: str, size: int | None) -> pl.Series | None:
    """Line n of ``<what>_names.txt[.gz]`` is the name of number n, from 0; None when there is no such file.

    Raises:
        DataError: another number of lines than ``size``.
    """
    path = next(
        (path for path in (folder / f"{what}_names.txt", folder / f"{what}_names.txt.gz") if path.exists()), None
    )
    if path is None:
        return None
    names = [line for _, line in text.numbered_lines(path)]
    if size is not None and len(names) != size:
        raise DataError(
            f"this file does not name every {what}",
            where=path,
            wanted=f"{size:,} lines, one for each {what}",
            got=f"{len(names):,}",
            do="mend it, or take it out of the directory",
        )
    return pl.Series(names, dtype=pl.String)
