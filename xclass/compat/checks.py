"""What TensorFlow leaves unsaid or finds late: every argument of the losses and samplers looked at before use."""

from __future__ import annotations

import torch
from torch import Tensor

from xclass.errors import InputError

INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def check_count(name: str, value: int, where: str) -> int:
    """``value`` if it is an integer of at least 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"{name} is out of range", where=where, wanted="an integer of at least 1", got=repr(value))
    return value


def class_ids(name: str, ids: Tensor, num_classes: int, where: str) -> Tensor:
    """``ids`` as int64, all of them in [0, num_classes).

    A floating dtype is refused: float32 has no odd numbers above 2²⁴, so a cast would change classes silently.
    """
    if not isinstance(ids, Tensor) or ids.dtype not in INTEGERS:
        got = ids.dtype if isinstance(ids, Tensor) else type(ids).__name__
        raise InputError(
            f"{name} can't be class ids", where=where, wanted="an integer tensor", got=got, do=f"pass {name}.long()"
        )
    ids = ids.detach().long()
    if ids.numel():
        low, high = (int(bound) for bound in torch.aminmax(ids))
        if low < 0 or high >= num_classes:
            raise InputError(
                f"{name} has a class that does not exist",
                where=where,
                wanted=f"ids in [0, {num_classes})",
                got=low if low < 0 else high,
                do="ids count from 0; pass the number of classes that there are",
            )
    return ids


def true_matrix(name: str, classes: Tensor, num_true: int, num_classes: int, where: str) -> Tensor:
    """int64 (B, num_true): true classes that exist."""
    check_count("num_true", num_true, where)
    ids = class_ids(name, classes, num_classes, where)
    if ids.dim() != 2 or ids.shape[1] != num_true:
        raise InputError(
            f"{name} must be a matrix of num_true columns",
            where=where,
            wanted=f"shape [batch_size, {num_true}]",
            got=f"shape {list(ids.shape)}",
            do=f"for one class each pass {name}.unsqueeze(1); for more pass num_true" if ids.dim() == 1 else None,
        )
    return ids


def check_distinct(num_sampled: int, unique: bool, available: int, where: str) -> None:
    """InputError if more distinct classes are asked for than can be drawn."""
    if unique and num_sampled > available:
        raise InputError(
            "the sampler's range is too small for so many distinct classes",
            where=where,
            wanted=f"num_sampled ≤ {available}, the number of classes that can be drawn",
            got=num_sampled,
            do="ask for fewer, or pass unique=False",
        )


def check_seed(seed: object, where: str) -> None:
    """InputError unless ``seed`` is None, an integer or a torch.Generator."""
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int | torch.Generator)):
        raise InputError(
            "seed is of the wrong kind", where=where, wanted="None, int or torch.Generator", got=repr(seed)
        )


def logs_of_counts(name: str, counts: Tensor, like: Tensor, where: str) -> Tensor:
    """Log of expected counts, broadcast to ``like``. A count of 0 would make the loss NaN: it is refused."""
    counts = counts.detach().to(like.dtype)
    try:
        counts = counts.expand(like.shape)
    except RuntimeError:
        wanted = f"broadcasts to {list(like.shape)}"
        raise InputError(f"{name} does not fit", where=where, wanted=wanted, got=list(counts.shape)) from None
    usable = (counts > 0) & torch.isfinite(counts)
    if not bool(usable.all()):
        raise InputError(
            f"{name} has a count whose logarithm can't be subtracted",
            where=where,
            wanted="finite numbers above 0",
            got=float(counts[~usable][0]),
            do="a class that the sampler never draws can't be corrected for: give it a weight, or subtract_log_q=False",
        )
    return counts.log()
