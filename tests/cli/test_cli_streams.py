"""Streams that are closed or have lost their reader, names that are no UTF-8, limits of the process."""

from __future__ import annotations

import io
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from xclass.cli import limits, main
from xclass.cli.failures import WRONG_INPUT, explain
from xclass.ingest.synthetic.pairs import PlantedModel
from xclass.runtime.jit import compiles
from xclass.runtime.progress import Progress, say

ROOT = Path(__file__).resolve().parents[2]
PROBE = """
import sys
from xclass.runtime.streams import open_missing
open_missing()
kept = open(sys.argv[1], "w")
print("to stdout")
sys.stderr.write("to stderr")
sys.stderr.flush()
assert sys.stdin.read() == "" and kept.fileno() > 2
try:
    sys.stdout.flush()
except OSError as error:
    kept.write(f"stdout {error.errno}")
kept.flush()
import os
os._exit(0)
"""


@pytest.fixture
def without_reader() -> Iterator[io.TextIOWrapper]:
    """A pipe that nobody reads any more."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as stream:
        yield stream


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = PlantedModel(num_items=50, num_queries=60, pairs=600, num_topics=4, seed=0)
    return model.write_dataset(tmp_path_factory.mktemp("streams") / "dataset").path


def test_a_training_goes_on_without_a_reader_of_stderr(
    dataset: Path, tmp_path: Path, without_reader: io.TextIOWrapper, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "c.toml").write_text("[model]\nembedding_dim = 4\n[train]\nepochs = 2\n")
    with monkeypatch.context() as lost:
        lost.setattr(sys, "stderr", without_reader)
        code = main(["train", str(dataset), "--config", str(tmp_path / "c.toml"), "--out", str(tmp_path / "run")])
    assert code == 0 and (tmp_path / "run" / "run.json").exists()


@pytest.mark.parametrize("stream", ["none", "closed", "without a reader"])
def test_stderr_that_takes_nothing_is_no_error(
    stream: str, without_reader: io.TextIOWrapper, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = io.StringIO()
    closed.close()
    lost = {"none": None, "closed": closed, "without a reader": without_reader}[stream]
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", lost)
        say("a line")
        with Progress("read", None, "rows") as bar:
            bar.advance(3)
        say("another line")


@pytest.mark.parametrize("form", ["--json", "table"])
def test_an_answer_that_can_not_be_delivered_is_a_failure(
    form: str,
    dataset: Path,
    without_reader: io.TextIOWrapper,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    command = ["inspect", str(dataset), *(["--json"] if form == "--json" else [])]
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", without_reader)
        assert main(command) == WRONG_INPUT
    assert capfd.readouterr() == ("", ""), "whoever closes a pipe knows it"
    with Path("/dev/full").open("w") as full, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", full)
        assert main(command) == WRONG_INPUT
    said = capfd.readouterr().err
    assert said.startswith("error: stdout: the answer can't be written") and "no space left" in said


def test_places_of_missing_streams_are_taken(tmp_path: Path) -> None:
    """A file that is opened later must not get number 2: libraries would print into it."""
    script = f'exec {sys.executable} -c "$0" "$1" <&- >&- 2>&-'
    done = subprocess.run(
        ["bash", "-c", script, PROBE, str(tmp_path / "kept")], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False
    )
    assert done.returncode == 0
    assert (tmp_path / "kept").read_text() == "stdout 9"


def test_names_that_are_no_utf8(dataset: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    assert main(["inspect", name]) == WRONG_INPUT
    said = capfd.readouterr().err
    assert "not valid UTF-8" in said and "\\udcff" in said and "defect" not in said
    error = UnicodeEncodeError("utf-8", name, len(name) - 1, len(name), "surrogates not allowed")
    assert "not valid UTF-8" in (explain(error) or "")


def test_a_folder_around_whose_name_is_no_utf8(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    odd.mkdir()
    monkeypatch.chdir(odd)
    Path("c.toml").write_text("[model]\nembedding_dim = 4\n[train]\nepochs = 1\n")
    os.symlink(dataset, "data")
    assert main(["train", "data", "--config", "c.toml", "--out", "run"]) == 0
    assert main(["evaluate", "run", "--dataset", "data", "--json"]) == 0
    capfd.readouterr()
    assert main(["inspect", "run", "--json"]) == 0
    json.loads(capfd.readouterr().out)


def test_too_small_an_address_space_is_refused_before_libraries_are_loaded(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(limits.resource, "getrlimit", lambda which: (1 << 30, 1 << 30))
    assert main(["doctor"]) == WRONG_INPUT
    assert "ulimit -v" in capfd.readouterr().err
    monkeypatch.setattr(limits.resource, "getrlimit", lambda which: (resource.RLIM_INFINITY,) * 2)
    limits.check_limits()


@pytest.mark.parametrize("name", ["POLARS_MAX_THREADS", "NUMBA_NUM_THREADS"])
@pytest.mark.parametrize("given", ["0", "-1", "x", "1.5"])
def test_no_number_of_threads_is_refused_before_libraries_are_loaded(
    name: str, given: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, given)
    assert main(["doctor"]) == WRONG_INPUT
    assert f"unset {name}" in capfd.readouterr().err
    for fine in ("", "1"):
        monkeypatch.setenv(name, fine)
        limits.check_limits()


def test_numba_may_be_told_to_compile_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    assert not compiles.__wrapped__()


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("can't start new thread"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        OSError("could not find/load shared object file 'libllvmlite.so' from resource location"),
        type("PanicException", (BaseException,), {})("could not spawn threads: WouldBlock"),
        RuntimeError("std::bad_alloc"),
    ],
)
def test_every_library_says_in_its_way_that_memory_ran_out(error: BaseException) -> None:
    assert (explain(error) or "").startswith("out of memory")
