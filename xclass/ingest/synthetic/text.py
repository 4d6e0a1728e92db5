"""Planted text: positions whose true P(next word | words before) is known, with the Zipf law of real text, of any size.

    xclass ingest planted-text:items=800000,words=10000000 --out DATASET

The world: words fall in frequency by u(r) ∝ (r + shift)^-zipf, as those of the Brown corpus do (the defaults are its
fit). The C most frequent ones are function words: they come with u, whatever stands before. All others are in C classes
of equal mass. A content word depends on the two words before it: with the chance ``first`` (where the last word is a
content word) it is drawn from the class that follows the last word's, with the chance ``second`` from the class that
follows, by another permutation, that of the word before, else from all content words; each time by u. A line ends
after each word with the chance 1 / length. So every word keeps its frequency, and

    P(w) = (1 − 1/length) u(w) (1 − Σ_j λ_j a_j + Σ_j λ_j a_j [c(w) = σ_j(c_j)] (1 − S) / m_c)

for a content word after the first place of a line, with S the mass of function words, m_c that of a class, a_j whether
the j-th word before is a content word of this line.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from xclass.data.dataset import Dataset
from xclass.data.windows import SequenceFacts
from xclass.errors import ConfigError
from xclass.ingest.option_use import check_use
from xclass.ingest.options import IngestOptions
from xclass.ingest.sources import PARTS
from xclass.ingest.synthetic.spec import parse_numbers
from xclass.ingest.writing.sequences import SequenceJob, write_sequences
from xclass.runtime.progress import Progress
from xclass.runtime.rng import numpy_generator

PREFIX = "planted-text:"
SPEC = "planted-text:items=…,words=…[,classes=…][,first=…][,second=…][,zipf=…][,shift=…][,length=…][,seed=…]"
WHOLE = {"items": "items", "words": "words", "classes": "classes", "seed": "seed"}
DECIMAL = {"first": "first", "second": "second", "zipf": "zipf", "shift": "shift", "length": "length"}
BORDER = "</s>"
LINES_PER_BLOCK = 1 << 13
HELD_OUT = 0.05


class Block(NamedTuple):
    """Some lines of one part. words: ranks from 0, the border −1. log_loss: Σ −log P of all of them."""

    part: str
    words: np.ndarray
    log_loss: float
    lines: int


@dataclass(frozen=True)
class TextWorld:
    """The parameters, and draws from the world; a block of lines can be made again alone.

    Args:
        items: N, the border among them. words: positions of all parts together, about. classes: C. first, second: λ_1
            and λ_2. zipf, shift: of u. length: words of a line, on average. seed: of everything.
    """

    items: int
    words: int
    classes: int = 48
    first: float = 0.5
    second: float = 0.25
    zipf: float = 1.11
    shift: float = 1.31
    length: float = 20.0
    seed: int = 0

    @cached_property
    def share(self) -> np.ndarray:
        """float64 (N − 1,), u by rank."""
        share = (np.arange(1, self.items) + self.shift) ** -self.zipf
        return share / share.sum()

    @cached_property
    def class_of(self) -> np.ndarray:
        """int64 (N − 1,), by rank; −1 for function words. Dealt out from the most frequent on, forth and back, so that
        the classes' masses differ little."""
        rest = self.items - 1 - self.classes
        turns, places = np.divmod(np.arange(rest), self.classes)
        found = np.full(self.items - 1, -1)
        found[self.classes :] = np.where(turns % 2, self.classes - 1 - places, places)
        return found

    @cached_property
    def followers(self) -> tuple[np.ndarray, np.ndarray]:
        """σ_1 and σ_2."""
        generator = numpy_generator(self.seed, "planted text classes")
        return generator.permutation(self.classes), generator.permutation(self.classes)

    @cached_property
    def function_mass(self) -> float:
        """S."""
        return float(self.share[: self.classes].sum())

    @cached_property
    def class_mass(self) -> np.ndarray:
        """float64 (C,), m_c."""
        return np.bincount(self.class_of[self.classes :], self.share[self.classes :], minlength=self.classes)

    @cached_property
    def _order(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ranks with each class together, function words first; where their mass ends; where each class starts."""
        order = np.argsort(self.class_of, kind="stable")
        return order, np.cumsum(self.share[order]), np.concatenate([[0.0], np.cumsum(self.class_mass)])

    def probability(self, words: np.ndarray, last: np.ndarray, before: np.ndarray) -> np.ndarray:
        """float64, P of each word (−1: the border) after ``before``, ``last`` (−1: the line has no such word)."""
        start = last < 0
        inside = np.where(start, 1.0, 1.0 - 1.0 / self.length)
        rank = np.maximum(words, 0)
        own, factor = self.class_of[rank], np.ones(len(words))
        for chance, follow, word in zip((self.first, self.second), self.followers, (last, before), strict=True):
            there, followed = self._followed(word, follow)
            with_class = (own == followed) * (1.0 - self.function_mass) / self.class_mass[np.maximum(own, 0)]
            factor += np.where(there, chance * (with_class - 1.0), 0.0)
        factor[own < 0] = 1.0
        return np.where(words < 0, 1.0 - inside, inside * self.share[rank] * factor)

    def block(self, number: int, lines: int) -> tuple[np.ndarray, np.ndarray]:
        """``lines`` lines: ranks one after the other with the border −1 at each end, and P of each."""
        generator = numpy_generator(self.seed, "planted text", number)
        lengths = generator.geometric(1.0 / self.length, lines)
        steps = int(lengths.max())
        words, chances = np.full((lines, steps + 1), -1), np.ones((lines, steps + 1))
        last = before = np.full(lines, -1)
        alive = np.arange(lines)
        for step in range(steps + 1):
            drawn = self._draw(generator, last, before)
            drawn[lengths[alive] == step] = -1
            words[alive, step], chances[alive, step] = drawn, self.probability(drawn, last, before)
            kept = drawn >= 0
            alive, before, last = alive[kept], last[kept], drawn[kept]
        there = np.arange(steps + 1) <= lengths[:, None]
        return words[there], chances[there]

    def _draw(self, generator: np.random.Generator, last: np.ndarray, before: np.ndarray) -> np.ndarray:
        """Ranks of next words, none of them a border."""
        order, ends, starts = self._order
        place, chosen, inside = generator.random((3, len(last)))
        place *= ends[-1]
        content = place >= self.function_mass
        low = 0.0
        for chance, follow, word in zip((self.first, self.second), self.followers, (last, before), strict=True):
            there, followed = self._followed(word, follow)
            taken = content & there & (chosen >= low) & (chosen < low + chance)
            drawn = self.function_mass + starts[followed] + inside * self.class_mass[followed]
            place, low = np.where(taken, drawn, place), low + chance
        return order[np.minimum(np.searchsorted(ends, place, side="right"), len(order) - 1)]

    def _followed(self, words: np.ndarray, follow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Whether each is a content word, and the class that follows its own."""
        classes = np.where(words < 0, -1, self.class_of[np.maximum(words, 0)])
        return classes >= 0, follow[np.maximum(classes, 0)]


def ingest_planted_text(source: str, out: Path, options: IngestOptions) -> Dataset:
    """``xclass ingest planted-text:…``: context, test_fraction, valid_fraction and seed apply; others are refused.

    ``dataset.json`` has the parameters and the perplexity of the true P on each part, which no model beats but by
    chance. Every item is in the catalogue, drawn or not. Each line goes to one part; valid and test get 5% each unless
    options say otherwise. Cost: two passes over what is drawn; memory about 60 bytes an item, and a block.
    """
    world = _world(source, options)
    given = {name: getattr(options, name) for name in options.model_fields_set}
    shares = {"valid": given.get("valid_fraction", HELD_OUT), "test": given.get("test_fraction", HELD_OUT)}
    counts, found = np.zeros(world.items, dtype=np.int64), {part: [0, 0, 0.0] for part in PARTS}
    for block in _blocks(world, shares, "draw planted text"):
        more = len(block.words), block.lines, block.log_loss
        found[block.part] = [old + new for old, new in zip(found[block.part], more, strict=True)]
        if block.part == "train":
            counts += np.bincount(block.words + 1, minlength=world.items)
    order = np.argsort(-counts, kind="stable")  # 0 is the border, and 1 + rank a word
    numbers = np.empty(world.items, dtype=np.int64)
    numbers[order] = np.arange(world.items)
    items = pl.DataFrame({"item_id": _names(world, order), "train_count": counts[order]})
    context = 4 if options.context is None else options.context
    facts = SequenceFacts(context, "stop", int(numbers[0]), None)
    sizes = {part: int(size) for part, (size, _, _) in found.items() if size}
    perplexity = {part: math.exp(found[part][2] / size) for part, size in sizes.items()}
    report = _report(source, found, facts, perplexity, int((counts[1:] > 0).sum()))
    told = options.model_dump(mode="json")
    planted = {**asdict(world), "perplexity": perplexity}
    fields: dict[str, Any] = {"split": "random", "options": told, "report": report, "planted_text": planted}
    written = ((block.part, numbers[block.words + 1]) for block in _blocks(world, shares, None))
    return write_sequences(SequenceJob(items, sizes, facts, fields), written, out)


def _world(source: str, options: IngestOptions) -> TextWorld:
    check_use(options, "planted text", source)
    if options.split not in ("auto", "random"):
        raise ConfigError("planted text is split at random", where="--split", wanted="random", got=options.split)
    values = parse_numbers(source, PREFIX, SPEC, WHOLE, DECIMAL, ("items", "words"))
    world = TextWorld(**{"seed": options.seed, **values})
    wrong = {
        "items": world.items < 3 * world.classes + 1,
        "words": world.words < 1,
        "classes": world.classes < 1,
        "first": world.first + world.second > 1,
        "length": world.length <= 1,
    }
    if any(wrong.values()):
        name = next(key for key, is_wrong in wrong.items() if is_wrong)
        wanted = "items at least 3 · classes + 1, words and classes from 1, first + second up to 1, length above 1"
        raise ConfigError(f"this {name} does not fit", where=source, wanted=wanted, got=getattr(world, name))
    return world


def _blocks(world: TextWorld, shares: dict[str, float], label: str | None) -> Iterator[Block]:
    """All of the world's lines; the same ones every time."""
    lines, number = max(round(world.words / (world.length + 1)), 1), 0
    with Progress(label or "planted text", world.words if label else None, "words") as progress:
        for start in range(0, lines, LINES_PER_BLOCK):
            some = min(LINES_PER_BLOCK, lines - start)
            words, chances = world.block(number, some)
            line = np.concatenate([[0], np.cumsum(words[:-1] < 0)])
            drawn = numpy_generator(world.seed, "planted text parts", number).random(some)
            codes = np.where(drawn < shares["test"], 2, np.where(drawn < shares["test"] + shares["valid"], 1, 0))
            number += 1
            for code, part in enumerate(PARTS):
                mine = codes[line] == code
                if mine.any():
                    yield Block(part, words[mine], -float(np.log(chances[mine]).sum()), int((codes == code).sum()))
            if label:
                progress.advance(len(words))


def _names(world: TextWorld, order: np.ndarray) -> pl.Series:
    """The ids of items by their number: words by their true rank."""
    width = len(str(world.items - 2))
    names = pl.Series("item_id", order - 1).cast(pl.String).str.zfill(width)
    words = pl.select(pl.lit("w") + pl.lit(names)).to_series()
    return words.set(pl.Series(order == 0), BORDER).alias("item_id")


def _report(
    source: str, found: dict[str, list[Any]], facts: SequenceFacts, perplexity: dict[str, float], distinct: int
) -> dict[str, Any]:
    nothing = {"pairs": 0, "queries": 0, "items": 0, "rounds": 0}
    there = {part: figures for part, figures in found.items() if figures[0]}
    text = {
        "lines": {part: figures[1] for part, figures in there.items()},
        "distinct": distinct,
        "unknown": dict.fromkeys(there, 0),
        "context": facts.context,
        "borders": facts.borders,
        "perplexity": perplexity,
    }
    return {
        "source": source,
        "formats": ["planted-text"],
        "read": {part: int(figures[0]) for part, figures in there.items()},
        "dropped": {"duplicates": 0, "min_counts": nothing},
        "cold_items": {},
        "queries_without_history": {},
        "queries_without_pairs": 0,
        "text": text,
    }
