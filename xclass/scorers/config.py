"""Settings of the scorers that read a document's sparse features."""

from __future__ import annotations

from typing import Literal

import pydantic

from xclass.config import Amount, Config, Count, Positive, PositiveNumber

Weighting = Literal["log-tf-idf", "tf-idf", "unit", "given"]


class LinearConfig(Config):
    """One sparse weight vector per item over the features, trained one against the rest."""

    weighting: Weighting = "log-tf-idf"
    """Of the features, rows of unit length: tf-idf: tf · ln(n / df); log-tf-idf: with 1 + ln tf for tf; unit: as given;
    given: as given, whatever the length."""
    cost: PositiveNumber = 0.3
    """C in ½‖w‖² + C Σ max(0, 1 − y w·x)²: how much an error counts against small weights."""
    negatives: Literal["all", "mined"] = "all"
    """all: every document without the item; mined: those whose neighbours have it, and some drawn."""
    mined: Count = 100
    """Negatives are mined among so many items that the neighbours of a document suggest most."""
    drawn: Count = 20
    """mined: so many more negatives for each item, drawn uniformly."""
    per_item: Positive = 1000
    """mined: at most so many mined negatives for an item, those that suggest it most."""
    min_count: Positive = 1
    """Items with fewer train documents have no weights: neighbours and towers score them alone."""
    passes: Positive = 12
    """At most so many passes over an item's documents."""
    tolerance: PositiveNumber = 0.03
    """An item is done when no projected gradient of a pass was larger."""
    bias: Amount = 1.0
    """Value of the feature that every document has; 0 for none."""
    prune: Amount = 0.02
    """Weights that are smaller are dropped."""
    max_weights: Count = 0
    """An item keeps so many of its largest weights; 0 keeps all."""
    search: Literal["all", "shortlist"] = "all"
    """all: every item that shares a feature with the document is scored, through lists by feature; shortlist: only what
    other scorers suggest, at a cost of the items suggested."""


class NeighboursConfig(Config):
    """The items of the nearest train documents, by cosine of the features."""

    weighting: Weighting = "log-tf-idf"
    """As of linear."""
    k: Positive = 50
    """Documents that have a say."""
    power: PositiveNumber = 2.0
    """A document has similarity^power votes for each of its items."""
    max_postings: Count = 0
    """A feature is looked up in so many documents at most, those where it weighs most; 0: in all that have it."""


class FusionWeights(Config):
    """The weight of each scorer's scores in their sum."""

    towers: Amount = 0.0
    """Of inner products of the towers."""
    linear: Amount = 0.0
    """Of margins of the linear weights: 1 is a sure item, −1 surely none."""
    neighbours: Amount = 0.0
    """Of shares of the neighbours' votes, from 0 to 1."""

    @property
    def given(self) -> dict[str, float]:
        """Scorer → weight of those that have one."""
        return {name: weight for name, weight in self.model_dump().items() if weight}


class FusionConfig(Config):
    """How the scorers' scores are added up."""

    cut: float = pydantic.Field(0.1, ge=0, lt=1)
    """Share of the train documents on which weights are chosen, by scorers trained on the rest, which takes as long
    again as the training. A valid split serves instead where there is one, at no such cost. 0: weights are given."""
    cut_queries: Positive = 4096
    """At most so many documents choose weights."""
    shortlist: Positive = 100
    """Items that linear weights or towers suggest; where neither looks at all items, those that neighbours suggest."""
    weights: FusionWeights = FusionWeights()
    """To give them instead: one above 0 for each scorer. All 0: they are chosen."""


class DocumentsConfig(Config):
    """What scores items for a document, and how its sparse features are read."""

    scorers: tuple[Literal["towers", "linear", "neighbours"], ...] = ("towers",)
    """What is trained and added up: the two towers of [model]; linear weights; nearest train documents. Any of them."""
    features: str = ""
    """Name of the features that linear and neighbours read; empty where the dataset has one kind."""
    linear: LinearConfig = LinearConfig()
    """One sparse weight vector per item."""
    neighbours: NeighboursConfig = NeighboursConfig()
    """The items of the nearest train documents."""
    fusion: FusionConfig = FusionConfig()
    """How scores are added up."""

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
