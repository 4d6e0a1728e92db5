"""Candidate samplers: which items stand in for the whole catalogue, and the log of their expected count.

A sampler returns :class:`~xclass.types.Negatives`. Its ``log_q`` is the log of the *expected count* of an item in the
sample (not of a probability: the factor "number of draws" is in it), for the negatives and for the positives. That is
what makes E[Σ exp(score − log_q)] over the sample equal Σ exp(score) over the catalogue, and it is all a loss takes.
"""

from xclass.sampling.adaptive import AdaptiveProposal
from xclass.sampling.all_items import AllItems
from xclass.sampling.config import Known, SamplerConfig, build_sampler
from xclass.sampling.in_batch import InBatch
from xclass.sampling.independent import Drawn, LogUniform, Uniform
from xclass.sampling.interface import Sampler
from xclass.sampling.learned import LearnedUnigram
from xclass.sampling.mixture import Mixture
from xclass.sampling.per_query import GivenCandidates, HardNegatives
from xclass.sampling.streaming import StreamingFrequency
from xclass.sampling.target import TargetSampling
from xclass.sampling.unigram import FixedUnigram

SAMPLERS = {
    "uniform": Uniform,
    "log-uniform": LogUniform,
    "fixed-unigram": FixedUnigram,
    "learned-unigram": LearnedUnigram,
    "in-batch": InBatch,
    "target": TargetSampling,
    "given": GivenCandidates,
    "hard": HardNegatives,
    "mixture": Mixture,
    "adaptive": AdaptiveProposal,
    "all": AllItems,
}

__all__ = [
    "SAMPLERS",
    "AdaptiveProposal",
    "AllItems",
    "Drawn",
    "FixedUnigram",
    "GivenCandidates",
    "HardNegatives",
    "InBatch",
    "Known",
    "LearnedUnigram",
    "LogUniform",
    "Mixture",
    "Sampler",
    "SamplerConfig",
    "StreamingFrequency",
    "TargetSampling",
    "Uniform",
    "build_sampler",
]
