"""TensorFlow's candidate samplers.

All take ``true_classes`` [batch_size, num_true] only to report their expected counts (and, for the learned unigram, to
learn from): true classes are not kept out of the sample. Candidates come in the order of their first draw.
"""

from __future__ import annotations

import torch
from torch import Tensor

from xclass.compat.checks import check_count, check_distinct, check_seed, true_matrix
from xclass.compat.drawing import Sampled, generator_of, sample
from xclass.compat.states import FixedUnigramState, LearnedUnigramState, fixed_unigram_state
from xclass.errors import InputError
from xclass.sampling.distributions.fixed import Law, LogUniformLaw, UniformLaw

Seed = int | torch.Generator | None


def uniform_candidate_sampler(
    true_classes: Tensor,
    num_true: int,
    num_sampled: int,
    unique: bool,
    range_max: int,
    seed: Seed = None,
    name: str | None = None,
) -> Sampled:
    """Every class in [0, range_max) alike.

    Args:
        true_classes: integers [batch_size, num_true] in [0, range_max).
        num_true: columns of ``true_classes``.
        num_sampled: candidates to draw.
        unique: reject repeats, so that all candidates differ; then num_sampled ≤ range_max.
        range_max: number of classes.
        seed: None follows torch's global generator; an int gives the same candidates at every call (TensorFlow moves
            on); a CPU ``torch.Generator`` moves on.
        name: stands in error messages.

    Returns:
        :class:`Sampled`: the candidates; for true classes and candidates p·num_sampled if every draw counted, else
        1 − (1 − p)^tries for the number of draws that were needed: both TensorFlow's formula, in float64.

    Cost O(num_sampled · log num_sampled), whatever range_max.
    """
    where = name or "uniform_candidate_sampler"
    return _sampled(_closed(UniformLaw, range_max, where), true_classes, (num_true, num_sampled), unique, seed, where)


def log_uniform_candidate_sampler(
    true_classes: Tensor,
    num_true: int,
    num_sampled: int,
    unique: bool,
    range_max: int,
    seed: Seed = None,
    name: str | None = None,
) -> Sampled:
    """Class c with p(c) = log((c + 2) / (c + 1)) / log(range_max + 1): close to Zipf's law.

    Right only for classes in falling order of frequency; the losses' default. p is precise at any size (log1p).
    Arguments, result and cost are those of :func:`uniform_candidate_sampler`.
    """
    where = name or "log_uniform_candidate_sampler"
    return _sampled(
        _closed(LogUniformLaw, range_max, where), true_classes, (num_true, num_sampled), unique, seed, where
    )


def learned_unigram_candidate_sampler(
    true_classes: Tensor,
    num_true: int,
    num_sampled: int,
    unique: bool,
    range_max: int,
    seed: Seed = None,
    name: str | None = None,
    *,
    state: LearnedUnigramState | None = None,
) -> Sampled:
    """The distribution of the true classes seen so far, every class starting at 1.

    Candidates and counts come from ``state`` as it is; then every occurrence in ``true_classes`` adds 1 to it.

    Args:
        state: from ``learned_unigram_state(range_max)``; it must be given. (TensorFlow keeps it inside of the kernel,
            where it starts anew at every retrace and is not checkpointed.)

    The other arguments and the result are those of :func:`uniform_candidate_sampler`. O(1) a draw and an update.
    """
    where = name or "learned_unigram_candidate_sampler"
    if not isinstance(state, LearnedUnigramState):
        raise InputError(
            "state is missing",
            where=where,
            wanted="a LearnedUnigramState",
            got=type(state).__name__,
            do="make one before the loop, state = learned_unigram_state(range_max), and pass it at every call",
        )
    _check_range(state.num_items, range_max, where)
    drawn = _sampled(state, true_classes, (num_true, num_sampled), unique, seed, where)
    state.update(true_classes)
    return drawn


def fixed_unigram_candidate_sampler(
    true_classes: Tensor,
    num_true: int,
    num_sampled: int,
    unique: bool,
    range_max: int,
    vocab_file: str = "",
    distortion: float = 1.0,
    num_reserved_ids: int = 0,
    num_shards: int = 1,
    shard: int = 0,
    unigrams: tuple[float, ...] | list[float] | Tensor = (),
    seed: Seed = None,
    name: str | None = None,
    *,
    state: FixedUnigramState | None = None,
) -> Sampled:
    """Given weights, raised to the power ``distortion``.

    Args:
        vocab_file: text file, a class a line; its weight is the last comma-separated field.
        distortion: power on every weight; 1 keeps them, 0.75 is word2vec's, 0 makes all classes alike.
        num_reserved_ids: the first so many ids have weight 0; the given weights start after them.
        num_shards: with ``shard``, keep the classes with id % num_shards == shard; ids are then those in the shard,
            id // num_shards, and range_max is the number kept.
        shard: which.
        unigrams: the weights, in place of ``vocab_file``.
        state: from ``fixed_unigram_state(range_max, …)``, which takes these arguments once; without it every call
            builds the distribution anew, O(range_max).

    The other arguments and the result are those of :func:`uniform_candidate_sampler`.
    """
    where = name or "fixed_unigram_candidate_sampler"
    given = (vocab_file, distortion, num_reserved_ids, num_shards, shard)
    if state is None:
        state = fixed_unigram_state(range_max, *given, unigrams)
    elif given != ("", 1.0, 0, 1, 0) or len(unigrams):
        raise InputError(
            "state and weights were both given",
            where=where,
            do="pass vocab_file … unigrams to fixed_unigram_state, and here only state",
        )
    _check_range(state.num_items, range_max, where)
    return _sampled(state, true_classes, (num_true, num_sampled), unique, seed, where)


def all_candidate_sampler(
    true_classes: Tensor,
    num_true: int,
    num_sampled: int,
    unique: bool,
    seed: Seed = None,
    name: str | None = None,
) -> Sampled:
    """Every class 0 … num_sampled−1 once, every expected count 1: the sampled loss becomes the full one.

    ``unique`` and ``seed`` are accepted as TensorFlow accepts them; nothing is drawn and nothing repeats.
    """
    where = name or "all_candidate_sampler"
    check_seed(seed, where)
    ids = true_matrix("true_classes", true_classes, num_true, check_count("num_sampled", num_sampled, where), where)
    return Sampled(
        torch.arange(num_sampled, device=ids.device),
        torch.ones(ids.shape, device=ids.device),
        torch.ones(num_sampled, device=ids.device),
    )


def _closed(kind: type[UniformLaw | LogUniformLaw], range_max: int, where: str) -> Law:
    return kind(check_count("range_max", range_max, where))


def _check_range(there: int, asked: int, where: str) -> None:
    if there != asked:
        raise InputError("range_max is not the state's", where=where, wanted=f"range_max={there}", got=asked)


def _sampled(law: Law, true_classes: Tensor, sizes: tuple[int, int], unique: bool, seed: Seed, where: str) -> Sampled:
    """Everything checked, then drawn. ``sizes`` are num_true and num_sampled."""
    check_seed(seed, where)
    num_true, num_sampled = sizes[0], check_count("num_sampled", sizes[1], where)
    ids = true_matrix("true_classes", true_classes, num_true, law.num_items, where)
    check_distinct(num_sampled, unique, law.num_drawable, where)
    return sample(law, ids, num_sampled, unique, generator_of(seed, where))
