"""docs/training.md says what is so: the keys of records and answers, its thresholds, its settings, its code."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

import xclass
from xclass.cli import main
from xclass.config import Config
from xclass.estimate import calibration
from xclass.ingest.synthetic.pairs import PlantedModel
from xclass.training import collapse
from xclass.training.checkpoint import snapshot, store
from xclass.training.metrics_log import PHASES
from xclass.training.run_config import RunConfig

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "training.md"
TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def section(title):
    return re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL).group(1)


def tables(text):
    """Of each table: first cell → second cell."""
    found = []
    for table in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
        rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.strip().splitlines()[2:]]
        found.append({name: row[1] for row in rows for name in re.findall(r"`([^`]+)`", row[0])})
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A dataset and a run as the page has them."""
    folder = tmp_path_factory.mktemp("page")
    model = PlantedModel(num_items=300, num_queries=600, pairs=12_000, num_topics=8, seed=3)
    model.write_dataset(folder / "data" / "tiny")
    (folder / "configs").symlink_to(ROOT / "configs")
    return folder


@pytest.fixture(scope="module")
def records(place):
    config = {
        "model": {"embedding_dim": 8},
        "sampler": {"num_sampled": 32},
        "train": {"epochs": 2, "batch": {"size": 256}},
    }
    xclass.train(place / "data" / "tiny", config, place / "run")
    return [json.loads(line) for line in (place / "run" / "metrics.jsonl").read_text().splitlines()]


def test_every_key_of_a_record_has_a_row_and_every_row_a_key(records):
    reports, end = tables(section("metrics.jsonl"))
    assert set(reports) == set().union(*records[:-1])
    assert set(end) == set(records[-1])
    assert set(re.findall(r"`(\w+)`", reports["phase_ms"])) == set(PHASES) == set(records[0]["phase_ms"])


def test_phases_and_figures_of_collapse_have_their_rows(records):
    assert list(tables(section("The loop"))[0]) == list(PHASES)
    (figures,) = tables(section("Collapse"))
    assert set(figures) == set(records[0]["collapse"])


def test_the_thresholds_are_those_of_the_code():
    text = section("Collapse")
    assert f"D · variance below {collapse.LOW_VARIANCE:g} |" in text
    assert f"below 1 + {collapse.LOW_RANK:g} · (m − 1)" in text
    assert f"above {collapse.MANY_IDENTICAL:g} |" in text and f"{collapse.SAMPLE:,} items" in text
    assert f"{calibration.TABLE_BYTES >> 20} MiB" in section("What a run takes")


def test_every_key_of_an_estimate_is_named(place, monkeypatch, capsys):
    monkeypatch.setattr(calibration, "TIMED_S", 0.1)
    config = ["--config", str(ROOT / "configs" / "tiny" / "mf.toml"), "--out", str(place / "none"), "--json"]
    assert main(["estimate", str(place / "data" / "tiny"), *config]) == 0
    answer = json.loads(capsys.readouterr().out)
    (said,) = tables(section("What a run takes"))
    assert set(said) == set(answer)
    for key, value in answer.items():
        if isinstance(value, dict) and key != "disk":
            named = set(re.findall(r"`(\w+)`", said[key]))
            assert set(value) <= named, key
            assert named <= set(value) | {"setting", "place", "saved_bytes", "needed_bytes", "then"}, key


def test_settings_exist_and_tables_are_all_explained():
    fields = dict(keys_of(RunConfig()))
    named = set(re.findall(r"`((?:train|tables|model)\.[a-z_.]+)(?: = [^`]*)?`", TEXT))
    assert named and named <= set(fields), named - set(fields)
    (explained,) = [table for table in tables(section("Tables")) if "optimizer" in table]
    assert set(explained) == {"optimizer"} | {name for name in fields if name.startswith("tables.")}


def keys_of(config, prefix=""):
    for name in type(config).model_fields:
        value = getattr(config, name)
        yield f"{prefix}{name}", value
        if isinstance(value, Config):
            yield from keys_of(value, f"{prefix}{name}.")


def test_toml_blocks_are_configurations():
    blocks = [block for kind, block in BLOCKS if kind == "toml"]
    assert len(blocks) >= 2
    for block in blocks:
        RunConfig.model_validate(tomllib.loads(block))


def test_python_blocks_run(place, monkeypatch):
    monkeypatch.chdir(place)
    namespace = {}
    for block in [block for kind, block in BLOCKS if kind == "python"]:
        exec(compile(block, PAGE.name, "exec"), namespace)
    assert namespace["seen"] and all(0 <= value <= 1 for _, value in namespace["seen"])


def test_what_it_says_of_checkpoints():
    text = section("Checkpoints and resume")
    assert store.KEEP == 2 and "the last two checkpoints (`train.keep_checkpoints`)" in text
    assert f"{snapshot.SPARE_BYTES >> 20} MiB of memory at most" in " ".join(text.split())
