"""How a training begins: what several processes can train, and the directory that is the launch's alone."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import torch

from xclass.data.dataset import Dataset
from xclass.errors import ArtefactError, ConfigError
from xclass.estimate import check_fit
from xclass.io.files import A_DIRECTORY, check_target, locked
from xclass.metrics import PERPLEXITY
from xclass.runs.directory import MANIFEST
from xclass.training.hard_negatives import hard_parts
from xclass.training.run_config import RunConfig
from xclass.training.tensorboard import require_tensorboard

ONE = "train it in one process, without torchrun"


def check_launch(config: RunConfig, dataset: Dataset) -> None:
    """Raises ConfigError for a run whose parts need the whole catalogue in one process."""
    if config.head.kind != "dot":
        raise ConfigError(
            "several processes train models of item vectors",
            where="head.kind",
            wanted='"dot"',
            got=config.head.kind,
            do=ONE,
        )
    if dataset.sequence is not None or config.train.validation.metric == PERPLEXITY:
        raise ConfigError("perplexity is not measured by several processes", where="train.validation.metric", do=ONE)
    if any(part.factory is not None for part in hard_parts(config.sampler)):
        raise ConfigError("several processes mine hard negatives by exact search", where="sampler.factory", do=ONE)
    if config.documents.sparse:
        raise ConfigError("scorers of sparse features are trained by one process", where="documents", do=ONE)


def claim(
    out: Path,
    dataset: Dataset,
    config: RunConfig,
    resume: bool,
    device: torch.device,
    check_memory: bool,
    stack: ExitStack,
) -> bool:
    """Make the directory and lock it for as long as ``stack`` is open; whether it is new."""
    check_target(out, A_DIRECTORY)
    if out.exists() and not resume and any(out.iterdir()):
        raise ArtefactError(
            "this directory exists already",
            where=out,
            do="choose another directory, or go on with it: --resume, in Python resume=True",
        )
    if config.train.tensorboard:
        require_tensorboard()
    if check_memory and not (out / MANIFEST).exists():
        check_fit(dataset, config, device, out)
    new = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    stack.enter_context(locked(out))
    return new
