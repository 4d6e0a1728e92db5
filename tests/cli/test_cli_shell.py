"""What every command has in common: exit codes, one message on stderr, stdout for the answer only."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import safetensors.numpy
import torch

from xclass import __version__
from xclass.cli import app, main
from xclass.cli.failures import explain, report
from xclass.errors import DataError, Interrupted

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.fixture
def replace_doctor(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Make ``xclass doctor`` run something else: the simplest command around."""

    def replace(function: Callable[[], object]) -> None:
        def command() -> None:
            function()

        monkeypatch.setitem(app.COMMANDS, "doctor", command)
        monkeypatch.setattr(app, "app", app.build_app())

    return replace


def fail_with(error: BaseException) -> Callable[[], None]:
    def raising() -> None:
        raise error

    return raising


def test_done_is_zero(replace_doctor: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    replace_doctor(lambda: None)
    assert main(["doctor"]) == 0
    assert capsys.readouterr() == ("", "")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr() == (f"xclass {__version__}\n", "")


@pytest.mark.parametrize("arguments", [["nope"], ["inspect"], ["inspect", "a", "--nope"], ["inspect", "a", "b"]])
def test_usage_is_two(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("Usage: xclass")


def test_wrong_input_is_one_message(replace_doctor: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    replace_doctor(fail_with(DataError("column is missing", where="a.csv", do="pass --query-col user")))
    assert main(["doctor"]) == 1
    assert capsys.readouterr() == ("", "error: a.csv: column is missing\n  do: pass --query-col user\n")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (KeyboardInterrupt(), "nothing half-written is left behind\n  do: run the same command again: xclass doctor\n"),
        (
            Interrupted("stopped at step 7", "xclass train d --resume"),
            "stopped at step 7\n  do: xclass train d --resume\n",
        ),
    ],
)
def test_interrupted_is_three_and_says_how_to_go_on(
    error: BaseException, message: str, replace_doctor: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    replace_doctor(fail_with(error))
    assert main(["doctor"]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.endswith(message)
    assert "Traceback" not in captured.err


def test_the_command_to_run_again_is_quoted(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(KeyboardInterrupt(), ["ingest", "my file.csv", "--out", "d"]) == 3
    assert "xclass ingest 'my file.csv' --out d\n" in capsys.readouterr().err


def test_sigterm_ends_as_an_interrupt_does(
    replace_doctor: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def terminate() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    replace_doctor(terminate)
    assert main(["doctor"]) == 3
    assert capsys.readouterr().err.startswith("interrupted")
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_defect_keeps_its_traceback(replace_doctor: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    replace_doctor(lambda: {}["missing"])
    assert main(["doctor"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" in captured.err
    assert "KeyError: 'missing'" in captured.err
    assert captured.err.splitlines()[-1].startswith("error: this is a defect of xclass")


@pytest.fixture
def small_files() -> object:
    """No file of this process may grow past 64 KiB: to a writer that is a disk without room."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, old[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, old)


def write_faiss(path: Path, numbers: np.ndarray) -> None:
    faiss = pytest.importorskip("faiss")
    index = faiss.IndexFlatIP(10)
    index.add(numbers.astype(np.float32).reshape(-1, 10))
    faiss.write_index(index, str(path))


WRITERS: dict[str, Callable[[Path, np.ndarray], object]] = {
    "python": lambda path, numbers: path.write_bytes(numbers.tobytes()),
    "numpy": lambda path, numbers: np.save(path.with_suffix(".npy"), numbers),
    "memmap": lambda path, numbers: np.lib.format.open_memmap(path, mode="w+", dtype=float, shape=numbers.shape),
    "polars": lambda path, numbers: pl.DataFrame({"a": numbers}).write_parquet(path),
    "polars sink": lambda path, numbers: pl.LazyFrame({"a": numbers}).sink_parquet(path),
    "safetensors": lambda path, numbers: safetensors.numpy.save_file({"a": numbers}, path),
    "faiss": write_faiss,
}


@pytest.mark.usefixtures("small_files")
@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_one_message_whoever_writes(writer: str, tmp_path: Path) -> None:
    numbers = np.linspace(0.0, 1.0, 50_000)
    with pytest.raises(Exception) as caught:
        WRITERS[writer](tmp_path / "file", numbers)
    message = explain(caught.value)
    assert message is not None
    assert "the disk is full" in message
    assert "do: free some space" in message


@pytest.mark.parametrize(
    "allocate", [lambda: torch.empty(1 << 50), lambda: np.empty(1 << 47), fail_with(MemoryError())]
)
def test_out_of_memory_is_one_message(allocate: Callable[[], object]) -> None:
    with pytest.raises((MemoryError, RuntimeError)) as caught:
        allocate()
    message = explain(caught.value)
    assert message is not None
    assert message.startswith("out of memory")
    assert "do: make the batch" in message


def test_a_full_disk_is_found_below_another_error() -> None:
    try:
        try:
            raise OSError(28, "No space left on device", "/x/a.npy")
        except OSError as error:
            raise RuntimeError("could not save") from error
    except RuntimeError as error:
        assert "/x/a.npy: the disk is full" in (explain(error) or "")


def test_a_path_error_is_explained_but_not_one_that_was_handled() -> None:
    assert explain(PermissionError(13, "Permission denied", "/x")) == "/x: permission denied\n  do: check the path"
    try:
        try:
            raise FileNotFoundError(2, "No such file", "/x")
        except FileNotFoundError:
            {}["defect"]
    except KeyError as error:
        assert explain(error) is None


def test_a_reader_that_goes_away_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "xclass", "--help"]
    done = subprocess.run(command, env=ENVIRONMENT, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert done.stderr == ""


def test_help_does_not_wait_for_torch() -> None:
    code = "import sys; from xclass.cli import main; main(['--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    heavy = {"torch", "numpy", "polars", "scipy", "faiss", "pydantic", "matplotlib"}
    assert heavy & set(done.stderr.split()) == set()
    assert "inspect" in done.stdout


def test_errors_stay_on_stderr_with_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tmp_path), "--json"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "no manifest" in captured.err


LONG_WORK = """
import sys, time
from xclass.cli import app, main
app.COMMANDS["doctor"] = lambda: (print("on", flush=True), time.sleep(30))
app.app = app.build_app()
sys.exit(main(["doctor"]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_real_process_is_stopped(number: signal.Signals) -> None:
    command = [sys.executable, "-c", LONG_WORK]
    process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "on\n"
    process.send_signal(number)
    _, message = process.communicate(timeout=20)
    assert process.returncode == 3
    assert message == (
        "interrupted; nothing half-written is left behind\n  do: run the same command again: xclass doctor\n"
    )


def test_the_module_runs_the_same_command_line() -> None:
    command = [sys.executable, "-m", "xclass", "--version"]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"xclass {__version__}\n", "")


def test_the_launcher_of_several_processes_is_told_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (tmp_path / "error.json", tmp_path / "none" / "error.json"):
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(path))
        assert report(DataError("column is missing", where="a.csv"), ["ingest"]) == 1
    told = json.loads((tmp_path / "error.json").read_text())["message"]
    assert told["message"] == "a.csv: column is missing" and int(told["extraInfo"]["timestamp"]) > 0
