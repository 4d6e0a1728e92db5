"""TensorBoard as an extra: the figures of metrics.jsonl as curves."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from xclass.errors import ConfigError
from xclass.io.files import remove_any

FOLDER = "tensorboard"


def require_tensorboard() -> None:
    """ConfigError with the command that installs it, when the extra is not there."""
    try:
        import tensorboard.summary.writer.event_file_writer  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "TensorBoard is not installed",
            where="train.tensorboard",
            got=str(error),
            do="pip install 'xclass[tensorboard]', or set train.tensorboard = false: metrics.jsonl has the same",
        ) from None


class Board:
    """Writes the numbers of each record as scalars, by step.

    The folder is made anew from the records that metrics.jsonl kept, so that a resumed run has every step once.

    Args:
        folder: for the event files; what lies there is replaced.
        kept: the records so far.
    """

    def __init__(self, folder: Path, kept: list[dict[str, Any]]) -> None:
        require_tensorboard()
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        remove_any(Path(folder))
        self._writer = EventFileWriter(str(folder))
        began_s = time.time() - (kept[-1]["train_s"] if kept else 0.0)
        for record in kept:
            self.write(record, began_s + record["train_s"])

    def write(self, record: dict[str, Any], at_s: float | None = None) -> None:
        """One record, written at ``at_s`` (seconds since 1970; now unless given). The record of the end is left out."""
        if "event" in record:
            return
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=tag, simple_value=number) for tag, number in scalars(record)]
        when = time.time() if at_s is None else at_s
        self._writer.add_event(Event(wall_time=when, step=record["step"], summary=Summary(value=values)))
        self._writer.flush()

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


def scalars(record: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """(tag, number) of every number but the step; inner names behind a slash, plain ones below "train".

    >>> list(scalars({"step": 3, "loss": 0.5, "phase_ms": {"pull": 2.0}, "valid": {"recall@20": 0.1}}))
    [('train/loss', 0.5), ('phase_ms/pull', 2.0), ('valid/recall@20', 0.1)]
    """
    for name, value in record.items():
        if isinstance(value, dict):
            yield from ((f"{name}/{inner}", float(number)) for inner, number in value.items() if number is not None)
        elif name != "step" and value is not None:
            yield f"train/{name}", float(value)
