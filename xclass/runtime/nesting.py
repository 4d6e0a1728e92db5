"""How deeply JSON and TOML may be nested."""

from __future__ import annotations

from typing import Any

DEEPEST = 64  # levels of our JSON and TOML


def is_deep(value: Any) -> bool:
    """Whether it is nested more deeply than anything that we write: what shows or copies it may call itself."""
    level = [value]
    for _ in range(DEEPEST + 1):
        level = [part for part in level if isinstance(part, dict | list)]
        level = [inner for part in level for inner in (part.values() if isinstance(part, dict) else part)]
    return bool(level)
