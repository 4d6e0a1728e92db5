"""Whether a run fits: what the machine has, what is refused, what is named as a remedy, what is left alone."""

from __future__ import annotations

import json

import pytest
import torch

import xclass
from xclass.cli import main
from xclass.config import apply_overrides, build_config
from xclass.errors import XclassError
from xclass.estimate import layout, machine, own_sizes, report
from xclass.estimate.machine import Available, available
from xclass.estimate.memory import CANDIDATES, Job, parts_of
from xclass.estimate.parts import PLACES, total
from xclass.estimate.verdict import FITS, TIGHT, TOO_LARGE, changes, judge, verdict
from xclass.ingest.synthetic.pairs import PlantedModel
from xclass.runs.train import resolve_config, train_run
from xclass.runtime import memory
from xclass.runtime.memory import UNLIMITED
from xclass.training.run_config import RunConfig

CPU = torch.device("cpu")
GIB = 1 << 30
LARGE = Job(queries=1_000_000, items=10_000_000, pairs=50_000_000, valid_pairs=10_000, files={})
PLENTY = Available(1 << 50, 1 << 50, 1 << 50, 1 << 50)


def answers(config, there, job=LARGE):
    parts = parts_of(config, job, CPU, 0)
    return parts, verdict(config, job, CPU, parts, there)


def test_the_answers():
    config = RunConfig()
    parts, found = answers(config, PLENTY)
    assert found.answer == FITS and found.changes == []
    sure, expected = total(parts, "memory", certain=True), total(parts, "memory")
    assert sure < expected
    assert answers(config, PLENTY._replace(memory=expected - 1))[1].answer == TIGHT
    assert answers(config, PLENTY._replace(memory=expected))[1].answer == FITS
    assert answers(config, PLENTY._replace(memory=0, memory_at_most=sure))[1].answer == TIGHT
    assert answers(config, PLENTY._replace(memory=0, memory_at_most=sure - 1))[1].answer == TOO_LARGE
    _, found = answers(config, PLENTY._replace(disk=1))
    assert found.places == {"memory": FITS, "disk": TOO_LARGE} and {c.place for c in found.changes} == {"disk"}


def applied(config, setting):
    values = config.model_dump(exclude_none=True)
    return build_config(RunConfig, apply_overrides(values, setting.split(" and ")))


@pytest.mark.parametrize("place", ["memory", "disk"])
def test_a_change_saves_what_it_says(place):
    config = resolve_config({"optimizer": "adam"})
    parts, _ = answers(config, PLENTY)
    there = PLENTY._replace(memory=3 * GIB, memory_at_most=3 * GIB, disk=20 * GIB)
    found = changes(config, LARGE, CPU, parts, there, place)
    assert len(found) >= 3
    for change in found:
        fewer = parts_of(applied(config, change.setting), LARGE, CPU, 0)
        assert change.needed_bytes == total(fewer, place) == total(parts, place) - change.saved_bytes
        assert change.then == judge(fewer, there)[place]
    settings = " ".join(change.setting for change in found)
    assert 'optimizer = "adagrad"' in settings and "share_item_table" in settings
    if place == "memory":
        assert 'tables.storage = "mapped"' in settings


def test_where_no_key_is_enough_several_are_named():
    config = resolve_config({"optimizer": "adam"})
    parts, _ = answers(config, PLENTY)
    there = PLENTY._replace(disk=total(parts, "disk") // 6)
    *alone, together = changes(config, LARGE, CPU, parts, there, "disk")
    assert all(change.then != FITS for change in alone) and together.then == FITS and " and " in together.setting
    names = [setting.split(" = ")[0] for setting in together.setting.split(" and ")]
    assert len(set(names)) == len(names)
    assert total(parts_of(applied(config, together.setting), LARGE, CPU, 0), "disk") <= there.disk


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    model = PlantedModel(num_items=300, num_queries=400, pairs=8000, num_topics=8, seed=3)
    return model.write_dataset(tmp_path_factory.mktemp("fit") / "dataset")


SMALL = {
    "model": {"embedding_dim": 8},
    "sampler": {"num_sampled": 32},
    "train": {"epochs": 1, "batch": {"size": 256}, "validation": {"queries": 50}},
}


def only(monkeypatch, **changed):
    monkeypatch.setattr(report, "available", lambda device, out: PLENTY._replace(**changed))


def test_what_cannot_fit_is_refused_before_anything_is_there(dataset, tmp_path, monkeypatch):
    only(monkeypatch, memory=1000, memory_at_most=1000)
    with pytest.raises(XclassError) as refused:
        train_run(dataset, resolve_config(SMALL), tmp_path / "deep" / "run")
    said = str(refused.value)
    assert "does not fit into memory" in said and "MiB at least" in said and "1000 B at most" in said
    assert "--no-memory-check" in said
    assert not (tmp_path / "deep").exists()


def test_the_disk_is_looked_at_too_and_names_what_helps(dataset, tmp_path, monkeypatch):
    only(monkeypatch, disk=1000)
    with pytest.raises(XclassError, match=r"onto the disk(.|\n)*at most(.|\n)*--out"):
        train_run(dataset, resolve_config(SMALL), tmp_path / "run")


def test_a_run_that_may_fit_is_never_refused(dataset, tmp_path, monkeypatch):
    parts = parts_of(resolve_config(SMALL), Job.of(dataset), CPU, machine.anonymous_bytes())
    sure = total(parts, "memory", certain=True) + (256 << 20)  # this process may grow until it is asked again
    only(monkeypatch, memory=0, memory_at_most=sure, disk=total(parts, "disk", certain=True))
    assert (train_run(dataset, resolve_config(SMALL), tmp_path / "run") / "run.json").exists()


def test_people_who_know_better(dataset, tmp_path, monkeypatch, capsys):
    only(monkeypatch, memory=1000, memory_at_most=1000)
    (tmp_path / "config.toml").write_text(
        "[model]\nembedding_dim = 8\n[sampler]\nnum_sampled = 32\n[train]\nepochs = 1\n[train.validation]\nqueries = 50\n"
    )
    arguments = ["train", str(dataset.path), "--config", str(tmp_path / "config.toml"), "--out", str(tmp_path / "run")]
    assert main(arguments) == 1
    assert "does not fit into memory" in capsys.readouterr().err and not (tmp_path / "run").exists()
    assert main([*arguments, "--no-memory-check"]) == 0
    xclass.train(dataset, SMALL, tmp_path / "python", check_memory=False)


def test_a_finished_run_is_left_alone_whatever_there_is(dataset, tmp_path, monkeypatch):
    run = train_run(dataset, resolve_config(SMALL), tmp_path / "run")
    only(monkeypatch, memory_at_most=0)
    assert train_run(dataset, resolve_config(SMALL), run, resume=True) == run


def test_this_machine(tmp_path):
    there = available(CPU, tmp_path / "a" / "b")
    assert 0 < there.memory <= there.memory_at_most and there.disk > 0 and there.accelerator == 0
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint").write_bytes(bytes(1 << 20))
    own = available(CPU, tmp_path / "run").disk - available(CPU, tmp_path / "other").disk
    assert own == pytest.approx(1 << 20, abs=1 << 19)  # others write to this disk meanwhile
    assert [there.of(place) for place in PLACES] == [there.memory, there.accelerator, there.disk]


def groups(tmp_path, monkeypatch, own, files):
    (tmp_path / "own").write_text(own)
    for name, text in files.items():
        (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name).write_text(text)
    monkeypatch.setattr(memory, "OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(memory, "CGROUPS", tmp_path / "groups")
    return memory._left_in_groups()


def test_limits_of_control_groups(tmp_path, monkeypatch):
    stat = "anon 5\nactive_file 30\ninactive_file 20\n"
    inner = {"a/b/memory.max": "max\n", "a/b/memory.current": "100\n", "a/b/memory.stat": stat}
    outer = {"a/memory.max": "1000\n", "a/memory.current": "400\n", "a/memory.stat": stat}
    assert groups(tmp_path, monkeypatch, "0::/a/b\n", {**inner, **outer}) == 1000 - 400 + 50
    assert groups(tmp_path, monkeypatch, "0::/elsewhere\n", {}) == UNLIMITED


def test_limits_of_control_groups_of_version_1(tmp_path, monkeypatch):
    files = {
        "memory/x/memory.limit_in_bytes": "500\n",
        "memory/x/memory.usage_in_bytes": "600\n",
        "memory/x/memory.stat": "total_active_file 30\ntotal_inactive_file 20\n",
        "memory/memory.limit_in_bytes": f"{1 << 63}\n",
        "memory/memory.usage_in_bytes": "9\n",
        "memory/memory.stat": "total_active_file 1\n",
    }
    assert groups(tmp_path, monkeypatch, "4:cpuset,memory:/x\n3:cpu:/y\n0::/\n", files) == 0


def test_a_system_that_tells_nothing_is_not_refused(tmp_path, monkeypatch):
    for room, name in ((memory, "MEMINFO"), (machine, "STATUS"), (memory, "OWN_CGROUPS")):
        monkeypatch.setattr(room, name, tmp_path / "missing")
    there = available(CPU, tmp_path)
    assert there.memory == there.memory_at_most == UNLIMITED


def test_swap_and_caches_count_before_a_run_is_refused(tmp_path, monkeypatch):
    lines = {"MemTotal": 100, "MemFree": 10, "MemAvailable": 40, "Buffers": 1, "Cached": 60, "Shmem": 5, "SwapFree": 7}
    (tmp_path / "meminfo").write_text("".join(f"{name}: {count} kB\n" for name, count in lines.items()))
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "OWN_CGROUPS", tmp_path / "missing")
    assert memory.left_memory() == (40 * 1024, (10 + 1 + 60 + 7 - 5) * 1024)


def test_the_command(dataset, tmp_path, capsys):
    (tmp_path / "config.toml").write_text("[model]\nembedding_dim = 8\n")
    arguments = ["estimate", str(dataset.path), "--config", str(tmp_path / "config.toml"), "--no-calibrate"]
    assert main([*arguments, "--out", str(tmp_path / "run"), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["time"] is None and answer["calibration"] is None and answer["verdict"]["answer"] == FITS
    assert answer["memory"]["components"]["table item: weight"] == 300 * 8 * 4
    assert main([*arguments, "--set", "train.epochs=3", "--out", str(tmp_path / "run")]) == 0
    printed = capsys.readouterr().out
    assert "table item: weight" in printed and "It fits." in printed and "needed at once" in printed
    assert list(tmp_path.iterdir()) == [tmp_path / "config.toml"]


def test_the_command_says_what_would_help(dataset, tmp_path, capsys, monkeypatch):
    only(monkeypatch, disk=1000)
    (tmp_path / "config.toml").write_text('optimizer = "adam"\n')
    assert main(["estimate", str(dataset.path), "--config", str(tmp_path / "config.toml"), "--no-calibrate"]) == 0
    printed = capsys.readouterr().out
    assert "It does not fit." in printed and 'optimizer = "adagrad"' in printed


@pytest.mark.parametrize(
    "changes",
    [
        {"model.query.hidden": "[65536, 65536, 65536, 65536, 65536, 65536, 65536, 65536, 65536]"},
        {"sampler.kind": '"in-batch"', "sampler.frequency": '"streaming"', "sampler.frequency_buckets": "2147483647"},
        {"head.kind": '"cnn"', "head.filters": "[65536, 65536]"},
        {"sampler.num_sampled": "2147483647"},
    ],
)
def test_what_no_dataset_makes_smaller_is_refused_without_being_built(
    changes: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The estimate builds small models, in which these parts would be as large as in the run."""
    config = build_config(RunConfig, apply_overrides({}, [f"{key}={value}" for key, value in changes.items()]))
    monkeypatch.setattr(own_sizes, "left_memory", lambda: (20 << 30, 20 << 30))
    monkeypatch.setattr(layout, "_built", lambda *given: pytest.fail("something was built"))
    with pytest.raises(XclassError, match="does not fit into memory"):
        layout.layout_of(config)
    monkeypatch.setattr(own_sizes, "left_memory", lambda: (1 << 50, 1 << 50))
    own_sizes.check_own_sizes(config)


def test_candidates_of_each_query_are_certain() -> None:
    keys = ["train.batch.by=query", "sampler.per_query=true", "sampler.num_sampled=1000000"]
    config = build_config(RunConfig, apply_overrides({}, keys))
    parts = parts_of(config, Job(50_000, 1000, 500_000, 0, {}), torch.device("cpu"), 0)
    sure = next(part for part in parts if part.component == CANDIDATES)
    assert sure.certain and sure.bytes == 2048 * 1_000_000 * 12
