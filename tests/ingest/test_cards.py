"""Every card that ships is sound, and where the raw files are at hand its command gives its counts."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from xclass.config import build_config, read_toml
from xclass.errors import ConfigError, DataError
from xclass.ingest.cards import check_dataset, check_files, read_card, read_cards
from xclass.ingest.ingest import ingest
from xclass.ingest.options import IngestOptions

ROOT = Path(__file__).resolve().parents[2]
CARDS = ROOT / "datasets"
REAL = Path(os.environ.get("XCLASS_DATA", ROOT.parent / "shared" / "data"))
NAMES = sorted(path.stem for path in CARDS.glob("*.toml"))


def options_of(command: str) -> tuple[str, IngestOptions]:
    """Source and options of a card's command line."""
    words = shlex.split(command)[2:]
    chosen = {words[at][2:].replace("-", "_"): words[at + 1] for at in range(1, len(words), 2)}
    del chosen["out"]
    if "propensity" in chosen:
        constants = map(float, chosen.pop("propensity").split(","))
        return words[0], build_config(
            IngestOptions, chosen | dict(zip(("propensity_a", "propensity_b"), constants, strict=True))
        )
    return words[0], build_config(IngestOptions, chosen)


def test_the_cards_that_ship() -> None:
    assert (
        set(read_cards(CARDS))
        == set(NAMES)
        >= {"gowalla", "beauty", "diginetica", "yelp-times", "bibtex", "amazon-670k"}
    )


@pytest.mark.parametrize("name", NAMES)
def test_command_and_format_of_a_card_agree(name: str) -> None:
    card = read_card(CARDS / f"{name}.toml")
    source, options = options_of(card.ingest)
    assert options.format in ("auto", card.format)
    assert options.split in ("auto", card.split)
    assert Path(source).name in (name, *card.files)


@pytest.mark.parametrize("name", NAMES)
def test_a_card_s_command_gives_its_counts(tmp_path: Path, name: str) -> None:
    if not (REAL / name).is_dir():
        pytest.skip(f"needs real data: there is no {REAL / name} (set XCLASS_DATA)")
    card = read_card(CARDS / f"{name}.toml")
    check_files(card, REAL / name)
    source, options = options_of(card.ingest)
    dataset = ingest(REAL / Path(source).relative_to("raw"), tmp_path / "out", options)
    check_dataset(card, dataset)
    assert dataset.manifest["split"] == card.split
    assert dataset.manifest["report"]["formats"] == [card.format]


@pytest.mark.parametrize("name", [name for name in NAMES if read_card(CARDS / f"{name}.toml").statistics])
def test_constants_of_a_card_are_those_of_its_command(name: str) -> None:
    card = read_card(CARDS / f"{name}.toml")
    _, options = options_of(card.ingest)
    assert card.propensity is not None
    assert (card.propensity.a, card.propensity.b) == (options.propensity_a, options.propensity_b)
    family = (
        "amazon"
        if "amazon" in name and "cat" not in name
        else "wiki"
        if name.startswith(("wikip", "wikil", "lf-w"))
        else ""
    )
    wanted = {"amazon": (0.6, 2.6), "wiki": (0.5, 0.4), "": (0.55, 1.5)}[family]
    assert (card.propensity.a, card.propensity.b) == wanted
    facts = card.statistics
    assert facts is not None
    if card.counts is not None:
        assert facts.train + facts.test == card.counts.queries and facts.labels == card.counts.items


def test_gowalla_has_the_published_table() -> None:
    rows = {row.method: row.metrics for row in read_card(CARDS / "gowalla.toml").published}
    assert rows["LightGCN"] == {"recall@20": 0.1830, "ndcg@20": 0.1554}
    assert rows["MF + BSL, 64 dims"] == {"recall@20": 0.1882, "ndcg@20": 0.1584}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"licence": ""}, "licence"),
        ({"source": "somewhere"}, "source"),
        ({"format": "parket"}, "format is one of"),
        ({"split": "half"}, "split"),
        ({"ingest": "rm -r data"}, "ingest is a command"),
        ({"files": {"a": "123"}}, "SHA-256"),
        ({"counts": {"queries": 1, "items": 1, "pairs": {"test": 3}}}, "with train"),
        ({"files": {}}, "files and counts go together"),
        ({"published": [{"method": "x", "metrics": {"recall@20": 18.3}}]}, "shares from 0 to 1"),
        ({"checksum": "x"}, "does not exist"),
    ],
)
def test_a_card_that_is_wrong(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    values = {**read_toml(CARDS / "gowalla.toml"), **change}
    (tmp_path / "gowalla.toml").write_text(tomli_w.dumps(values))
    with pytest.raises(ConfigError, match=message):
        read_card(tmp_path / "gowalla.toml")


def test_a_card_under_another_name(tmp_path: Path) -> None:
    (tmp_path / "gowala.toml").write_text((CARDS / "gowalla.toml").read_text())
    with pytest.raises(DataError, match="called like its file"):
        read_card(tmp_path / "gowala.toml")


def test_other_files_and_counts_are_noticed(tmp_path: Path) -> None:
    card = read_card(CARDS / "gowalla.toml")
    with pytest.raises(DataError, match="missing"):
        check_files(card, tmp_path)
    (tmp_path / "train.txt").write_text("1 2 3\n4 5\n")
    with pytest.raises(DataError, match="not the file"):
        check_files(card, tmp_path)
    dataset = ingest(tmp_path / "train.txt", tmp_path / "out", IngestOptions(format="adjacency"))
    with pytest.raises(DataError, match="other counts"):
        check_dataset(card, dataset)
