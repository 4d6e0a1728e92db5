"""Plain text, a sentence a line → positions with the words before them as history and the word there as next item.

Two passes over the files: words are counted in the first and numbered in the second. Words are what blanks separate,
taken as they stand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import compress, repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from xclass.data.dataset import Dataset
from xclass.data.windows import SequenceFacts
from xclass.errors import ConfigError, DataError
from xclass.ingest.formats.text import holds_text
from xclass.ingest.option_use import check_shares, check_use
from xclass.ingest.options import IngestOptions
from xclass.ingest.sources import PARTS, WHOLE, find_parts
from xclass.ingest.text import lines as text
from xclass.ingest.writing.sequences import SequenceJob, write_sequences
from xclass.runtime.progress import Progress
from xclass.runtime.rng import numpy_generator

UNKNOWN, BORDER = b"<unk>", b"</s>"
DEFAULT_CONTEXT = 4
LEAST_COUNT = 2
SPLITS = {True: ("auto", "given"), False: ("auto", "random")}


class Corpus(NamedTuple):
    """The files of each part, and where they were named."""

    parts: dict[str, list[Path]]
    place: Path

    @property
    def given(self) -> bool:
        """Whether the source says which lines are train and test."""
        return WHOLE not in self.parts


class Words(NamedTuple):
    """What the first pass found. train: word → how often; lines, positions: of each part; borders: in train, all."""

    train: Counter[bytes]
    lines: dict[str, int]
    positions: dict[str, int]
    borders: int = 0


def find_corpus(source: Path, options: IngestOptions) -> Corpus | None:
    """The plain text of a source, None when it holds something else. It is plain text when the format "text" is asked
    for and the files are neither JSON lines nor Parquet, which hold documents.
    """
    if options.format == "text":
        parts = find_parts(source)
        if not holds_text(next(iter(parts.values()))[0]):
            return Corpus(parts, source)
    return None


def ingest_corpus(corpus: Corpus, out: Path, options: IngestOptions) -> Dataset:
    """Read the text and write the dataset directory ``out``.

    The vocabulary is the most frequent words of train (equal counts: by their bytes), the unknown word ``<unk>``, which
    takes the place of every other word of every part, and, where borders are items, the sentence's end ``</s>``. These
    two may stand in the files, too. Blank lines are passed over. One file is divided by lines at random.

    Memory: the distinct words of train, and blocks of 8 MiB of text.

    Raises:
        DataError: not UTF-8, or train has no word. ConfigError: an option that is not for text.
    """
    _check(corpus, options)
    words = _count(corpus, options)
    if not words.train:
        raise DataError("the train part of this text has no word", where=corpus.place)
    kept = _vocabulary(words, options)
    counts = {word: words.train[word] for word in kept}
    borders = options.borders or "stop"
    if borders != "ignore":
        counts[BORDER] = words.borders
    counts[UNKNOWN] = words.positions["train"] - sum(counts.values())
    order = sorted(counts, key=lambda word: (-counts[word], word))
    number = {word: place for place, word in enumerate(order)}
    ids = pl.Series("item_id", [word.decode() for word in order], dtype=pl.String)
    items = pl.DataFrame({"item_id": ids, "train_count": [counts[word] for word in order]})
    facts = SequenceFacts(options.context or DEFAULT_CONTEXT, borders, number.get(BORDER), number[UNKNOWN])
    unknown = dict.fromkeys(words.positions, 0)
    report = _report(corpus, words, facts, unknown)
    told = options.model_dump(mode="json")
    fields = {"split": "given" if corpus.given else "random", "options": told, "report": report}
    job = SequenceJob(items, words.positions, facts, fields)
    return write_sequences(job, _numbered(corpus, options, number, unknown), out)


def _check(corpus: Corpus, options: IngestOptions) -> None:
    check_use(options, "plain text", corpus.place)
    check_shares(options, "given" if corpus.given else "random", corpus.place)
    allowed = SPLITS[corpus.given]
    if options.split not in allowed:
        what = "is divided already" if corpus.given else "has no times and no given split"
        raise ConfigError(f"this text {what}", where="--split", wanted=" or ".join(allowed), got=options.split)
    if "valid" in corpus.parts and options.valid_fraction:
        raise ConfigError("this directory has a valid part already", where="--valid-fraction", do="leave it out")


def _count(corpus: Corpus, options: IngestOptions) -> Words:
    found = Words(Counter(), {}, {})
    ends = (options.borders or "stop") != "ignore"
    with Progress("count words", None, "words") as progress:
        for part, lines in _lines(corpus, options):
            words = b" ".join(lines).split()
            found.lines[part] = found.lines.get(part, 0) + len(lines)
            found.positions[part] = found.positions.get(part, 0) + len(words) + len(lines) * ends
            if part == "train":
                found.train.update(words)
            progress.advance(len(words))
    found.train.pop(UNKNOWN, None)
    return found._replace(borders=found.train.pop(BORDER, 0) + found.lines.get("train", 0))


def _vocabulary(words: Words, options: IngestOptions) -> list[bytes]:
    """The words that are kept as they are."""
    limited = options.vocabulary is not None
    least = options.min_item_count or (1 if limited else LEAST_COUNT)
    order = sorted(words.train, key=lambda word: (-words.train[word], word))
    most = options.vocabulary - 1 - (options.borders != "ignore") if options.vocabulary is not None else len(order)
    return [word for word in order[:most] if words.train[word] >= least]


def _numbered(
    corpus: Corpus, options: IngestOptions, number: dict[bytes, int], unknown: dict[str, int]
) -> Iterator[tuple[str, np.ndarray]]:
    """(part, item numbers) block by block; counts the unknown words of each part on the way."""
    between = b" " + BORDER + b" " if BORDER in number else b" "
    for part, lines in _lines(corpus, options):
        words = between.join([*lines, b""]).split()
        items = np.fromiter(map(number.get, words, repeat(number[UNKNOWN])), np.int64, len(words))
        unknown[part] += int((items == number[UNKNOWN]).sum())
        yield part, items


def _lines(corpus: Corpus, options: IngestOptions) -> Iterator[tuple[str, list[bytes]]]:
    """(part, lines that are not blank) block by block, each line without a border of its own at the end."""
    test = 0.0 if corpus.given else options.test_fraction
    valid = options.valid_share("given" if corpus.given else "random")
    generator = numpy_generator(options.seed, "lines of text")
    for name, paths in corpus.parts.items():
        for block in (block for path in paths for block in text.whole_lines(path)):
            lines = [line.strip().removesuffix(BORDER) for line in block.split(b"\n")]
            lines = [line for line in lines if line]
            if name in ("valid", "test") or not (test or valid):
                yield ("train" if name == WHOLE else name), lines
                continue
            drawn = generator.random(len(lines))
            codes = np.where(drawn < test, PARTS.index("test"), np.where(drawn < test + valid, PARTS.index("valid"), 0))
            for code, part in enumerate(PARTS):
                if (codes == code).any():
                    yield part, list(compress(lines, codes == code))


def _report(corpus: Corpus, words: Words, facts: SequenceFacts, unknown: dict[str, int]) -> dict[str, Any]:
    nothing = {"pairs": 0, "queries": 0, "items": 0, "rounds": 0}
    return {
        "source": str(corpus.place),
        "formats": ["text"],
        "read": dict(words.positions),
        "dropped": {"duplicates": 0, "min_counts": nothing},
        "cold_items": {},
        "queries_without_history": {},
        "queries_without_pairs": 0,
        "text": {
            "lines": dict(words.lines),
            "distinct": len(words.train),
            "unknown": unknown,
            "context": facts.context,
            "borders": facts.borders,
        },
    }
