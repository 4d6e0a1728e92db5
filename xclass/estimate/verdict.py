"""Does it fit, and if not, what would help?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

from xclass.config import apply_overrides, build_config
from xclass.data.dataset import Dataset
from xclass.errors import ConfigError, XclassError
from xclass.estimate.machine import Available
from xclass.estimate.memory import BASE, Job, parts_of
from xclass.estimate.parts import PLACES, Part, Place, readable, total
from xclass.training.run_config import RunConfig

WORTH_NAMING = 0.05  # of what is needed
LARGEST_NAMED = 4
MOST_TOGETHER = 4

FITS, TIGHT, TOO_LARGE = "fits", "tight", "does not fit"


class Change(NamedTuple):
    """A key that needs less: how much less, how much is needed then, and whether that fits."""

    setting: str
    place: Place
    saved_bytes: int
    needed_bytes: int
    then: str


class Verdict(NamedTuple):
    """Whether a run fits.

    answer: "fits"; "tight": more is expected to be needed than is free now, but it may still work; "does not fit": the
        parts that are certain alone exceed what there is.
    places: the answer for each place.
    changes: what would help, the most helpful first; empty when it fits.
    """

    answer: str
    places: dict[Place, str]
    changes: list[Change]


def judge(parts: list[Part], there: Available) -> dict[Place, str]:
    """Place → answer."""
    return {place: _answer(parts, place, there) for place in PLACES if total(parts, place) > 0}


def _answer(parts: list[Part], place: Place, there: Available) -> str:
    if total(parts, place, certain=True) > there.of(place, at_most=True):
        return TOO_LARGE
    return FITS if total(parts, place) <= there.of(place) else TIGHT


def verdict(config: RunConfig, job: Job, device: torch.device, parts: list[Part], there: Available) -> Verdict:
    """The answer, and what to change unless it fits."""
    places = judge(parts, there)
    answers = set(places.values())
    answer = TOO_LARGE if TOO_LARGE in answers else TIGHT if TIGHT in answers else FITS
    found = [
        change
        for place, one in places.items()
        if one != FITS
        for change in changes(config, job, device, parts, there, place)
    ]
    return Verdict(answer, places, found)


def changes(
    config: RunConfig, job: Job, device: torch.device, parts: list[Part], there: Available, place: Place
) -> list[Change]:
    """What would need less in a place, the most first. Where no single key is enough: several, taken until it fits."""
    base = next(part.bytes for part in parts if part.component == BASE)
    before, guessed = total(parts, place), total(parts_of(config, job, device, base), place)

    def singles(of: RunConfig) -> list[tuple[Change, RunConfig]]:
        found = []
        for setting, other in _others(of):
            fewer = parts_of(other, job, device, base)
            saved = guessed - total(fewer, place)
            found.append((Change(setting, place, saved, before - saved, _answer(fewer, place, there)), other))
        return sorted(found, key=lambda pair: -pair[0].saved_bytes)

    alone = [change for change, _ in singles(config) if change.saved_bytes > WORTH_NAMING * before][:LARGEST_NAMED]
    if any(change.then == FITS for change in alone):
        return alone
    together, best, current = dict[str, str](), 0, config
    for _ in range(MOST_TOGETHER):
        change, current = next(iter(singles(current)), (None, current))
        if change is None or change.saved_bytes - best <= WORTH_NAMING * before:
            break
        together[change.setting.split(" = ")[0]], best = change.setting, change.saved_bytes
        if change.then == FITS:
            return [*alone, change._replace(setting=" and ".join(together.values()))]
    return alone


def _others(config: RunConfig) -> Iterator[tuple[str, RunConfig]]:
    """(setting, configuration) of each single change that needs less and that the configuration allows."""
    values = config.model_dump(exclude_none=True)
    candidates: list[tuple[str, object]] = [
        ("tables.dtype", "bfloat16"),
        ("tables.storage", "host"),
        ("tables.storage", "mapped"),
        ("model.query.share_item_table", True),
        ("model.embedding_dim", max(config.model.embedding_dim // 2, 1)),
        ("optimizer", "adagrad"),
        ("train.validation.keep_best", False),
        ("train.keep_checkpoints", 1),
    ]
    for key, value in candidates:
        text = f'"{value}"' if isinstance(value, str) else str(value).lower()
        try:
            other = build_config(RunConfig, apply_overrides(values, [f"{key}={text}"]))
        except ConfigError:  # not with this configuration's other keys
            continue
        if other != config:
            yield f"{key} = {text}", other


def refuse_what_cannot_fit(
    dataset: Dataset, config: RunConfig, device: torch.device, there: Available, base: int
) -> None:
    """XclassError, with the numbers and what to change, when the parts that are certain exceed what there is.

    What is only expected (a batch, older checkpoints) never counts, nor do caches; memory is then what giving up every
    cache and all swap would leave.
    """
    job = Job.of(dataset)
    parts = parts_of(config, job, device, base)
    for place, answer in judge(parts, there).items():
        if answer == TOO_LARGE:
            raise _refusal(place, parts, there, changes(config, job, device, parts, there, place))


def _refusal(place: Place, parts: list[Part], there: Available, helps: list[Change]) -> XclassError:
    sure = [part for part in parts if part.place == place and part.certain and not part.cache]
    largest = ", ".join(
        f"{part.component} {readable(part.bytes)}" for part in sorted(sure, key=lambda part: -part.bytes)[:3]
    )
    names = {"memory": "into memory", "accelerator": "into the accelerator's memory", "disk": "onto the disk"}
    other = "free some space or choose another --out" if place == "disk" else "use a machine that has more"
    settings = "".join(f"set {c.setting} ({readable(c.saved_bytes)} less: {c.then}), or " for c in helps)
    return XclassError(
        f"this run does not fit {names[place]}",
        wanted=f"{readable(total(parts, place, certain=True))} at least: {largest}",
        got=f"{readable(there.of(place, at_most=True))} at most",
        do=f"{settings}{other}; --no-memory-check starts it all the same",
    )
