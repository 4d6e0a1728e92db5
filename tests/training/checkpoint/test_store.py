"""The store of checkpoints, and runs that survive: full disks, damage, kills while something is half done."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from xclass.data.dataset import Dataset
from xclass.errors import ArtefactError, Interrupted
from xclass.ingest.synthetic.pairs import PlantedModel
from xclass.io import files
from xclass.io import tensors as tensorfile
from xclass.runs import train
from xclass.runs.directory import RunDirectory
from xclass.runs.train import resolve_config, train_run
from xclass.training.checkpoint import store as checkpoint
from xclass.training.checkpoint.store import MANIFEST, CheckpointStore, Content, checkpoint_name, read_state
from xclass.training.metrics_log import MetricsLog, cut_after
from xclass.training.trainer import Trainer

ROWS = {"item": ["table.item.weight"]}
CONFIG = {
    "model": {"embedding_dim": 8, "normalize": False, "temperature": 1.0},
    "sampler": {"kind": "learned-unigram", "num_sampled": 32},
    "train": {
        "epochs": 4,
        "learning_rate": 100.0,
        "checkpoint_every_s": 1e-9,
        "batch": {"by": "query", "size": 64},
        "schedule": {"kind": "constant"},
        "validation": {"queries": 100},
    },
}


def tensors(value: float) -> dict[str, Tensor]:
    return {"table.item.weight": torch.full((50, 4), float(value)), "decay": torch.tensor(float(value))}


def loaded(store: CheckpointStore) -> float:
    into = tensors(-1.0)
    found = store.load(into, "sampler.")
    assert found is not None and (into["table.item.weight"] == into["decay"]).all()
    return float(into["decay"])


def names(store: CheckpointStore) -> list[str]:
    return sorted(path.name for path in store.folder.iterdir())


def fill(store: CheckpointStore, steps: list[int], best: int = 0) -> None:
    for step in steps:
        store.save(checkpoint_name(step), tensors(step), {"position": {"step": step}}, best=step == best)


def damage(path: Path) -> None:
    data = bytearray((path / "tensors.safetensors").read_bytes())
    data[-1] ^= 1
    (path / "tensors.safetensors").write_bytes(bytes(data))


def full_disk(*_: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_so_many_are_kept_and_the_best_costs_nothing(tmp_path: Path, keep: int) -> None:
    store = CheckpointStore(tmp_path, keep)
    fill(store, [1, 2, 3, 4], best=4)
    assert names(store) == ["best", *map(checkpoint_name, range(5 - keep, 5))]
    best, last = (tmp_path / name / "tensors.safetensors" for name in ("best", checkpoint_name(4)))
    assert best.samefile(last) and loaded(store) == 4.0
    state = store.best()
    assert state is not None and state["position"]["step"] == 4


def test_no_more_than_two_and_the_best_while_one_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, write, seen = CheckpointStore(tmp_path), tensorfile.write_tensors, list[int]()

    def looking(*args: Any) -> Any:
        seen.append(len([path for path in tmp_path.iterdir() if path.name != "best"]))
        return write(*args)

    monkeypatch.setattr(checkpoint, "write_tensors", looking)
    fill(store, [1, 2, 3, 4], best=1)
    assert seen == [1, 2, 2, 2]
    assert names(store) == ["best", checkpoint_name(3), checkpoint_name(4)]


def test_what_is_written_beside_training_is_the_state_at_its_beginning(tmp_path: Path) -> None:
    live = tensors(1.0)
    with CheckpointStore(tmp_path) as store:
        store.begin(checkpoint_name(1), Content(live, ROWS, {"position": {"step": 1}}))
        for _ in range(100):
            store.before_push({"item": torch.tensor([3, 30])})
            live["table.item.weight"][[3, 30]] += 1
            live["decay"] += 1
    assert loaded(store) == 1.0 and not store.busy


def test_a_full_disk_is_a_line_beside_training_and_an_error_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = CheckpointStore(tmp_path)
    fill(store, [1])
    with monkeypatch.context() as patch:
        patch.setattr(tensorfile, "_put", full_disk)
        store.begin(checkpoint_name(2), Content(tensors(2.0), ROWS, {}), best=True)
        store.wait()
        said = capsys.readouterr().err
        assert checkpoint_name(2) in said and "No space left" in said and f"{checkpoint_name(1)} stays" in said
        with pytest.raises(ArtefactError, match=r"(?s)can't be written.*No space left.*--resume"):
            fill(store, [2])
    assert names(store) == [checkpoint_name(1)] and loaded(store) == 1.0
    fill(store, [3])
    assert loaded(store) == 3.0


def test_what_nobody_foresaw_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(checkpoint, "write_tensors", broken)
    store = CheckpointStore(tmp_path)
    store.begin(checkpoint_name(1), Content(tensors(1.0), ROWS, {}))
    with pytest.raises(ZeroDivisionError):
        store.wait()


def test_a_keyboard_interrupt_gives_up_what_is_being_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put = tensorfile._put

    def slow(*args: Any) -> int:
        time.sleep(0.01)
        return put(*args)

    monkeypatch.setattr(tensorfile, "BLOCK_BYTES", 64)
    monkeypatch.setattr(tensorfile, "_put", slow)
    store = CheckpointStore(tmp_path)
    with pytest.raises(KeyboardInterrupt), store:
        store.begin(checkpoint_name(1), Content(tensors(1.0), ROWS, {}))
        raise KeyboardInterrupt
    assert names(store) == [] and not store.busy


def test_damaged_ones_are_passed_over_named_and_removed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = CheckpointStore(tmp_path, keep=4)
    fill(store, [1, 2, 3, 4])
    damage(tmp_path / checkpoint_name(3))
    os.truncate(tmp_path / checkpoint_name(2) / "tensors.safetensors", 50)
    manifest = tmp_path / checkpoint_name(4) / MANIFEST
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"files": {}}))
    assert loaded(store) == 1.0
    said = capsys.readouterr().err
    assert checkpoint_name(3) in said and "altered" in said and checkpoint_name(2) in said
    assert checkpoint_name(4) in said and "files must have tensors.safetensors" in said
    assert names(store) == [checkpoint_name(1)], "the next one written must not drop the last whole one for these"
    damage(tmp_path / checkpoint_name(1))
    with pytest.raises(ArtefactError, match="altered"):
        loaded(store)


def test_one_of_another_model_is_no_damage(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    fill(store, [1])
    with pytest.raises(ArtefactError, match="another model"):
        store.load({"other": torch.zeros(3)}, "sampler.")
    assert loaded(store) == 1.0


@pytest.mark.parametrize("best", [0, 2, 4])
def test_of_a_finished_run_the_one_with_its_weights_stays(
    tmp_path: Path, best: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after any number of removals, it is still known which one that is."""
    wanted = best or 4
    for moves in range(6):
        store = CheckpointStore(tmp_path / str(moves))
        fill(store, [1, 2, 3, 4], best)
        (store.folder / ".best.abcd1234.tmp").mkdir()
        left, rename = [moves], os.rename

        def dying(*args: Any, left: list[int] = left, rename: Callable[..., None] = rename) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            rename(*args)

        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", dying)
            try:
                store.keep_final()
            except KeyboardInterrupt:
                final = store.final()
                assert final is not None and read_state(final)["position"]["step"] == wanted
        store.keep_final()
        store.keep_final()
        assert names(store) == [checkpoint_name(wanted)] and loaded(store) == wanted


def test_leftovers_go_and_a_replacement_in_two_steps_is_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where two paths can't change places, a kill between the renames leaves nothing by the name."""
    monkeypatch.setattr(files, "_exchange", lambda *_: False)
    store, rename = CheckpointStore(tmp_path), os.rename
    fill(store, [1], best=1)

    def dying(source: Path, target: Path) -> None:
        if target == tmp_path / "best":
            os._exit(0)
        rename(source, target)

    pid = os.fork()
    if not pid:
        os.rename = dying  # type: ignore[assignment]
        fill(store, [2], best=2)
        os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
    assert not (tmp_path / "best").exists() and len(names(store)) == 3
    (tmp_path / ".hidden").touch()
    files.remove_leftovers(tmp_path)
    assert names(store) == [".hidden", "best", checkpoint_name(1)]
    state = store.best()
    assert state is not None and state["position"]["step"] == 1


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    path = tmp_path_factory.mktemp("planted") / "dataset"
    return PlantedModel(num_items=200, num_queries=300, pairs=5000, num_topics=8, seed=3).write_dataset(path)


def config(*changes: str) -> Any:
    return resolve_config(CONFIG, list(changes))


@pytest.fixture(scope="module")
def whole(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_run(dataset, config(), tmp_path_factory.mktemp("whole") / "run")


def weights(path: Path) -> bytes:
    return (path / "model.safetensors").read_bytes()


def test_a_finished_run_has_one_checkpoint_and_it_has_the_weights(whole: Path) -> None:
    result = RunDirectory(whole).manifest["result"]
    (left,) = (whole / "checkpoints").iterdir()
    assert left.name == checkpoint_name(result["best_step"]) and result["best_step"] < result["steps"]
    stored, model = load_file(left / "tensors.safetensors"), load_file(whole / "model.safetensors")
    assert all(torch.equal(stored[name], model[name]) for name in model)
    assert any(name.startswith("sampler.") for name in stored)


def test_a_disk_that_is_full_for_a_while(
    dataset: Dataset, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first checkpoint beside training fails half-way; a later one is tried."""
    write, put, written = CheckpointStore._write, tensorfile._put, list[str]()

    def filling(self: CheckpointStore, found: list[str], *rest: Any) -> None:
        with monkeypatch.context() as patch:
            if not written:
                sizes = iter([0, 0, 1])
                patch.setattr(tensorfile, "_put", lambda *args: full_disk() if next(sizes) else put(*args))
            written.append(found[-1])
            write(self, found, *rest)

    monkeypatch.setattr(CheckpointStore, "_write", filling)
    out = train_run(dataset, config(), tmp_path / "run")
    assert f"{written[0]} could not be written: No space left" in capsys.readouterr().err and len(written) > 3
    assert weights(out) == weights(whole)


def test_a_disk_that_stays_full_is_an_error_and_the_run_goes_on_later(
    dataset: Dataset, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, put, files = tmp_path / "run", tensorfile._put, [0]

    def filling(file: Any, data: Any, digest: Any) -> int:
        files[0] += 1
        return put(file, data, digest) if files[0] < 40 else full_disk()

    with monkeypatch.context() as patch:
        patch.setattr(tensorfile, "_put", filling)
        with pytest.raises(ArtefactError, match=r"(?s)No space left.*--resume"):
            train_run(dataset, config(), out)
    assert not [path for path in out.rglob(".*") if path.name != ".lock"]
    train_run(dataset, config(), out, resume=True)
    assert weights(out) == weights(whole)


def test_a_model_that_can_not_be_written_is_an_error_and_the_run_is_finished_later(
    dataset: Dataset, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(train, "write_tensors", full_disk)
        with pytest.raises(ArtefactError, match=r"(?s)model.safetensors.*No space left.*--resume"):
            train_run(dataset, config(), out)
    train_run(dataset, config(), out, resume=True)
    assert weights(out) == weights(whole)


def test_best_weights_that_could_not_be_kept_are_not_the_best(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full after the second of four validations, the best one: the third is the best that there is."""
    write, bests, values = CheckpointStore._write, list[int](), iter([0.1, 0.4, 0.3, 0.2])

    def failing(self: CheckpointStore, found: list[str], content: Content, blocks: Any) -> None:
        if "best" in found:
            bests.append(content.state["position"]["step"])
            if len(bests) == 2:
                full_disk()
        write(self, found, content, blocks)

    monkeypatch.setattr(CheckpointStore, "_write", failing)
    monkeypatch.setattr(train, "make_validator", lambda *_: lambda model: ({"recall@20": next(values)}, {}, {}))
    out = train_run(dataset, config("train.validation.patience=3"), tmp_path / "run")
    result = RunDirectory(out).manifest["result"]
    assert bests == [5, 10, 15] and (result["best_step"], result["best"]) == (15, 0.3)
    assert names(CheckpointStore(out / "checkpoints")) == [checkpoint_name(15)]


def test_damaged_best_weights_say_how_to_go_on(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, choose = tmp_path / "run", Trainer._choose_weights

    def damaging(self: Trainer) -> None:
        damage(self.store.folder / "best")
        choose(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_choose_weights", damaging)
        with pytest.raises(ArtefactError, match=r"(?s)best weights is damaged.*remove it.*--resume"):
            train_run(dataset, config(), out)
    shutil.rmtree(out / "checkpoints" / "best")
    train_run(dataset, config(), out, resume=True)
    last = train_run(dataset, config("train.validation.keep_best=false"), tmp_path / "last")
    assert weights(out) == weights(last)


def stopping(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    step = Trainer._step

    def signalled(self: Trainer, ready: Any) -> int:
        if self.position.step == at:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, ready)

    monkeypatch.setattr(Trainer, "_step", signalled)


@pytest.mark.parametrize(("at", "end"), [(0, 2), (2, 4), (4, 5), (19, 20)])
def test_a_signal_leaves_a_checkpoint_of_the_step_after_or_of_the_epoch(
    dataset: Dataset, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, end: int
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        stopping(patch, at)
        with pytest.raises(Interrupted, match=rf"step {end}; a checkpoint was written"):
            train_run(dataset, config("train.checkpoint_every_s=1000"), out)
    assert (out / "checkpoints" / checkpoint_name(end)).exists() and not (out / "run.json").exists()
    train_run(dataset, config("train.checkpoint_every_s=1000"), out, resume=True)
    assert weights(out) == weights(whole)


def test_a_signal_on_a_full_disk_still_interrupts(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopping(monkeypatch, 2)
    monkeypatch.setattr(tensorfile, "_put", full_disk)
    with pytest.raises(Interrupted, match="no checkpoint could be written"):
        train_run(dataset, config(), tmp_path / "run")


PLACES: list[tuple[Any, str, int]] = [
    *((checkpoint, "write_tensors", calls) for calls in (0, 3)),
    *((checkpoint, "write_manifest", calls) for calls in (1, 4)),
    *((files, "_swap_in", calls) for calls in (0, 1, 2, 4)),
    *((checkpoint, "remove_directory", calls) for calls in (0, 3)),
    *((checkpoint, "_link", calls) for calls in (0, 1)),
    (Trainer, "_validate", 2),
    (Trainer, "_choose_weights", 0),
    (train, "write_tensors", 0),
    (train, "write_manifest", 0),
    (CheckpointStore, "keep_final", 0),
]


@pytest.mark.parametrize(("owner", "name", "calls"), PLACES, ids=[f"{name}-{calls}" for _, name, calls in PLACES])
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_anywhere_it_ends_with_the_same_bits(
    dataset: Dataset, whole: Path, tmp_path: Path, owner: Any, name: str, calls: int, when: str
) -> None:
    """The process really dies: no ``finally`` is run, and what it wrote stays as it is."""
    out = tmp_path / "run"
    pid = os.fork()
    if not pid:
        original, left = getattr(owner, name), iter(range(calls, -1, -1))

        def killed(*args: Any, **options: Any) -> Any:
            last = next(left) == 0
            if last and when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            found = original(*args, **options)
            if last:
                os.kill(os.getpid(), signal.SIGKILL)
            return found

        setattr(owner, name, killed)
        try:
            train_run(dataset, config(), out)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    train_run(dataset, config(), out, resume=True)
    assert weights(out) == weights(whole)
    assert not [path for path in out.rglob(".*") if path.name != ".lock"]
    assert {path.name for path in out.iterdir()} == {path.name for path in whole.iterdir()}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Processes are forked off this one: nothing is to run on other threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_records_are_not_written_to_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "metrics.jsonl")  # opening it would wait for a reader
    with pytest.raises(ArtefactError, match="named pipe"):
        MetricsLog(tmp_path / "metrics.jsonl", 0)


def test_records_wait_while_the_disk_is_full(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with MetricsLog(tmp_path / "metrics.jsonl", 0) as log:
        file, log._file = log._file, open("/dev/full", "wb", buffering=0)  # noqa: SIM115
        log.write({"step": 1})
        log.write({"step": 2})
        log._file.close()
        log._file = file
        log.write({"step": 3})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n{"step": 2}\n{"step": 3}\n'
    assert capsys.readouterr().err.count("No space left") == 1


def test_damaged_records_are_dropped_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "metrics.jsonl"
    good = [b'{"step": 1, "train_s": 0.5, "loss": NaN}', b'{"step": 2, "valid": {"recall@20": 0.25}}']
    bad = [
        b"\xff",
        b"null",
        b"[1]",
        b'{"step": "1"}',
        b'{"step": 1e400}',
        b'{"loss": 1}',
        b"[" * 100_000,
        b'{"step": 3',
        b'{"step": -1}',
    ]
    path.write_bytes(b"\n".join([good[0], *bad, good[1], b'{"step": 9}']) + b"\n")
    kept = cut_after(path, 5)
    assert [record["step"] for record in kept] == [1, 2]
    assert path.read_bytes().splitlines() == good
    assert f"{len(bad)} cut or damaged lines are dropped" in capsys.readouterr().err
    assert cut_after(path, 5)[1] == kept[1] and capsys.readouterr().err == ""
