"""Dataset cards: a TOML file each, with source, licence, checksums, counts and published results. Never data."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from pydantic import Field, field_validator, model_validator

from xclass.config import Config, load_config
from xclass.data.dataset import SPLITS, Dataset
from xclass.errors import DataError
from xclass.ingest.documents.sources import FORMAT_NAMES
from xclass.ingest.options import Split
from xclass.io.manifest import sha256_file


class Counts(Config):
    """What the ingest command of the card gives."""

    queries: int = Field(ge=1)
    """Number of queries, those without pairs included."""
    items: int = Field(ge=1)
    """Number of items of all parts together."""
    pairs: dict[str, int]
    """Pairs of each part: train, valid, test."""

    @field_validator("pairs")
    @classmethod
    def _parts_are_known(cls, pairs: dict[str, int]) -> dict[str, int]:
        if "train" not in pairs or not set(pairs) <= set(SPLITS):
            raise ValueError(f"pairs are counted by part, with train: {', '.join(SPLITS)}")
        return pairs


class Statistics(Config):
    """What upstream's own table says of a dataset of documents."""

    train: int = Field(ge=1)
    """Train documents."""
    test: int = Field(ge=1)
    """Test documents."""
    features: int = Field(ge=1)
    """Different features of documents, as upstream's bag of words has them."""
    labels: int = Field(ge=1)
    """Different labels."""
    labels_per_document: float = Field(gt=0)
    """Mean number of labels of a document."""
    documents_per_label: float = Field(gt=0)
    """Mean number of documents of a label, as upstream counts them."""


class Constants(Config):
    """A and B of the propensities in psp and psndcg."""

    a: float = Field(ge=0)
    """The power A."""
    b: float = Field(ge=0)
    """The shift B."""


class Published(Config):
    """One row of somebody else's results on this split."""

    method: str = Field(min_length=1)
    """The method's name."""
    kind: str = ""
    """What sort of model it is."""
    metrics: dict[str, float] = Field(min_length=1)
    """Metric name, as ``evaluate`` prints it, to value."""

    @field_validator("metrics")
    @classmethod
    def _metrics_are_shares(cls, metrics: dict[str, float]) -> dict[str, float]:
        for name, value in metrics.items():
            if not re.fullmatch(r"[a-z_]+@[1-9]\d*", name) or not 0 <= value <= 1:
                raise ValueError('metrics are shares from 0 to 1 with their cut-off in the name, as "recall@20" = 0.18')
        return metrics


class Card(Config):
    """One dataset; every field is checked when the card is read."""

    name: str = Field(pattern=r"^[a-z0-9-]+$")
    """The file's name without .toml."""
    title: str = Field(min_length=1)
    """What it is, in a line."""
    source: str = Field(pattern=r"https?://")
    """Where the files come from, with an address."""
    licence: str = Field(min_length=1)
    """What upstream says about its use."""
    format: str
    """A name of FORMATS."""
    split: Split
    """How it is divided."""
    ingest: str
    """The command that makes the dataset from the raw files."""
    note: str = ""
    """What a reader should know besides."""
    files: dict[str, str] = Field(default_factory=dict)
    """SHA-256 of every raw file by name; none where the maintainers have not had them at hand."""
    counts: Counts | None = None
    """What comes out; with the files."""
    statistics: Statistics | None = None
    """Of documents: what upstream counts."""
    propensity: Constants | None = None
    """Of documents: the constants that the field measures this dataset with."""
    published: tuple[Published, ...] = ()
    """Results by others on this very split."""

    @field_validator("format")
    @classmethod
    def _format_is_known(cls, name: str) -> str:
        if name not in FORMAT_NAMES or name == "auto":
            raise ValueError(f"format is one of {', '.join(FORMAT_NAMES[1:])}")
        return name

    @field_validator("files")
    @classmethod
    def _checksums_are_sha256(cls, files: dict[str, str]) -> dict[str, str]:
        if not all(re.fullmatch("[0-9a-f]{64}", digest) for digest in files.values()):
            raise ValueError("every file has its SHA-256, 64 hexadecimal digits")
        return files

    @model_validator(mode="after")
    def _what_it_holds_is_said(self) -> Card:
        if bool(self.files) != (self.counts is not None):
            raise ValueError("files and counts go together: both are what the maintainers saw")
        if self.counts is None and self.statistics is None:
            raise ValueError("a card has counts or statistics")
        return self

    @model_validator(mode="after")
    def _command_is_ours(self) -> Card:
        words = shlex.split(self.ingest)
        if words[:2] != ["xclass", "ingest"] or "--out" not in words:
            raise ValueError('ingest is a command: "xclass ingest SOURCE … --out DATASET"')
        return self


def read_card(path: Path) -> Card:
    """Read and check one card.

    Raises:
        ConfigError: not TOML, an unknown key, or a value that doesn't fit; names the key.
        DataError: the card's name is not the file's.
    """
    card = load_config(Card, path)
    if card.name != path.stem:
        raise DataError("a card is called like its file", where=path, wanted=path.stem, got=card.name)
    return card


def read_cards(folder: Path) -> dict[str, Card]:
    """Every card of a folder, by name."""
    return {path.stem: read_card(path) for path in sorted(folder.glob("*.toml"))}


def check_files(card: Card, folder: Path) -> None:
    """DataError for the first raw file below ``folder`` that is missing or isn't the one that the card is about."""
    for name, digest in card.files.items():
        path = folder / name
        if not path.is_file():
            raise DataError("this file of the dataset is missing", where=path, do=f"get it from {card.source}")
        if (got := sha256_file(path)) != digest:
            raise DataError(
                f"this is not the file that the card {card.name} is about", where=path, wanted=digest, got=got
            )


def check_dataset(card: Card, dataset: Dataset) -> None:
    """DataError when an ingested dataset has other counts than the card."""
    if card.counts is None:
        raise DataError(f"the card {card.name} has no counts to compare with", where=dataset.path)
    pairs = {name: part["pairs"] for name, part in dataset.manifest["splits"].items()}
    got = Counts(queries=dataset.num_queries, items=dataset.num_items, pairs=pairs)
    if got != card.counts:
        raise DataError(
            f"this dataset has other counts than the card {card.name}",
            where=dataset.path,
            wanted=card.counts.model_dump(),
            got=got.model_dump(),
            do=f"make it as the card does: {card.ingest}",
        )
