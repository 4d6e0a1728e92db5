"""Text → sparse features: words and characters in sequences, counted, weighted by how rare they are in train."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from pydantic import Field, model_validator

from xclass.config import Config, Positive, build_config
from xclass.data.features import Sparse, joined
from xclass.errors import ArtefactError, DataError
from xclass.io.records import Count, Record, read_record

FILE = "vectoriser.json"
WORDS = r"\w+"
LONGEST_WORD = 40
GRAMS_IN_MEMORY = 1 << 23
TEXTS_PER_BLOCK = 4096
BYTES_PER_SLICE = 1 << 22


class TextOptions(Config):
    """How text becomes features; stored with the dataset."""

    word_ngrams: int = Field(default=1, ge=0, le=5)
    """Sequences of 1 … n words, joined by a blank. 0: no words."""
    char_ngrams: int = Field(default=0, ge=0, le=8)
    """Sequences of exactly n characters within a word between two blanks; shorter words as they are. 0: none."""
    hash_bits: int = Field(default=0, ge=0, le=26)
    """b: a feature's number is a hash of b bits, and no vocabulary is kept. 0: a vocabulary."""
    max_features: Positive = 1 << 18
    """The vocabulary keeps the sequences that are in most train documents, so many at most."""
    min_documents: Positive = 2
    """The vocabulary keeps what is in at least so many train documents."""
    weighting: Literal["log-tf-idf", "tf-idf", "count", "binary"] = "log-tf-idf"
    """tf-idf: tf · (ln((1 + n) / (1 + df)) + 1), each text to length 1; log-tf-idf: with 1 + ln tf for tf; count: tf;
    binary: 1. tf: times in the text; df: train documents that have it; n: train documents."""

    @model_validator(mode="after")
    def _something_is_counted(self) -> TextOptions:
        if not self.word_ngrams and not self.char_ngrams:
            raise ValueError("word_ngrams and char_ngrams are both 0: nothing is left of a text")
        return self


class VectoriserRecord(Record):
    """What vectoriser.json holds; its options are checked as :class:`TextOptions`."""

    documents: Count
    options: dict[str, Any]


class Vectoriser:
    """Turns texts into sparse features, the same way for every text, whenever it comes.

    Args:
        options: what is counted and how it is weighted.
        documents: number of texts that it was fitted on.
        counts: int64 (V,), how many of them have each feature.
        grams: String series (V,), the features' names; None where numbers are hashes.

    A text is lower-cased (Unicode) and cut into words: runs of letters, digits, marks and underscores.
    """

    def __init__(self, options: TextOptions, documents: int, counts: np.ndarray, grams: pl.Series | None) -> None:
        self.options, self.documents, self.counts, self.grams = options, documents, counts, grams
        self.idf = (np.log((1.0 + documents) / (1.0 + counts)) + 1.0).astype(np.float32)
        if grams is not None:
            self._numbers = pl.DataFrame({"gram": grams, "number": np.arange(len(grams), dtype=np.int64)})

    @property
    def size(self) -> int:
        """Number of different features, V."""
        return len(self.counts)

    @classmethod
    def fit(cls, texts: Iterable[pl.Series], options: TextOptions) -> Vectoriser:
        """Count in how many texts each sequence is, block by block, and choose the vocabulary.

        Memory: 2^hash_bits counts; or the sequences met so far, of which the rarest are let go when there are more
        than eight million (their counts are then too low by what was let go, as in lossy counting).
        """
        if options.hash_bits:
            counts, documents = np.zeros(1 << options.hash_bits, dtype=np.int64), 0
            for block in _slices(texts):
                found = _counted(block, options)
                pairs = pl.DataFrame(
                    {"row": found["row"], "number": _hashes(found["gram"], options.hash_bits)}
                ).unique()
                counts += np.bincount(pairs["number"].to_numpy(), minlength=len(counts))
                documents += len(block)
            return cls(options, documents, counts, None)
        table, documents = _Counter(), 0
        for block in _slices(texts):
            table.add(_counted(block, options)["gram"])
            documents += len(block)
        chosen = table.best(options.min_documents, options.max_features)
        return cls(options, documents, chosen["count"].to_numpy().astype(np.int64), chosen["gram"])

    def transform(self, texts: pl.Series) -> Sparse:
        """The features of these texts, rising within each; what the vocabulary lacks is left out."""
        return joined(self._transform(part) for part in _slices([texts]))

    def _transform(self, texts: pl.Series) -> Sparse:
        found = _counted(texts, self.options)
        if self.grams is None:
            found = found.with_columns(number=_hashes(found["gram"], self.options.hash_bits))
            found = found.group_by("row", "number").agg(pl.col("times").sum())
        else:
            found = found.join(self._numbers, on="gram", how="inner")
        found = found.sort("row", "number")
        rows, numbers = found["row"].to_numpy().astype(np.int64), found["number"].to_numpy().astype(np.int64)
        lengths = np.bincount(rows, minlength=len(texts))
        return Sparse(lengths, numbers, self._weights(rows, numbers, found["times"].to_numpy(), len(texts)))

    def blocks(self, texts: pl.Series) -> Iterator[Sparse]:
        """The features of many texts, some thousand at a time."""
        for start in range(0, len(texts), TEXTS_PER_BLOCK):
            yield self.transform(texts.slice(start, TEXTS_PER_BLOCK))

    def _weights(self, rows: np.ndarray, numbers: np.ndarray, times: np.ndarray, size: int) -> np.ndarray:
        kind = self.options.weighting
        if kind in ("count", "binary"):
            return times.astype(np.float32) if kind == "count" else np.ones(len(times), dtype=np.float32)
        tf = times.astype(np.float64) if kind == "tf-idf" else 1.0 + np.log(times.astype(np.float64))
        weights = tf * self.idf[numbers]
        norms = np.sqrt(np.bincount(rows, weights=weights * weights, minlength=size))
        return (weights / norms[rows]).astype(np.float32)

    def vocabulary(self) -> pl.DataFrame:
        """feature, count, idf: a row per feature number."""
        names = np.arange(self.size) if self.grams is None else self.grams
        return pl.DataFrame({"feature": names, "count": self.counts, "idf": self.idf})

    def save(self, folder: Path) -> None:
        """Write what :meth:`load` needs besides ``vocabulary.parquet``."""
        found = {"documents": self.documents, "options": self.options.model_dump()}
        (folder / FILE).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, file: Path, vocabulary: pl.DataFrame) -> Vectoriser:
        """What :meth:`save` wrote to ``file``, and the vocabulary that was stored beside it."""
        found = read_record(file, VectoriserRecord)
        options = build_config(TextOptions, found.options, where=file)
        if options.hash_bits and len(vocabulary) != 1 << options.hash_bits:
            raise ArtefactError("the vocabulary is not that of this vectoriser", where=file)
        return cls(
            options,
            found.documents,
            vocabulary["count"].to_numpy(),
            None if options.hash_bits else vocabulary["feature"].cast(pl.String),
        )


class _Counter:
    """In how many texts each sequence is."""

    def __init__(self) -> None:
        self._table = pl.DataFrame(schema={"gram": pl.String, "count": pl.Int64})
        self._waiting: list[pl.DataFrame] = []
        self._rows = 0

    def add(self, grams: pl.Series) -> None:
        """Sequences of some texts, each once a text."""
        self._waiting.append(grams.to_frame("gram").group_by("gram").agg(pl.len().cast(pl.Int64).alias("count")))
        self._rows += len(self._waiting[-1])
        if self._rows > max(GRAMS_IN_MEMORY // 4, len(self._table)):
            self._join()

    def best(self, least: int, most: int) -> pl.DataFrame:
        """The sequences in at least ``least`` texts, most texts first, then by their bytes; at most ``most``."""
        self._join()
        found = (
            self._table.filter(pl.col("count") >= least).sort(["count", "gram"], descending=[True, False]).head(most)
        )
        if not len(found):
            raise DataError(
                "no word is left for the vocabulary",
                wanted=f"words in at least {least} train documents",
                do="lower --min-documents, or check the text column",
            )
        return found

    def _join(self) -> None:
        self._table = pl.concat([self._table, *self._waiting]).group_by("gram").agg(pl.col("count").sum())
        self._waiting, self._rows, least = [], 0, 1
        while len(self._table) > GRAMS_IN_MEMORY:
            self._table, least = self._table.filter(pl.col("count") > least), least + 1


def _slices(blocks: Iterable[pl.Series]) -> Iterator[pl.Series]:
    """The same texts, some megabytes at a time."""
    for texts in blocks:
        ends = np.cumsum(texts.str.len_bytes().fill_null(0).to_numpy().astype(np.int64))
        start = 0
        while start < len(texts):
            before = int(ends[start - 1]) if start else 0
            stop = max(int(np.searchsorted(ends, before + BYTES_PER_SLICE, side="right")), start + 1)
            yield texts.slice(start, stop - start)
            start = stop


def _counted(texts: pl.Series, options: TextOptions) -> pl.DataFrame:
    """row, gram, times: every sequence of every text."""
    words = pl.DataFrame({"row": np.arange(len(texts), dtype=np.int64), "gram": texts.fill_null("").str.to_lowercase()})
    words = words.with_columns(pl.col("gram").str.extract_all(WORDS)).explode("gram", empty_as_null=False)
    parts = [frame for n in range(1, options.word_ngrams + 1) for frame in [_sequences(words, n)]]
    if options.char_ngrams:
        parts += _characters(words, options.char_ngrams)
    return pl.concat(parts).group_by("row", "gram").agg(times=pl.len())


def _sequences(words: pl.DataFrame, n: int) -> pl.DataFrame:
    """N words in a row, of one text."""
    if n == 1:
        return words
    columns = [pl.col("gram").shift(-place) for place in range(n)]
    frame = words.select(
        pl.col("row"), pl.concat_str(columns, separator=" ").alias("gram"), pl.col("row").shift(1 - n).alias("last")
    )
    return frame.filter(pl.col("row") == pl.col("last")).select("row", "gram")


def _characters(words: pl.DataFrame, n: int) -> list[pl.DataFrame]:
    """N characters in a row, of a word between two blanks; a shorter one whole."""
    padded = words.select(
        "row", gram=pl.concat_str(pl.lit(" "), pl.col("gram").str.slice(0, LONGEST_WORD), pl.lit(" "))
    )
    length = pl.col("gram").str.len_chars()
    longest = padded.select(length.max()).item() or 0
    pieces = (
        padded.filter(length >= start + n).with_columns(pl.col("gram").str.slice(start, n))
        for start in range(max(longest - n + 1, 0))
    )
    return [padded.filter(length < n), *pieces]


def _hashes(grams: pl.Series, bits: int) -> pl.Series:
    """int64 numbers below 2^bits: CRC-32 of the UTF-8 bytes, mixed; the same on every machine and in every version."""
    distinct = grams.unique()
    codes = np.fromiter((zlib.crc32(gram.encode()) for gram in distinct), dtype=np.uint64, count=len(distinct))
    mixed = (codes * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - bits)
    return grams.replace_strict(distinct, pl.Series(mixed.astype(np.int64)), return_dtype=pl.Int64)
