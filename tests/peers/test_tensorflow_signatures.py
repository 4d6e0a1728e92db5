"""Every argument of TensorFlow's, in its place and with its default; what we add can only be passed by name."""

from __future__ import annotations

import inspect

import pytest
from peers import tensorflow_side as theirs

from xclass.compat import tf as ours

tf = theirs.load()
CALLS = {
    "nce_loss": tf.nn.nce_loss,
    "sampled_softmax_loss": tf.nn.sampled_softmax_loss,
    "compute_accidental_hits": tf.nn.compute_accidental_hits,
    "uniform_candidate_sampler": tf.random.uniform_candidate_sampler,
    "log_uniform_candidate_sampler": tf.random.log_uniform_candidate_sampler,
    "learned_unigram_candidate_sampler": tf.random.learned_unigram_candidate_sampler,
    "fixed_unigram_candidate_sampler": tf.random.fixed_unigram_candidate_sampler,
    "all_candidate_sampler": tf.random.all_candidate_sampler,
}


@pytest.mark.parametrize("name", [*CALLS, "compute_sampled_logits"])
def test_arguments(name: str) -> None:
    from tensorflow.python.ops import nn_impl

    call = CALLS.get(name, nn_impl._compute_sampled_logits)
    wanted = list(inspect.signature(call).parameters.values())
    found = list(inspect.signature(getattr(ours, name)).parameters.values())
    common, added = found[: len(wanted)], found[len(wanted) :]
    assert [(p.name, p.default) for p in common] == [(p.name, p.default) for p in wanted]
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in added)
