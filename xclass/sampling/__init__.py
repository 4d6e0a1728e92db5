"""Candidate samplers: which items stand in for the whole catalogue, and the log of their expected count.

A sampler returns :class:`~xclass.types.Negatives`. Its ``log_q`` is the log of the *expected count* of an item in the
sample (not of a probability: the factor "number of draws" is in it), for the negatives and for the positives. That is
what makes E[Σ exp(score − log_q)] over the sample equal Σ exp(score) over the catalogue, and it is all a loss takes.
"""

from xclass.sampling.all_items import AllItems
from xclass.sampling.config import SamplerConfig, build_sampler
from xclass.sampling.in_batch import InBatch
from xclass.sampling.mixture import Mixture
from xclass.sampling.seam import Sampler
from xclass.sampling.uniform import LogUniform, Uniform
from xclass.sampling.unigram import FixedUnigram

SAMPLERS = {
    "uniform": Uniform,
    "log-uniform": LogUniform,
    "fixed-unigram": FixedUnigram,
    "in-batch": InBatch,
    "mixture": Mixture,
    "all": AllItems,
}

__all__ = [
    "SAMPLERS",
    "AllItems",
    "FixedUnigram",
    "InBatch",
    "LogUniform",
    "Mixture",
    "Sampler",
    "SamplerConfig",
    "Uniform",
    "build_sampler",
]
