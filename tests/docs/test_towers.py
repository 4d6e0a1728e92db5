"""docs/towers.md says what is so: its keys exist, and it leaves no kind, key or start out."""

import re
import tomllib
from pathlib import Path
from typing import get_args

import pytest

from xclass.config import build_config
from xclass.towers import QUERY_TOWERS
from xclass.towers.config import ContextConfig, FeatureConfig, ItemTowerConfig, QueryTowerConfig
from xclass.training.run_config import ModelConfig, RunConfig

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "towers.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```toml\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def test_toml_blocks_are_configurations():
    assert len(BLOCKS) >= 2
    for block in BLOCKS:
        build_config(RunConfig, tomllib.loads(block))


@pytest.mark.parametrize(
    "names",
    [
        QUERY_TOWERS,
        FeatureConfig.model_fields,
        get_args(ContextConfig.model_fields["mode"].annotation),
        set(ItemTowerConfig.model_fields) - {"features", "kind"},
        get_args(ItemTowerConfig.model_fields["kind"].annotation),
        get_args(FeatureConfig.model_fields["weighting"].annotation),
        get_args(FeatureConfig.model_fields["combiner"].annotation),
        get_args(ModelConfig.model_fields["init"].annotation),
    ],
    ids=["kinds", "features", "contexts", "items", "item kinds", "weightings", "combiners", "starts"],
)
def test_nothing_is_left_out(names):
    missing = [name for name in names if f"`{name}`" not in TEXT]
    assert not missing


def test_every_kind_is_made_of_what_its_name_says():
    assert set(QUERY_TOWERS) == set(get_args(QueryTowerConfig.model_fields["kind"].annotation))
    for kind, parts in QUERY_TOWERS.items():
        assert QueryTowerConfig(kind=kind).parts == parts == tuple(kind.split("+"))


def test_the_pages_example_is_the_configuration_that_ships():
    shipped = tomllib.loads((ROOT / "configs" / "citeulike-tags-two-tower.toml").read_text())
    example = tomllib.loads(BLOCKS[0])
    for key in ("model", "sampler"):
        assert shipped[key] == example[key]
