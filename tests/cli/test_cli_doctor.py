"""``xclass doctor``: tells the truth about this machine, and fails only for what is needed."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
from typing import Any

import pytest
import torch

from xclass.cli import main
from xclass.cli.commands import doctor_checks
from xclass.cli.commands.doctor_checks import BROKEN, MISSING, OK, Check, diagnose, healthy


@pytest.fixture(scope="module")
def checks() -> dict[str, Check]:
    return {check.name: check for check in diagnose()}


def test_this_machine_is_well(checks: dict[str, Check]) -> None:
    assert healthy(list(checks.values())), [check for check in checks.values() if check.status == BROKEN]
    assert checks["torch"] == Check("torch", OK, importlib.metadata.version("torch"))
    assert checks["torch threads"].found.startswith(str(torch.get_num_threads()))
    accelerated = torch.cuda.is_available()
    assert checks["accelerator"].status == (OK if accelerated else MISSING)


def test_faiss_and_torch_agree_where_both_are(checks: dict[str, Check]) -> None:
    pytest.importorskip("faiss")
    assert checks["torch and faiss in one process"].status == OK


def test_memory_is_what_the_system_says(checks: dict[str, Check]) -> None:
    total, free = doctor_checks.memory_bytes()
    assert 0 < free <= total
    assert checks["memory"].found.endswith(f"of {doctor_checks.gibibytes(total)}")


def hide(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    version = importlib.metadata.version

    def hiding(name: str) -> str:
        if name in names:
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", hiding)


@pytest.fixture
def no_probe(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The child process's answer, to be changed by a test."""
    found = {
        "threads": 2,
        "instructions": "AVX2",
        "bf16_speedup": 1.0,
        "accelerators": [],
        "faiss": "1",
        "faiss_agrees": 1.0,
    }
    monkeypatch.setattr(doctor_checks, "_run_probe", lambda: found)
    return found


@pytest.mark.usefixtures("no_probe")
def test_a_needed_package_that_is_missing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    hide(monkeypatch, "polars")
    assert main(["doctor"]) == 1
    text = capsys.readouterr().out
    assert "polars: pip install polars\n" in text
    assert text.endswith("something that xclass needs is broken\n")


@pytest.mark.usefixtures("no_probe")
def test_a_missing_extra_is_no_illness(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    hide(monkeypatch, *doctor_checks.FAISS_BUILDS)
    assert main(["doctor", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"] is True
    faiss = next(check for check in answer["checks"] if check["name"] == "faiss")
    assert faiss["status"] == MISSING
    assert "xclass[cpu]" in faiss["do"]


@pytest.mark.usefixtures("no_probe")
def test_two_builds_of_faiss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.0")
    assert not healthy(diagnose())


def test_a_search_that_disagrees(no_probe: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    no_probe["faiss_agrees"] = 0.5
    assert main(["doctor"]) == 1
    assert "a search agrees on 50% of the top 5" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("ending", "message"),
    [
        (subprocess.CompletedProcess([], -11, "", ""), "exit code -11: no message"),
        (
            subprocess.CompletedProcess([], 1, "", "Traceback\nImportError: libomp\n"),
            "exit code 1: ImportError: libomp",
        ),
        (subprocess.TimeoutExpired([], 1.0), "no answer after 120 s"),
    ],
)
def test_a_probe_that_dies_is_a_finding(ending: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*args: object, **options: object) -> Any:
        if isinstance(ending, Exception):
            raise ending
        return ending

    monkeypatch.setattr(subprocess, "run", run)
    broken = [check for check in diagnose() if check.status == BROKEN]
    assert [check.found for check in broken] == [message]
