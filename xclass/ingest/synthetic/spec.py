"""``planted:items=…``: the parameters of planted data as they are written on a command line."""

from __future__ import annotations

import math
from typing import Any

from xclass.errors import ConfigError, nearest

PREFIX = "planted:"
SPEC_KEYS = {"items": "num_items", "queries": "num_queries", "pairs": "pairs", "topics": "num_topics", "seed": "seed"}
DECIMAL_KEYS = {"sharpness": "sharpness", "zipf": "zipf_exponent"}
SPEC = "planted:items=…,queries=…,pairs=…[,topics=…][,sharpness=…][,zipf=…][,seed=…]"


def parse_planted(source: str) -> dict[str, Any]:
    """The parameters in ``planted:items=…,queries=…,pairs=…[,topics=…][,sharpness=…][,zipf=…][,seed=…]``.

    ``topics`` and ``sharpness`` decide how far popularity falls behind the best ranking: the most popular items are the
    first of every topic, and a sharp query wants few topics. ``zipf`` says how much the first items of a topic weigh.

    >>> parse_planted("planted:items=2000,queries=5000,pairs=1e5,sharpness=7.5")
    {'num_items': 2000, 'num_queries': 5000, 'pairs': 100000, 'sharpness': 7.5}

    Raises:
        ConfigError: an unknown or missing key, or a value that is no number from 0, whole where it must be.
    """
    return parse_numbers(source, PREFIX, SPEC, SPEC_KEYS, DECIMAL_KEYS, ("items", "queries", "pairs"))


def parse_numbers(
    source: str, prefix: str, spec: str, whole: dict[str, str], decimal: dict[str, str], needed: tuple[str, ...]
) -> dict[str, Any]:
    """``prefix`` and then ``key=number`` with commas between; ``whole`` and ``decimal`` give each key its name.

    Raises:
        ConfigError: an unknown or missing key, or a value that is no number from 0, whole where it must be.
    """
    known, values = whole | decimal, {}
    for part in source.removeprefix(prefix).split(","):
        key, _, text = (piece.strip() for piece in part.partition("="))
        if key not in known:
            raise ConfigError(f'planted data has no "{key}"', where=source, wanted=spec, do=nearest(key, known))
        number = _number(text, whole=key in whole)
        if number is None:
            kind = "whole number" if key in whole else "number"
            raise ConfigError(f"{key} is not a {kind} from 0", where=source, wanted=spec, got=text or "nothing")
        values[known[key]] = number
    missing = [key for key in needed if whole[key] not in values]
    if missing:
        raise ConfigError(f"planted data needs {', '.join(missing)}", where=source, wanted=spec)
    return values


def _number(text: str, whole: bool) -> float | None:
    """A finite number from 0 on; None for anything else."""
    try:
        number = int(text) if whole and "e" not in text.lower() else float(text)
    except ValueError:
        return None
    if not 0 <= number < math.inf or (whole and number != int(number)):
        return None
    return int(number) if whole else number
