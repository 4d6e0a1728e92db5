"""The public face: a name that goes, or one that comes unnoticed, breaks somebody's script."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import typer

import xclass
from xclass.cli import app

ROOT = Path(__file__).resolve().parent.parent

# Package → the names that people may import from it, promised. Other rooms' names may change between versions.
PUBLIC: dict[str, set[str]] = {
    "xclass": {"Dataset", "Ragged", "Recommender", "TopK", "XclassError", "__version__", "compare_configs", "compare_predictions", "compare_runs", "evaluate_predictions", "open_dataset", "train"},
    "xclass.cli": {"main"},
    "xclass.compat": {"tf"},
    "xclass.compat.tf": {
        "FixedUnigramState", "LearnedUnigramState", "Sampled", "all_candidate_sampler", "compute_accidental_hits",
        "compute_sampled_logits", "fixed_unigram_candidate_sampler", "fixed_unigram_state",
        "learned_unigram_candidate_sampler", "learned_unigram_state", "log_uniform_candidate_sampler", "nce_loss",
        "sampled_softmax_loss", "uniform_candidate_sampler",
    },
    "xclass.losses": {
        "LOSSES", "Loss", "LossConfig", "bpr_loss", "build_loss", "effective_size", "full_sigmoid_loss", "full_softmax_loss",
        "gbce_power", "importance_loss", "item_weights", "mask_value", "nce_loss", "negative_sampling_loss", "one_pass", "sampled_logistic_loss",
        "sampled_softmax_loss",
    },
    "xclass.sampling": {
        "SAMPLERS", "AdaptiveProposal", "AllItems", "Drawn", "FixedUnigram", "GivenCandidates", "HardNegatives", "InBatch", "Known",
        "LearnedUnigram", "LogUniform", "Mixture", "Sampler", "SamplerConfig", "StreamingFrequency", "TargetSampling",
        "Uniform", "build_sampler",
    },
}  # fmt: skip

OPTIONS: dict[str, set[str]] = {
    "ingest": {
        "--out", "--append", "--base", "--format", "--query-col", "--item-col", "--weight-col", "--time-col", "--split",
        "--test-fraction", "--valid-fraction", "--min-query-count", "--min-item-count", "--header", "--no-header", "--separator", "--seed",
        "--split-number", "--text-col", "--item-text", "--word-ngrams", "--char-ngrams", "--hash-bits", "--max-features",
        "--min-documents", "--weighting", "--vocabulary", "--context", "--borders", "--propensity", "--memory", "--json",
        "--user-col", "--rating-col", "--timestamp-col", "--min-weight",
    },
    "estimate": {
        "--config", "--out", "--set", "--device", "--calibrate", "--no-calibrate", "--ranks", "--device-memory", "--bandwidth",
        "--latency", "--flops", "--memory-bandwidth", "--cores", "--json",
    },
    "train": {
        "--config", "--out", "--set", "--resume", "--grow-vocab", "--device", "--memory-check", "--no-memory-check", "--json",
    },
    "index": {
        "--kind", "--factory", "--target-recall", "-k", "--metric", "--deterministic", "--replace", "--dataset", "--json",
    },
    "retrieve": {
        "--out", "-k", "--queries", "--exact", "--include-seen", "--candidates", "--exclude", "--short", "--format", "--directory",
        "--unknown", "--resume", "--divide", "--dataset", "--json", "--probabilities", "--over",
    },
    "export": {"--format", "--out", "--item-vectors", "--query-vectors", "--queries", "--texts", "--dataset", "--json"},
    "evaluate": {"--split", "-k", "--metric", "--exact", "--by-popularity", "--per-query", "--max-queries", "--dataset", "--predictions", "--truth", "--train", "--num-items", "--bootstrap", "--propensity", "--out", "--json"},
    "compare": {"--config", "--out", "--set", "--target", "--device", "--split", "-k", "--metric", "--truth", "--train", "--num-items", "--max-queries", "--resamples", "--seed", "--dataset", "--json"},
    "demo": {"--out", "--json"},
    "inspect": {"--verify", "--no-verify", "--json"},
    "doctor": {"--json"},
}  # fmt: skip


def packages() -> list[str]:
    return ["xclass", *sorted(f"xclass.{path.parent.name}" for path in (ROOT / "xclass").glob("*/__init__.py"))]


def commands() -> dict[str, Any]:
    group: Any = typer.main.get_command(app.app)
    return dict(group.commands)


@pytest.mark.parametrize("package", PUBLIC)
def test_public_names_are_pinned(package: str) -> None:
    assert set(importlib.import_module(package).__all__) == PUBLIC[package]


@pytest.mark.parametrize("package", packages())
def test_what_a_room_shows_exists_and_is_documented(package: str) -> None:
    module = importlib.import_module(package)
    assert inspect.getdoc(module)
    for name in getattr(module, "__all__", []):
        shown = getattr(module, name)
        if inspect.isclass(shown) or inspect.isfunction(shown):
            assert inspect.getdoc(shown), name


def test_the_face_has_nothing_else() -> None:
    assert set(dir(xclass)) == PUBLIC["xclass"]
    with pytest.raises(AttributeError, match="has no attribute 'opendataset'"):
        xclass.opendataset  # noqa: B018


def test_commands_and_their_options_are_pinned() -> None:
    found = {
        name: {
            flag
            for parameter in command.params
            for flag in [*parameter.opts, *parameter.secondary_opts]
            if flag[0] == "-"
        }
        for name, command in commands().items()
    }
    assert found == OPTIONS


@pytest.mark.parametrize("name", list(app.COMMANDS))
def test_every_command_and_option_has_help(name: str) -> None:
    command = commands()[name]
    assert command.help
    assert command.help.splitlines()[0].endswith(".")
    assert [parameter.name for parameter in command.params if not parameter.help] == []


@pytest.mark.parametrize("name", list(app.COMMANDS))
def test_every_command_can_print_json(name: str) -> None:
    assert "--json" in OPTIONS[name]


def test_the_documentation_lists_every_command() -> None:
    text = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `xclass ([a-z]+)", text, flags=re.MULTILINE)
    assert listed == list(app.COMMANDS)
