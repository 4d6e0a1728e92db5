"""docs/output-layers.md names every layer and every key of its configuration, and its examples are valid."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from xclass.heads import HEADS, HeadConfig
from xclass.runs.train import resolve_config

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "output-layers.md").read_text(encoding="utf-8")


def test_every_layer_and_key_is_told_of() -> None:
    assert [name for name in HEADS if f"| `{name}` |" not in TEXT] == []
    assert [key for key in HeadConfig.model_fields if key not in TEXT] == []


def test_the_examples_are_configurations() -> None:
    blocks = re.findall(r"```toml\n(.*?)```", TEXT, flags=re.DOTALL)
    assert len(blocks) == len(HEADS) - 1
    for block in blocks:
        resolve_config(tomllib.loads(block))
