"""What a configuration can say about the sampler, and the sampler it names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import pydantic
import torch
from torch import Tensor

from xclass.config import Amount, Config, Count, Positive, PositiveNumber, Power
from xclass.errors import ConfigError
from xclass.sampling.adaptive import AdaptiveProposal, Proposal
from xclass.sampling.all_items import AllItems
from xclass.sampling.in_batch import InBatch
from xclass.sampling.independent import Counts, LogUniform, Uniform
from xclass.sampling.interface import Sampler
from xclass.sampling.learned import LearnedUnigram
from xclass.sampling.mixture import Mixture
from xclass.sampling.per_query import GivenCandidates, HardNegatives
from xclass.sampling.streaming import StreamingFrequency
from xclass.sampling.target import TargetSampling
from xclass.sampling.unigram import FixedUnigram
from xclass.types import Ragged

DRAWN = ("uniform", "log-uniform", "fixed-unigram", "learned-unigram")
INDEPENDENT = (*DRAWN, "adaptive")
CHECKED_AT_ONCE = 1 << 22


class SamplerConfig(Config):
    """Where the negatives come from."""

    kind: Literal[
        "uniform",
        "log-uniform",
        "fixed-unigram",
        "learned-unigram",
        "in-batch",
        "target",
        "given",
        "hard",
        "mixture",
        "adaptive",
        "all",
    ] = "uniform"
    """uniform. log-uniform: by Zipf's law over the item numbers. fixed-unigram: train counts to a power, or weights
    from a file. learned-unigram: frequencies of the targets seen so far. in-batch: the targets of the batch. target:
    the different targets of the last batches. given: candidates for each query, from a file. hard: the items that the
    model ranks highest for each query. mixture: the candidates of several samplers, in `parts`. adaptive: a mixture
    that follows the model during training. all: every item."""
    num_sampled: Count = 1024
    """Number of candidates that a batch shares. given and hard: number of candidates drawn from the list of each query;
    0: the whole list."""
    replacement: bool = True
    """uniform, log-uniform, fixed-unigram, learned-unigram, in-batch: false makes all candidates of a batch
    different. The other kinds never repeat an item."""
    per_query: bool = False
    """uniform, log-uniform, fixed-unigram, learned-unigram: true draws num_sampled candidates for each query, instead
    of candidates that the batch shares."""
    counts: Counts = "calibrated"
    """Expected counts without replacement: calibrated, or by TensorFlow's formula."""
    power: Power = 0.75
    """fixed-unigram: weights are raised to this power."""
    smoothing: Amount | None = None
    """fixed-unigram: added to every weight before the power. Unset: 1 for train counts, so that items without a train
    pair can be drawn, and 0 for weights from a file."""
    num_reserved_ids: Count = 0
    """fixed-unigram: number of items, from item 0 on, that are never drawn; a file has no weights for them."""
    num_shards: Positive = 1
    """fixed-unigram: only items with number % num_shards = shard are drawn."""
    shard: Count = 0
    """fixed-unigram: see num_shards."""
    file: str | None = None
    """fixed-unigram: a text file with one weight for each item, instead of train counts. given: a file with the
    candidates of each query: columns query_id and item_id (Parquet, CSV, TSV), JSON lines {"query_id": …, "history":
    […]}, or adjacency lines."""
    window: Count = 0
    """learned-unigram: how many of the last targets count; 0: all."""
    decay: float = pydantic.Field(0.0, ge=0, lt=1)
    """learned-unigram: a target counts decay^n when it was seen n batches ago; 0: no decay."""
    corrected: bool = False
    """target: true computes log-Q from train counts; false uses a constant."""
    frequency: Literal["counts", "streaming"] = "counts"
    """in-batch: where log-Q comes from. counts: train counts. streaming: the number of batches between occurrences of
    an item, estimated during training."""
    frequency_rate: float = pydantic.Field(0.05, gt=0, le=1)
    """in-batch, streaming: how fast the estimate changes (the weight of a new observation)."""
    frequency_hashes: Positive = 1
    """in-batch, streaming: number of hash functions; the largest of their estimates is used."""
    frequency_buckets: Count = 0
    """in-batch, streaming: number of buckets of each hash function; 0: one for each item."""
    frequency_start: PositiveNumber = 0.001
    """in-batch, streaming: occurrences in a batch that are assumed for an item until it occurs a second time."""
    depth: Positive = 100
    """hard: number of items mined for each query; known positives are never among them."""
    refresh_epochs: Positive = 1
    """hard: items are mined before the first epoch, and again every refresh_epochs epochs."""
    factory: str | None = None
    """hard: Faiss factory string of the index used for mining. Unset: exact search."""
    proposal: Proposal = "mixture"
    """adaptive: what is mixed with uniform draws. unigram: all targets seen so far, shared by a batch. bigram: the
    targets seen after the last item of the query's history, for each query. mixture: both. The weights of the mixture
    are learned by lowering KL(model, proposal)."""
    proposal_rate: float = pydantic.Field(0.05, gt=0, lt=1)
    """adaptive: how fast the weights of the mixture change."""
    parts: tuple[SamplerConfig, ...] = ()
    """mixture: the samplers whose candidates are joined."""

    @pydantic.model_validator(mode="after")
    def _keys_fit_the_kind(self) -> SamplerConfig:
        if (self.kind == "mixture") != bool(self.parts):
            raise ValueError('parts are for kind = "mixture", and a mixture needs at least one')
        if self.num_sampled == 0 and self.kind not in ("given", "hard"):
            raise ValueError("num_sampled is at least 1 here")
        if self.file is None and self.kind == "given":
            raise ValueError('kind = "given" needs file, with pairs query_id, item_id')
        allowed = {
            "replacement": (*DRAWN, "in-batch"),
            "counts": DRAWN,
            "per_query": DRAWN,
            "power": ("fixed-unigram",),
            "smoothing": ("fixed-unigram",),
            "num_reserved_ids": ("fixed-unigram",),
            "num_shards": ("fixed-unigram",),
            "shard": ("fixed-unigram",),
            "file": ("fixed-unigram", "given"),
            "window": ("learned-unigram",),
            "decay": ("learned-unigram",),
            "corrected": ("target",),
            "frequency": ("in-batch",),
            "frequency_rate": ("in-batch",),
            "frequency_hashes": ("in-batch",),
            "frequency_buckets": ("in-batch",),
            "frequency_start": ("in-batch",),
            "depth": ("hard",),
            "refresh_epochs": ("hard",),
            "factory": ("hard",),
            "proposal": ("adaptive",),
            "proposal_rate": ("adaptive",),
        }
        for name, kinds in allowed.items():
            if self.kind not in kinds and getattr(self, name) != _default(name):
                raise ValueError(f'{name} is not a key of kind = "{self.kind}"')
        return self

    @pydantic.model_validator(mode="after")
    def _keys_fit_each_other(self) -> SamplerConfig:
        if self.window and self.decay:
            raise ValueError("window and decay do not go together")
        if self.replacement and self.counts != "calibrated":
            raise ValueError(f'counts = "{self.counts}" is a formula for replacement = false')
        if any(part.kind == "adaptive" for part in self.parts):
            raise ValueError('kind = "adaptive" is a mixture itself and no part of one')
        if self.per_query and not self.replacement:
            raise ValueError("per_query goes with replacement = true")
        if self.shard >= self.num_shards:
            raise ValueError("shard is below num_shards")
        streaming = ("frequency_rate", "frequency_hashes", "frequency_buckets", "frequency_start")
        if self.frequency != "streaming" and any(getattr(self, name) != _default(name) for name in streaming):
            raise ValueError('frequency_rate, _hashes, _buckets and _start go with frequency = "streaming"')
        return self


def _default(name: str) -> object:
    return SamplerConfig.model_fields[name].default


class Known(NamedTuple):
    """What samplers are built from.

    item_counts: (N,) train pairs of each item, or a function that reads them: called by the samplers that need them.
    read_candidates: how to read a file of candidates.
    """

    num_queries: int
    num_items: int
    item_counts: Tensor | Callable[[], Tensor]
    read_candidates: Callable[[str], Ragged] | None = None

    def counts(self) -> Tensor:
        """(N,), train pairs of each item."""
        return self.item_counts if isinstance(self.item_counts, Tensor) else self.item_counts()


def build_sampler(config: SamplerConfig, known: Known) -> Sampler:
    """The sampler that a configuration names.

    Raises:
        ConfigError: a file of weights of another length; log-uniform over items that are not in order of frequency.
        InputError: more distinct items are asked for than can be drawn.
    """
    size, drawn = config.num_sampled, (config.replacement, config.counts)
    makers: dict[str, Callable[[], Sampler]] = {
        "uniform": lambda: Uniform(known.num_items, size, *drawn, config.per_query),
        "log-uniform": lambda: _log_uniform(config, known),
        "fixed-unigram": lambda: _fixed_unigram(config, known),
        "learned-unigram": lambda: LearnedUnigram(
            known.num_items, size, *drawn, config.window, config.decay, config.per_query
        ),
        "in-batch": lambda: InBatch(_frequency(config, known), config.replacement),
        "target": lambda: TargetSampling(known.num_items, size, known.counts() if config.corrected else None),
        "given": lambda: GivenCandidates(_candidates(config, known), known.num_items, size),
        "hard": lambda: HardNegatives(known.num_queries, known.num_items, size),
        "adaptive": lambda: AdaptiveProposal(
            known.num_items, size, config.proposal, max(int(known.counts().sum()), 1), config.proposal_rate
        ),
        "mixture": lambda: Mixture([build_sampler(part, known) for part in config.parts]),
        "all": lambda: AllItems(known.num_items),
    }
    return makers[config.kind]()


def _log_uniform(config: SamplerConfig, known: Known) -> LogUniform:
    counts = known.counts()
    item = _first_rise(counts)
    if item is not None:
        raise ConfigError(
            "log-uniform needs items numbered by falling frequency",
            where="sampler.kind",
            wanted="train counts that never rise",
            got=f"item {item} with {int(counts[item])} train pairs after {int(counts[item - 1])}",
            do='use kind = "fixed-unigram", or number the items by frequency as xclass ingest does',
        )
    return LogUniform(known.num_items, config.num_sampled, config.replacement, config.counts, config.per_query)


def _first_rise(counts: Tensor) -> int | None:
    """The first item with more train pairs than the one before it."""
    for start in range(0, len(counts) - 1, CHECKED_AT_ONCE):
        rises = (counts[start : start + CHECKED_AT_ONCE + 1].diff() > 0).nonzero()
        if len(rises):
            return start + int(rises[0]) + 1
    return None


def _fixed_unigram(config: SamplerConfig, known: Known) -> FixedUnigram:
    by_counts = config.file is None
    sampler = FixedUnigram(
        known.counts()[config.num_reserved_ids :] if config.file is None else config.file,
        config.num_sampled,
        config.power,
        float(by_counts) if config.smoothing is None else config.smoothing,
        config.replacement,
        config.counts,
        num_reserved_ids=config.num_reserved_ids,
        num_shards=config.num_shards,
        shard=config.shard,
        local_ids=False,
        per_query=config.per_query,
    )
    if sampler.num_items != known.num_items:
        raise ConfigError(
            "the file of weights does not fit the catalogue",
            where=config.file,
            wanted=f"{known.num_items - config.num_reserved_ids} weights, one per item in the order of items.parquet",
            got=sampler.num_items - config.num_reserved_ids,
        )
    return sampler


def _frequency(config: SamplerConfig, known: Known) -> Tensor | StreamingFrequency:
    if config.frequency == "counts":
        return known.counts()
    return StreamingFrequency(
        known.num_items,
        config.frequency_rate,
        config.frequency_hashes,
        config.frequency_buckets,
        config.frequency_start,
    )


def _candidates(config: SamplerConfig, known: Known) -> Ragged:
    if known.read_candidates is None or config.file is None:
        nothing = torch.zeros(known.num_queries + 1, dtype=torch.int64)
        return Ragged(nothing, nothing[:0])
    return known.read_candidates(config.file)
