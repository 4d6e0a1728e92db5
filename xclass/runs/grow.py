"""A run goes on over a dataset that has grown: ``xclass train DATASET --config FILE --out RUN --resume --grow-vocab``.

RUN/growing/ is a run directory of its own: it appears at once with a whole checkpoint of the grown model at step 0, is
trained like any run, and takes the place of what RUN holds when it is finished. Until then RUN stays as it was.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from xclass.config import build_config, read_toml, to_toml
from xclass.data.dataset import Dataset, checked_table, open_dataset, read_ours
from xclass.distributed import launched_alone
from xclass.errors import ArtefactError, ConfigError
from xclass.estimate import check_fit
from xclass.heads.config import SCORED
from xclass.io.files import atomic_directory, locked, remove_any, remove_leftovers
from xclass.io.manifest import read_manifest, verify_files, write_json
from xclass.io.tensors import read_tensors
from xclass.models.two_tower import TwoTower
from xclass.queries.candidates import read_candidates
from xclass.runs.directory import FORMAT_VERSION, GROWING, KIND, MANIFEST
from xclass.runs.grow_tensors import NewRows, Numbers, grow_sampler, grow_tensors, space_of
from xclass.runs.record import RunRecord, read_started
from xclass.runs.train import IDS, keep_ids, train_run, vocabularies, vocabulary_hash
from xclass.runtime.progress import say
from xclass.training import Position
from xclass.training.build import build_model, choose_device
from xclass.training.checkpoint.model_state import SAMPLER, ModelState
from xclass.training.checkpoint.resharding import TENSORS
from xclass.training.checkpoint.store import CheckpointStore, checkpoint_name, read_position
from xclass.training.metrics_log import GROWN, cut_after
from xclass.training.run_config import RunConfig
from xclass.training.trainer import OnValidation

# What decides a checkpoint's tensors: a run keeps it while it grows. Everything else may change.
TABLE_OF_SIDE = {"query": "feature", "item": "item_feature"}
FIXED = ("model", "head", "optimizer", "tables")


def grow_run(
    dataset: Dataset,
    config: RunConfig,
    out: Path | str,
    device: str = "auto",
    on_validation: OnValidation | None = None,
    check_memory: bool = True,
) -> Path:
    """Carry the run ``out`` over to ``dataset``, which holds all of its items and queries, and train on.

    Each table's old rows and their optimiser state move bit for bit to the new numbers of their items and queries. New
    rows are drawn as at the start of a run, by a generator of their own; their state is 0. Dense layers and Adam's
    moments stay bit for bit. Counts are the new dataset's; what a sampler has learned moves with the items. Training
    begins anew: all epochs of ``config``, the schedule from its start, the order of batches and the draws by the seed.

    Until the grown run is finished ``out`` is what it was: a finished run goes on serving. Killed at any moment, the
    same command goes on, and on a CPU ends with the same bits. A directory that holds no run is trained from scratch;
    one that is of this dataset already is resumed.

    Args:
        dataset: grown by ``xclass ingest --append``, or any other with these ids.
        config: model, optimizer and tables as the run was made with; the rest may differ.
        out: a run, finished or interrupted.
        device, on_validation, check_memory: as in :func:`xclass.runs.train.train_run`.

    Raises:
        ArtefactError: an item or a query of the run is not in the dataset; the run kept no optimiser state; it is cut.
        ConfigError: the model, the optimiser or the tables are others; a growth under way has another configuration.
        Interrupted: a signal came; the same command goes on.

    Cost: memory of the tables, as training; disk: one checkpoint and one model more than the run has, until it is done.
    """
    if config.head.kind not in SCORED:
        raise ConfigError(
            "only a run with item vectors can grow",
            where="head.kind",
            wanted=" or ".join(SCORED),
            got=config.head.kind,
            do="train on the larger dataset from the start",
        )
    if config.documents.sparse:
        raise ConfigError(
            "scorers of sparse features don't grow: they are trained anew in little time",
            where="documents.scorers",
            got=", ".join(config.documents.scorers),
            do="train a new run on the larger dataset",
        )
    out, how = Path(out), (device, on_validation, check_memory)
    if not (out / "started.json").exists():
        return train_run(dataset, config, out, True, *how)
    stage = out / GROWING
    if not launched_alone():
        raise ConfigError("a run is grown by one process", where="--grow-vocab", do="run it without torchrun")
    with locked(out):
        _tidy(out, stage)
        if _fingerprint(out) != dataset.fingerprint:
            if check_memory:
                check_fit(dataset, config, choose_device(device), stage)
            _prepare(out, stage, dataset, config)
            train_run(dataset, config, stage, True, *how)
            _take_over(out, stage)
            return out
    return train_run(dataset, config, out, True, *how)


def _fingerprint(run: Path) -> str:
    found: str = read_started(run)["fingerprint"]
    return found


def _tidy(out: Path, stage: Path) -> None:
    """Finish what a killed process had begun, and remove what it left."""
    remove_leftovers(out, GROWING)
    if (stage / MANIFEST).exists():
        _take_over(out, stage)
    elif stage.exists() and not (stage / "started.json").exists():
        remove_any(stage)  # its files have been moved, all of them


def _take_over(out: Path, stage: Path) -> None:
    """What ``stage`` holds takes the place of what ``out`` has by the same names. Can be done again at any point.

    The manifest goes first and comes last: in between ``out`` is not a finished run.
    """
    (out / MANIFEST).unlink(missing_ok=True)
    if (out / "index").exists():
        say("the index was of the model before it grew and is removed: make it anew with xclass index")
        remove_any(out / "index")
    entries = sorted(path for path in stage.iterdir() if not path.name.startswith(".") and path.name != MANIFEST)
    for entry in [*entries, stage / MANIFEST]:
        target = out / entry.name
        if target.is_dir():
            shutil.rmtree(target)
        os.replace(entry, target)
    shutil.rmtree(stage)


def _prepare(out: Path, stage: Path, dataset: Dataset, config: RunConfig) -> None:
    """Make ``stage``, or leave it if it is there and of the same dataset and configuration."""
    if stage.exists():
        if _fingerprint(stage) == dataset.fingerprint:
            _check_same(stage, config)
            return
        say(f"{stage} was growing over another dataset and is begun anew")
        remove_any(stage)
    stored = build_config(RunConfig, read_toml(out / "config.toml"), where=out / "config.toml")
    _check_fixed(out, stored, config)
    source = _source(out)
    maps = {
        kind: Numbers.of(source.ids[kind], ids, f"{kind} ids", dataset.path)
        for kind, ids in (("item", dataset.items["item_id"]), ("query", dataset.queries["query_id"]))
    }
    maps |= _feature_numbers(source, dataset)
    with atomic_directory(stage) as folder:
        _write_stage(folder, source, dataset, config, stored, maps)


def _feature_numbers(source: _Source, dataset: Dataset) -> dict[str, Numbers]:
    """Features keep their numbers, and more may follow: by table, of both sides.

    Raises:
        ArtefactError: the dataset numbers its features in another way, or has fewer.
    """
    found = {}
    for side, sets in source.started.get("vocabularies", {}).items():
        sizes = dataset.feature_sizes(side)
        for name, before in sets.items():
            size = before["size"]
            same = sizes.get(name, 0) >= size and vocabulary_hash(dataset, side, name, size) == before["sha256"]
            if not same:
                raise ArtefactError(
                    f'the {side} features "{name}" are not those that the run was trained on',
                    where=dataset.path,
                    wanted=f"the same {size:,} features under the same numbers, more of them after these",
                    got=f"{sizes.get(name, 0):,} features",
                    do="ingest with the same vocabulary, or train anew",
                )
            found[f"{TABLE_OF_SIDE[side]}.{name}"] = Numbers.longer(size, sizes[name])
    return found


class _Source(NamedTuple):
    """What a run is carried over from.

    checkpoint: with the weights and the optimisers' state. sampled: the one with what the sampler has learned.
    ids: "item" and "query" → external ids by old number.
    """

    out: Path
    checkpoint: Path
    sampled: Path
    started: dict[str, Any]
    finished: bool
    step: int
    ids: dict[str, pl.Series]
    train_pairs: int


def _source(out: Path) -> _Source:
    started, finished = read_started(out), (out / MANIFEST).exists()
    store = CheckpointStore(out / "checkpoints")
    checkpoint = store.final() if finished else store.newest()
    if checkpoint is None:
        raise ArtefactError(
            "this run has no checkpoint to grow from",
            where=out,
            do="train it with this version of xclass first, or choose another --out",
        )
    if finished:
        verify_files(out, read_manifest(out, MANIFEST, KIND, FORMAT_VERSION, RunRecord), list(IDS))
    place = out if all((out / name).exists() for name in IDS) else _recorded_dataset(out, started)
    items = read_ours(checked_table(place / "items.parquet"), ["item_id", "train_count"])
    queries = read_ours(checked_table(place / "queries.parquet"), ["query_id"])["query_id"]
    ids, step = {"item": items["item_id"], "query": queries}, read_position(checkpoint).step
    return _Source(
        out, checkpoint, store.newest() or checkpoint, started, finished, step, ids, int(items["train_count"].sum())
    )


def _recorded_dataset(out: Path, started: dict[str, Any]) -> Path:
    """A run that was interrupted before ids were kept from the start: they are in its dataset, if that still is it."""
    place = Path(started["dataset"])
    if not place.exists() or open_dataset(place).fingerprint != started["fingerprint"]:
        raise ArtefactError(
            "the ids of this run are lost: it kept none, and its dataset is gone or was changed",
            where=out,
            wanted=place,
            do="choose another --out and train anew",
        )
    return place


def _write_stage(
    folder: Path, source: _Source, dataset: Dataset, config: RunConfig, stored: RunConfig, maps: dict[str, Numbers]
) -> None:
    """A run directory at step 0 of the grown dataset."""
    model = build_model(
        config,
        dataset,
        None,
        "cpu",
        lambda path: read_candidates(path, dataset),
        folder=folder / "tables",
        start=False,
    )
    state = ModelState(model, config.train.dense_learning_rate)
    std = config.model.init_std if config.model.init == "random" else None  # a spectral start has the data's own scale
    new_rows = NewRows(std, config.train.seed, len(source.started.get("grown", [])) + 1)
    spreads = grow_tensors(source.checkpoint / TENSORS, model, state, maps, new_rows)
    learned = read_tensors(source.sampled / TENSORS, SAMPLER)
    restarted = grow_sampler(model, learned, maps["item"].new_of_old, stored.sampler == config.sampler)
    report = _report(source, dataset, model, maps, spreads, restarted)
    say(summary(report))
    CheckpointStore(folder / "checkpoints").save(
        checkpoint_name(0), state.tensors() | state.sampler_tensors(), {"position": asdict(Position())}
    )
    (folder / "config.toml").write_text(to_toml(config), encoding="utf-8")
    keep_ids(folder, dataset)
    write_json(
        folder / "started.json",
        {
            "dataset": os.path.abspath(dataset.path),
            "fingerprint": dataset.fingerprint,
            **vocabularies(dataset),
            "grown": [*source.started.get("grown", []), report],
        },
    )
    _write_metrics(folder / "metrics.jsonl", source, report)


def _write_metrics(path: Path, source: _Source, report: dict[str, Any]) -> None:
    """The records of the run so far, then that it has grown: what comes next counts its steps from 0."""
    if (source.out / path.name).exists():
        shutil.copyfile(source.out / path.name, path)
        if not source.finished:
            cut_after(path, source.step)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"event": GROWN, "step": 0, **report}) + "\n")


def _report(
    source: _Source,
    dataset: Dataset,
    model: TwoTower,
    maps: dict[str, Numbers],
    spreads: dict[str, float],
    restarted: list[str],
) -> dict[str, Any]:
    ids = {
        name: {"before": len(maps[kind].new_of_old), "after": len(maps[kind].old_of_new), "new": maps[kind].added}
        for name, kind in (("items", "item"), ("queries", "query"))
    }
    return {
        **ids,
        "train_pairs": {"before": source.train_pairs, "after": dataset.manifest["splits"]["train"]["pairs"]},
        "tables": {
            name: {
                "kept": len(maps[space_of(name)].new_of_old),
                "new": maps[space_of(name)].added,
                "std": spreads[name],
            }
            for name in model.tables
        },
        "samplers_restarted": restarted,
        "from": {
            "dataset": source.started["dataset"],
            "step": source.step,
            "finished": source.finished,
        },
    }


def summary(report: dict[str, Any]) -> str:
    """What grew, in a line."""
    parts = [f"{report[name]['before']:,} → {report[name]['after']:,} {name}" for name in ("items", "queries")]
    pairs = report["train_pairs"]
    return f"grown: {', '.join(parts)}, {pairs['before']:,} → {pairs['after']:,} train pairs"


def _check_fixed(out: Path, stored: RunConfig, config: RunConfig) -> None:
    before, now = stored.model_dump(), config.model_dump()
    changed = [key for key in FIXED if before[key] != now[key]]
    if changed:
        raise ConfigError(
            "a run that grows keeps its model",
            where=out,
            got="other values in " + ", ".join(changed),
            do=f"keep {', '.join(FIXED)} as in {out / 'config.toml'}, or choose another --out",
        )


def _check_same(stage: Path, config: RunConfig) -> None:
    stored = build_config(RunConfig, read_toml(stage / "config.toml"), where=stage / "config.toml")
    if stored != config:
        raise ConfigError(
            "this run is growing with another configuration",
            where=stage,
            do=f"go on with --config {stage / 'config.toml'}, or remove {stage} to begin the growth anew",
        )
