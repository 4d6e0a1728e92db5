"""Settings of the scorers that read a document's sparse features."""

from __future__ import annotations

from typing import Literal

import pydantic

from xclass.config import Amount, Config, Count, Positive, PositiveNumber

Weighting = Literal["log-tf-idf", "tf-idf", "unit", "given"]


class LinearConfig(Config):
    """One sparse weight vector per item over the features, trained one against the rest."""

    weighting: Weighting = "log-tf-idf"
    """Weights of the features. tf-idf: tf · ln(n / df). log-tf-idf: the same with 1 + ln tf instead of tf. unit: as
    stored. These three are scaled to rows of unit length. given: as stored, not scaled."""
    cost: PositiveNumber = 0.3
    """C in ½‖w‖² + C Σ max(0, 1 − y w·x)²: a larger C weighs errors more against small weights."""
    negatives: Literal["all", "mined"] = "all"
    """Negatives of an item. all: every document without it. mined: documents whose neighbours suggest it, and some
    random ones."""
    mined: Count = 100
    """mined: how many of the items that the neighbours of a document suggest most are considered."""
    drawn: Count = 20
    """mined: number of additional negatives for each item, drawn uniformly."""
    per_item: Positive = 1000
    """mined: largest number of mined negatives for an item; those that suggest it most are kept."""
    min_count: Positive = 1
    """Items with fewer train documents get no weights; only neighbours and towers score them."""
    passes: Positive = 12
    """Largest number of passes over the documents of an item."""
    tolerance: PositiveNumber = 0.03
    """Training of an item ends when all projected gradients of a pass are below this value."""
    bias: Amount = 1.0
    """Value of the constant feature of every document; 0: no constant feature."""
    prune: Amount = 0.02
    """Weights with a smaller absolute value are dropped."""
    max_weights: Count = 0
    """How many of its largest weights an item keeps; 0: all."""
    search: Literal["all", "shortlist"] = "all"
    """all: every item that shares a feature with the document is scored. shortlist: only items that other scorers
    suggest; the cost follows their number."""


class NeighboursConfig(Config):
    """The items of the nearest train documents, by cosine of the features."""

    weighting: Weighting = "log-tf-idf"
    """See documents.linear.weighting."""
    k: Positive = 50
    """Number of nearest documents that vote."""
    power: PositiveNumber = 2.0
    """A document gives similarity^power votes to each of its items."""
    max_postings: Count = 0
    """Largest number of documents looked up for a feature: those in which it weighs most. 0: all."""


class FusionWeights(Config):
    """The weight of each scorer's scores in their sum."""

    towers: Amount = 0.0
    """Weight of the inner products of the towers."""
    linear: Amount = 0.0
    """Weight of the margins of the linear weights: 1 means surely relevant, −1 surely not."""
    neighbours: Amount = 0.0
    """Weight of the shares of the neighbours' votes, from 0 to 1."""

    @property
    def given(self) -> dict[str, float]:
        """Scorer → weight of those that have one."""
        return {name: weight for name, weight in self.model_dump().items() if weight}


class FusionConfig(Config):
    """How the scorers' scores are added up."""

    cut: float = pydantic.Field(0.1, ge=0, lt=1)
    """Share of the train documents on which the weights are chosen; the scorers for this are trained on the rest, which
    doubles the training time. If the dataset has a valid split, it is used instead, at no extra time. 0: the weights
    are given."""
    cut_queries: Positive = 4096
    """Largest number of documents for choosing the weights."""
    shortlist: Positive = 100
    """Number of items that linear or towers suggest. If neither searches all items: number of items that neighbours
    suggest."""
    weights: FusionWeights = FusionWeights()
    """Given weights: one above 0 for each scorer. All 0: the weights are chosen."""


class DocumentsConfig(Config):
    """What scores items for a document, and how its sparse features are read."""

    scorers: tuple[Literal["towers", "linear", "neighbours"], ...] = ("towers",)
    """Which scorers are trained and added up: towers (the two towers of [model]), linear (linear weights), neighbours
    (nearest train documents)."""
    features: str = ""
    """Name of the feature set that linear and neighbours read. Empty: the only one of the dataset."""
    linear: LinearConfig = LinearConfig()
    """One sparse weight vector for each item."""
    neighbours: NeighboursConfig = NeighboursConfig()
    """Items of the nearest train documents."""
    fusion: FusionConfig = FusionConfig()
    """How the scores are added up."""

    @pydantic.model_validator(mode="after")
    def _scorers_fit(self) -> DocumentsConfig:
        if not self.scorers or len(set(self.scorers)) < len(self.scorers):
            raise ValueError("scorers: name one or more, each once")
        if self.scorers == ("linear",) and self.linear.search == "shortlist":
            raise ValueError('linear.search = "shortlist" needs another scorer, which suggests items')
        given = self.fusion.weights.given
        if given and set(given) != set(self.scorers):
            raise ValueError("fusion.weights: give one for each scorer: " + ", ".join(self.scorers))
        if not given and not self.fusion.cut and len(self.scorers) > 1:
            raise ValueError("fusion.cut = 0 needs fusion.weights")
        return self

    @property
    def towers(self) -> bool:
        """Whether two towers are trained."""
        return "towers" in self.scorers

    @property
    def sparse(self) -> bool:
        """Whether anything reads sparse features beside the towers."""
        return self.scorers != ("towers",)
