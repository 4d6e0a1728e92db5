"""The texts of labels, and the names of features, that lie beside files of documents."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from xclass.data.ids import EXAMPLES, none_known
from xclass.errors import DataError
from xclass.ingest.documents.sources import DocumentSource
from xclass.ingest.formats.text import read_rows, text_columns
from xclass.ingest.options import IngestOptions
from xclass.ingest.text import lines
from xclass.runtime.progress import say

ITEM_FILES = (
    "lbl.json",
    "lbl.json.gz",
    "lbl.json.zst",
    "items.jsonl",
    "items.parquet",
    "labels.jsonl",
    "labels.parquet",
)


@dataclass(frozen=True, slots=True)
class LabelTexts:
    """Texts of labels. ids: of the labels, None where a text's number is its label's. texts: None if there are none.
    path: of the file. by_row: the ids are the rows of this file, from 0, so that there can be no others."""

    ids: pl.Series | None = None
    texts: pl.Series | None = None
    path: Path | None = None
    by_row: bool = False

    @classmethod
    def find(cls, source: DocumentSource, options: IngestOptions) -> LabelTexts:
        """What ``label_names.txt`` says, of numbered labels; of raw text the file that is named, or a usual one.

        A file of label texts is JSON lines or Parquet with a text column and an id. Where the documents' labels are
        integers and the file's ids are not, a label's number is its row, from 0.
        """
        if source.form == "svmlight":
            return cls()
        if source.form != "text":
            return cls(None, read_names(source.folder, "label", None))
        named = Path(options.item_text) if options.item_text else None
        usual = (source.folder / name for name in ITEM_FILES)
        path = named or next((path for path in usual if source.place.is_dir() and path.is_file()), None)
        if path is None:
            return cls()
        if not path.is_file():
            raise DataError("there is no such file", where=path, do="check --item-text")
        whole = text_columns(next(iter(source.parts.values()))[0], options).labels_whole
        return _label_file(path, whole)

    def titles(self, item_ids: pl.Series, seen: np.ndarray) -> pl.Series | None:
        """The text of each of these labels, null for one without; None when there are no texts.

        Raises:
            DataError: not one of the labels ``seen``, rows of ``item_ids``, has a text.
        """
        if self.texts is None:
            return None
        if self.ids is None:
            if len(self.texts) != len(item_ids):
                raise DataError(
                    "the file of label names does not name every label",
                    wanted=f"{len(item_ids):,} lines, one for each label",
                    got=f"{len(self.texts):,}",
                    do="mend it, or take it out of the directory",
                )
            return self.texts
        table = pl.DataFrame({"id": self.ids.cast(item_ids.dtype), "title": self.texts})
        titles = item_ids.to_frame("id").join(table, on="id", how="left", maintain_order="left")["title"]
        self._check_found(titles.gather(seen), item_ids.gather(seen))
        return titles

    def _check_found(self, titles: pl.Series, labels: pl.Series) -> None:
        """DataError where not one of the labels has a text; a note where some have none."""
        missing = labels.filter(titles.is_null())
        if self.ids is not None and len(missing) == len(labels):
            given, known = ([str(each) for each in ids.head(EXAMPLES)] for ids in (self.ids, labels))
            do = "give the texts of these labels, or take the file away"
            raise none_known("label", given, known, self.path, "in the documents", do)
        if len(missing):
            say(f"{self.path}: {len(missing):,} of {len(labels):,} labels have no text, such as {missing[0]}")


def read_names(folder: Path, what: str, size: int | None) -> pl.Series | None:
    """Line n of ``<what>_names.txt`` (or .gz, .zst) is the name of number n, from 0; None when there is no such file.

    Raises:
        DataError: another number of lines than ``size``.
    """
    paths = [folder / f"{what}_names.txt{ending}" for ending in ("", *lines.OPENERS)]
    path = next((path for path in paths if path.exists()), None)
    if path is None:
        return None
    names = [line for _, line in lines.numbered_lines(path)]
    if size is not None and len(names) != size:
        raise DataError(
            f"this file does not name every {what}",
            where=path,
            wanted=f"{size:,} lines, one for each {what}",
            got=f"{len(names):,}",
            do="mend it, or take it out of the directory",
        )
    return pl.Series(names, dtype=pl.String)


def _label_file(path: Path, whole: bool) -> LabelTexts:
    columns = text_columns(path, IngestOptions(), with_labels=False)
    by_row = whole and not columns.ids_whole
    if columns.id is None and not by_row:
        raise DataError("the labels of this file have no ids", where=path, wanted="a column id")
    blocks = list(read_rows(path, columns, ["text"] if by_row else ["text", "id"]))
    table = pl.concat(blocks)
    ids = pl.Series("id", np.arange(len(table))).cast(pl.String) if by_row else table["id"]
    if ids.n_unique() != len(ids):
        twice = ids.filter(ids.is_duplicated())[0]
        raise DataError("two labels of this file have the same id", where=path, got=twice)
    return LabelTexts(ids, table["text"], path, by_row)
