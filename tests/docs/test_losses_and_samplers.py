"""docs/losses-and-samplers.md says what is so: its code runs, its keys exist, it leaves no loss, sampler or switch out."""

import re
import tomllib
from pathlib import Path

from xclass.losses import LOSSES
from xclass.losses.config import LossConfig
from xclass.sampling import SAMPLERS, SamplerConfig
from xclass.training.run_config import RunConfig

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "losses-and-samplers.md"
TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def section(title):
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL).group(1)


def first_column(text):
    """The names in the first cell of each row of the section's table."""
    cells = re.findall(r"^\| ([^|]*) \|", text, re.MULTILINE)[1:]
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


def test_python_blocks_run_in_order():
    blocks = [block for kind, block in BLOCKS if kind == "python"]
    assert len(blocks) >= 3
    namespace = {}
    for block in blocks:
        exec(compile(block, PAGE.name, "exec"), namespace)


def test_toml_blocks_are_configurations():
    blocks = [block for kind, block in BLOCKS if kind == "toml"]
    assert len(blocks) >= 2
    for block in blocks:
        RunConfig.model_validate(tomllib.loads(block))
    assert {kind for kind, _ in BLOCKS} == {"python", "toml"}
    assert 2 * len(BLOCKS) == len(re.findall(r"^ *```", TEXT, re.MULTILINE))


def test_every_loss_and_every_sampler_has_a_row():
    assert sorted(first_column(section("Losses"))) == sorted(LOSSES)
    assert sorted(first_column(section("Samplers"))) == sorted(SAMPLERS)


def test_what_the_table_of_losses_says_is_what_they_do():
    rows = re.findall(r"^\| `([a-z-]+)` \| .* \| ([a-z–]+) \| ([a-z–]+) \| [^|]* \|$", section("Losses"), re.MULTILINE)
    assert len(rows) == len(LOSSES)
    for name, log_q, hits in rows:
        loss = LOSSES[name]
        if log_q != "–":
            assert (log_q, hits) == (
                "yes" if loss.subtract_log_q else "no",
                "removed" if loss.remove_accidental_hits else "kept",
            )
        else:
            assert loss.all_items


def test_every_switch_has_a_row_and_every_key_exists():
    switches = {f"loss.{name}" for name in LossConfig.model_fields} - {"loss.kind"}
    assert set(first_column(section("Switches"))) == switches | {"model.temperature"}
    fields = {f"sampler.{name}" for name in SamplerConfig.model_fields}
    fields |= switches | {"loss.kind", "model.temperature", "model.normalize"}
    assert set(re.findall(r"`((?:loss|sampler|model)\.\w+)(?: = [^`]*)?`", TEXT)) <= fields


def test_sampler_keys_are_explained():
    """Every key of [sampler], but ``kind``, is named in its section."""
    for name in set(SamplerConfig.model_fields) - {"kind"}:
        assert re.search(rf"\b{name}\b", section("Samplers")), name


def test_the_makefile_knows_the_page():
    assert "docs/log_q.py" in (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "make figures" in TEXT


def test_the_table_of_figures_is_of_the_settings_that_the_script_runs():
    script = (ROOT / "docs" / "log_q.py").read_text(encoding="utf-8")
    settings = [name for name in first_cells("What it does to a ranking") if name != "training"]
    assert len(settings) >= 4
    assert all(f'"{name}"' in script for name in settings)


def first_cells(title):
    return [cell for cell in re.findall(r"^\| ([^|]*) \|", section(title), re.MULTILINE) if not cell.startswith("-")]
