"""What a configuration alone makes large, whatever the dataset: layers, buckets, windows."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from xclass.errors import XclassError
from xclass.estimate.parts import readable
from xclass.runtime.memory import left_memory
from xclass.sampling import SamplerConfig
from xclass.training.run_config import RunConfig

FLOAT, NUMBER = 4, 8
CANDIDATE_BYTES = NUMBER + FLOAT  # with its log-Q
DRAWING = ("uniform", "log-uniform", "fixed-unigram", "learned-unigram", "adaptive")  # as many as they are told
TRAINED = 4  # a parameter, its gradient and Adam's two moments


def check_own_sizes(config: RunConfig) -> None:
    """XclassError when these parts exceed this machine's memory. They are counted, not built: the estimate itself
    builds small models, in which they would be as large as in the run."""
    sizes = dict(_layers(config)) | dict(_samplers(config.sampler))
    _, most = left_memory()
    if sum(sizes.values()) <= most:
        return
    key = max(sizes, key=lambda each: sizes[each])
    raise XclassError(
        "this run does not fit into memory",
        wanted=f"{readable(sum(sizes.values()))} at least, {readable(sizes[key])} of them for {key}",
        got=f"{readable(most)} at most",
        do=f"make {key} smaller",
    )


def _layers(config: RunConfig) -> Iterator[tuple[str, int]]:
    dim, head = config.model.embedding_dim, config.head
    for key, hidden in (
        ("model.query.hidden", config.model.query.hidden),
        ("model.item.hidden", config.model.item.hidden),
    ):
        yield key, TRAINED * FLOAT * _between((dim, *hidden, dim)) if hidden else 0
    if head.kind == "cnn":
        filters = sum(head.filters)
        read = sum(count * width * head.symbol_dim for width, count in enumerate(head.filters, 1))
        yield "head.filters", TRAINED * FLOAT * (read + 2 * head.highway * filters**2 + filters * dim)


def _between(widths: Sequence[int]) -> int:
    """Weights of the layers between layers of these widths."""
    return sum(before * after for before, after in itertools.pairwise(widths))


def _samplers(sampler: SamplerConfig) -> Iterator[tuple[str, int]]:
    if sampler.kind == "in-batch" and sampler.frequency != "counts":
        yield "sampler.frequency_buckets", 2 * NUMBER * sampler.frequency_hashes * sampler.frequency_buckets
    if sampler.kind in DRAWING:
        yield "sampler.num_sampled", CANDIDATE_BYTES * sampler.num_sampled
    if sampler.kind == "learned-unigram":
        yield "sampler.window", FLOAT * sampler.window
    for part in sampler.parts:
        yield from _samplers(part)
