"""What we write stays in its place, and what a killed process left has an owner no more."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from xclass.cli import main
from xclass.errors import ArtefactError
from xclass.ingest.ingest import ingest
from xclass.io.files import (
    atomic_directory,
    atomic_file,
    check_contained,
    inside,
    locked,
    remove_any,
    remove_leftovers,
    scratch_directory,
)
from xclass.io.manifest import sha256_file
from xclass.runs.train import resolve_config, train_run


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def link(path: Path) -> None:
    (path.parent / "target").write_text("precious")
    path.symlink_to(path.parent / "target")


def listening(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)
    os.chdir(here)


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (link, "a symbolic link"),
        (lambda path: path.symlink_to(path.parent / "nothing"), "a symbolic link"),
        (os.mkfifo, "a named pipe"),
        (os.mkdir, "a directory"),
        (listening, "a socket"),
    ],
)
def test_only_a_file_is_replaced_by_a_file(tmp_path: Path, make: Callable[[Path], None], kind: str) -> None:
    path = tmp_path / "out"
    make(path)
    before = os.lstat(path)
    with pytest.raises(ArtefactError, match=f"{kind} is here"), atomic_file(path):
        pytest.fail("the body must not run")
    after = os.lstat(path)
    assert (before.st_ino, before.st_mode) == (after.st_ino, after.st_mode)
    if (tmp_path / "target").exists():
        assert (tmp_path / "target").read_text() == "precious"


def test_a_device_is_not_replaced() -> None:
    with pytest.raises(ArtefactError, match="a device is here"), atomic_file(Path("/dev/null")):
        pytest.fail("the body must not run")


@pytest.mark.parametrize("replace", [False, True])
def test_only_a_directory_is_replaced_by_a_directory(tmp_path: Path, replace: bool) -> None:
    for name in ("file", "link", "dangling"):
        path = tmp_path / name
        path.write_text("") if name == "file" else path.symlink_to(tmp_path if name == "link" else tmp_path / "none")
        with pytest.raises(ArtefactError), atomic_directory(path, replace):
            pytest.fail("the body must not run")
    assert names(tmp_path) == ["dangling", "file", "link"]


def test_a_lock_does_not_follow_a_link(tmp_path: Path) -> None:
    run, victim = tmp_path / "run", tmp_path / "victim"
    run.mkdir()
    victim.write_text("precious")
    (run / ".lock").symlink_to(victim)
    with pytest.raises(ArtefactError, match="leads out of the directory"), locked(run):
        pytest.fail("the body must not run")
    (run / ".lock").unlink()
    (run / "own").write_text("precious")
    (run / ".lock").symlink_to("own")
    with pytest.raises(ArtefactError, match="a symbolic link is here"), locked(run):
        pytest.fail("the body must not run")
    assert victim.read_text() == (run / "own").read_text() == "precious"


def test_a_lock_keeps_what_the_file_holds_and_is_for_one(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("kept")
    with locked(tmp_path), pytest.raises(ArtefactError, match="another process"), locked(tmp_path):
        pytest.fail("the body must not run")
    with locked(tmp_path):
        assert (tmp_path / ".lock").read_text() == "kept"


@pytest.mark.parametrize("name", ["checkpoints", "tables", "metrics.jsonl", "growing", "checkpoints/best"])
def test_nothing_is_written_through_a_link_in_a_run(tmp_path: Path, name: str) -> None:
    run, outside = tmp_path / "run", tmp_path / "outside"
    outside.mkdir()
    (run / name).parent.mkdir(parents=True)
    (run / name).symlink_to(outside)
    with pytest.raises(ArtefactError, match="leads out of the directory"):
        check_contained(run)
    log = tmp_path / "log.csv"
    log.write_text("user_id,item_id\n" + "".join(f"u{n % 5},i{n % 7}\n" for n in range(35)))
    with pytest.raises(ArtefactError, match="leads out of the directory"):
        train_run(ingest(log, tmp_path / "dataset"), resolve_config({}), run, resume=True)
    assert names(outside) == []


def test_names_that_stay_below_their_directory(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "also").symlink_to("train")
    for name in ("a", "train/values.npy", "..a", "a..", "also/values.npy", "with blank"):
        assert inside(tmp_path, name) == tmp_path / name


def killed(body: Callable[[], None]) -> None:
    """Run ``body`` in a process that dies by SIGKILL inside it."""
    pid = os.fork()
    if not pid:
        body()
        os._exit(1)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_what_a_killed_process_left_goes_with_the_next_of_its_kind(tmp_path: Path) -> None:
    def write_file() -> None:
        with atomic_file(tmp_path / "a.txt") as temporary:
            temporary.write_text("half")
            die()

    def write_directory() -> None:
        with atomic_directory(tmp_path / "b", replace=True) as temporary:
            (temporary / "half").write_text("half")
            die()

    def scratch() -> None:
        with scratch_directory(tmp_path / "c"):
            die()

    (tmp_path / "b").mkdir()
    for body in (write_file, write_directory, scratch, write_file):
        killed(body)
    left = [name for name in names(tmp_path) if name != "b"]
    assert [name.split(".")[1] for name in left] == ["a", "b", "c"]  # the second left what the first had
    with atomic_file(tmp_path / "a.txt") as temporary:
        temporary.write_text("whole")
    assert len(names(tmp_path)) == 4
    with atomic_directory(tmp_path / "b", replace=True), scratch_directory(tmp_path / "c"):
        pass
    assert names(tmp_path) == ["a.txt", "b"]


def test_what_a_living_process_writes_is_nobodys_leftover(tmp_path: Path) -> None:
    (tmp_path / ".a.txt.12345678.tmp").symlink_to(tmp_path / "victim")
    (tmp_path / "victim").write_text("precious")
    with atomic_file(tmp_path / "a.txt") as first, scratch_directory(tmp_path / "d") as folder:
        remove_leftovers(tmp_path)
        with atomic_file(tmp_path / "a.txt") as second:
            second.write_text("second")
        assert first.exists() and folder.exists()
        first.write_text("first")
    assert (tmp_path / "a.txt").read_text() == "first"
    assert (tmp_path / "victim").read_text() == "precious"


def test_a_finished_run_is_resumed_while_its_index_is_made(tmp_path: Path) -> None:
    log, run = tmp_path / "log.csv", tmp_path / "run"
    log.write_text("user_id,item_id\n" + "".join(f"u{n % 20},i{n * n % 31}\n" for n in range(300)))
    dataset = ingest(log, tmp_path / "dataset")
    config = resolve_config({"model": {"embedding_dim": 4}, "sampler": {"num_sampled": 4}, "train": {"epochs": 1}})
    train_run(dataset, config, run)
    with atomic_directory(run / "index") as temporary:
        (temporary / "vectors.npy").write_text("on their way")
        train_run(dataset, config, run, resume=True)
        assert (temporary / "vectors.npy").exists()
    assert (run / "index" / "vectors.npy").exists()


def test_a_killed_ingest_leaves_nothing_that_the_next_one_keeps(tmp_path: Path) -> None:
    """By a real ``kill -9`` of a process that was writing the dataset, after its scratch files were made."""
    script = (
        "import os, sys; from xclass.ingest.synthetic import documents as planted_documents; from xclass.ingest.writing import arrays as writing; from xclass.cli import main\n"
        "writing.write_manifest = lambda *_, **__: os.kill(os.getpid(), 9)\n"
        "main(sys.argv[1:])"
    )
    command = ["ingest", "planted-documents:documents=60,features=30,labels=20", "--out", str(tmp_path / "data")]
    done = subprocess.run([sys.executable, "-c", script, *command], check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL
    assert len(names(tmp_path)) == 2
    assert main(command) == 0
    assert names(tmp_path) == ["data"]


def test_a_pipe_is_no_file_to_hash(tmp_path: Path) -> None:
    """Reading it would wait for ever, for a part of a stopped job, say."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ArtefactError, match="a named pipe is here"):
        sha256_file(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert sha256_file(tmp_path / "link") == sha256_file(tmp_path / "file")


@pytest.mark.parametrize("name", ["metrics.jsonl", "tables", "checkpoints/best", "index"])
def test_a_directory_that_is_written_to_has_no_pipes(name: str, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    os.mkfifo(tmp_path / name)
    with pytest.raises(ArtefactError, match="a named pipe is here"), locked(tmp_path):
        pass


def test_whatever_is_there_is_removed(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "full" / "below").mkdir(parents=True)
    os.mkfifo(tmp_path / "full" / "pipe")
    for name in ("link", "pipe", "full", "nothing"):
        remove_any(tmp_path / name)
    assert names(tmp_path) == ["kept"]
