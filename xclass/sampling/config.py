"""What a configuration can say about the sampler, and the sampler it names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import pydantic
from torch import Tensor

from xclass.config import Config
from xclass.sampling.all_items import AllItems
from xclass.sampling.in_batch import InBatch
from xclass.sampling.mixture import Mixture
from xclass.sampling.seam import Sampler
from xclass.sampling.uniform import LogUniform, Uniform
from xclass.sampling.unigram import FixedUnigram


class SamplerConfig(Config):
    """Where the negatives come from."""

    kind: Literal["uniform", "log-uniform", "fixed-unigram", "in-batch", "mixture", "all"] = "uniform"
    """uniform; log-uniform; fixed-unigram (train counts to a power); in-batch; mixture of `parts`; all items."""
    num_sampled: int = pydantic.Field(1024, ge=1)
    """Candidates shared by a batch (uniform, log-uniform, fixed-unigram)."""
    power: float = 0.75
    """fixed-unigram: train counts are raised to this power."""
    parts: tuple[SamplerConfig, ...] = ()
    """mixture: the samplers whose candidates are joined."""

    @pydantic.model_validator(mode="after")
    def _parts_belong_to_a_mixture(self) -> SamplerConfig:
        if (self.kind == "mixture") != bool(self.parts):
            raise ValueError('parts are for kind = "mixture", and a mixture needs at least one')
        return self


def build_sampler(config: SamplerConfig, num_items: int, item_counts: Tensor) -> Sampler:
    """The sampler that a configuration names, over a catalogue with these train counts (N,).

    A fixed unigram counts every item once more, so that items without a train pair can be drawn too.
    """
    makers: dict[str, Callable[[], Sampler]] = {
        "uniform": lambda: Uniform(num_items, config.num_sampled),
        "log-uniform": lambda: LogUniform(num_items, config.num_sampled),
        "fixed-unigram": lambda: FixedUnigram(item_counts, config.num_sampled, config.power, smoothing=1.0),
        "in-batch": lambda: InBatch(item_counts),
        "mixture": lambda: Mixture([build_sampler(part, num_items, item_counts) for part in config.parts]),
        "all": lambda: AllItems(num_items),
    }
    return makers[config.kind]()
