"""TensorFlow's candidate sampling on torch tensors: its names, argument order, defaults and shapes.

Results equal those of TensorFlow 2.21 (values and gradients), except where TensorFlow has a fault; docs/tensorflow.md
has both lists. The names are those of ``tf.nn`` and ``tf.random``; additions are keyword-only.
"""

from xclass.compat.drawing import Sampled
from xclass.compat.hits import compute_accidental_hits
from xclass.compat.logits import compute_sampled_logits
from xclass.compat.losses import nce_loss, sampled_softmax_loss
from xclass.compat.samplers import (
    all_candidate_sampler,
    fixed_unigram_candidate_sampler,
    learned_unigram_candidate_sampler,
    log_uniform_candidate_sampler,
    uniform_candidate_sampler,
)
from xclass.compat.states import FixedUnigramState, LearnedUnigramState, fixed_unigram_state, learned_unigram_state

__all__ = [
    "FixedUnigramState",
    "LearnedUnigramState",
    "Sampled",
    "all_candidate_sampler",
    "compute_accidental_hits",
    "compute_sampled_logits",
    "fixed_unigram_candidate_sampler",
    "fixed_unigram_state",
    "learned_unigram_candidate_sampler",
    "learned_unigram_state",
    "log_uniform_candidate_sampler",
    "nce_loss",
    "sampled_softmax_loss",
    "uniform_candidate_sampler",
]
