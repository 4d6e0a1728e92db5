"""The run directory: what training writes and everything after it reads.

run.json              manifest, written last: dataset, result, SHA-256 of the files below
config.toml           the resolved configuration
started.json          the dataset and the version that the run was started with
model.safetensors     tables and dense layers, no optimiser state; of a run with two towers
linear.safetensors  neighbours.safetensors  fusion.json    scorers of sparse features, where there are any
items.parquet  queries.parquet    external ids by number
metrics.jsonl         one record per report
checkpoints/          what a resume needs; of a finished run, the one with its weights
tables/               working files of mapped tables, while a process trains
growing/              while it is carried over to a larger dataset: the run that will take its place
index/                what `xclass index` adds; it names the model file's hash
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import polars as pl
import torch

from xclass.config import apply_overrides, build_config, flatten, load_config, read_toml, to_toml
from xclass.data.batches import TrainBatches
from xclass.data.dataset import SEQUENCE, Dataset
from xclass.distributed import Engine, open_engine, restarts
from xclass.errors import RESUME, ArtefactError, ConfigError, Interrupted, XclassError
from xclass.io.files import atomic_file, remove_any, remove_leftovers, require_space
from xclass.io.manifest import write_json, write_manifest
from xclass.io.tensors import write_tensors
from xclass.queries.candidates import read_candidates
from xclass.runs.claim import check_launch, claim
from xclass.runs.directory import FORMAT_VERSION, GROWING, KIND, MANIFEST, MODEL, bound_files
from xclass.runs.record import read_started
from xclass.runtime.progress import say
from xclass.scorers.artifact import train_scorers
from xclass.training import Position, Trainer
from xclass.training.build import build_model, choose_device
from xclass.training.checkpoint.store import CheckpointStore, why
from xclass.training.hard_negatives import make_miner
from xclass.training.run_config import RunConfig
from xclass.training.trainer import OnValidation
from xclass.training.validation import make_validator

IDS = ("items.parquet", "queries.parquet")
TABLES = "tables"  # files of mapped tables, while a process trains
WITHOUT_VALID = (
    "no valid split: nothing is measured while training, so on_validation is not called, training does not stop early, "
    "and the last weights are kept, not the best; ingest with --valid-fraction to hold a part of train out"
)


def resolve_config(config: RunConfig | dict[str, Any] | Path | str, overrides: list[str] | None = None) -> RunConfig:
    """A checked configuration from an object, a plain dict or the path of a TOML file, with ``a.b=c`` overrides."""
    changes = overrides or []
    if isinstance(config, RunConfig):
        return config if not changes else build_config(RunConfig, apply_overrides(config.model_dump(), changes))
    if isinstance(config, dict):
        return build_config(RunConfig, apply_overrides(config, changes))
    return load_config(RunConfig, Path(config), changes)


def train_run(
    dataset: Dataset,
    config: RunConfig,
    out: Path,
    resume: bool = False,
    device: str = "auto",
    on_validation: OnValidation | None = None,
    check_memory: bool = True,
) -> Path:
    """Train and write the run directory ``out``.

    Args:
        dataset: what ``xclass ingest`` made.
        config: the resolved configuration.
        out: a new directory; with ``resume`` one that an interrupted training left, or a new one.
        resume: go on from the newest whole checkpoint. A finished run is left as it is.
        device: auto, cpu or cuda.
        on_validation: called with the step and the metrics after each validation; True ends training.
        check_memory: refuse what can't fit before anything is built.

    Raises:
        XclassError: the run can't fit in memory or on the disk.
        ArtefactError: ``out`` exists and ``resume`` is false; or it was started with another dataset.
        ConfigError: ``out`` was started with another configuration.
        Interrupted: a signal came; the run can be resumed.
    """
    out, chosen, launch = Path(out), choose_device(device), config.distributed
    opened = open_engine(launch.timeout_s, chosen, launch.tables, launch.sharding, launch.shared_memory)
    with opened as engine, ExitStack() as stack:
        resume = resume or restarts() > 0
        if engine.group.size > 1:
            check_launch(config, dataset)
        check = check_memory and engine.group.size == 1
        new = engine.group.on_first(lambda: claim(out, dataset, config, resume, chosen, check, stack), "the start")
        try:
            _train_in(out, dataset, config, resume, chosen, on_validation, engine)
        except XclassError:
            if new and engine.group.is_first and not (out / "metrics.jsonl").exists():
                shutil.rmtree(out)
            raise
    return out


def _train_in(
    out: Path,
    dataset: Dataset,
    config: RunConfig,
    resume: bool,
    device: torch.device,
    on_validation: OnValidation | None,
    engine: Engine,
) -> None:
    """Train in a directory that is this launch's alone. What a killed one left half-written goes."""
    checkpoints = CheckpointStore(out / "checkpoints")
    if not engine.group.on_first(lambda: _begin(out, dataset, config, checkpoints), "the start"):
        return
    scored = _train_scorers(out, dataset, config) if config.documents.sparse else {}
    if not config.documents.towers:
        _bind(out, dataset, config, {"result": {"train_s": scored["train_s"]}, "scorers": scored})
        return
    fresh = engine.group.on_first(lambda: not any(checkpoints.folder.glob("step-*")), "the start")
    model = build_model(
        config,
        dataset,
        dataset.split("train") if fresh else None,
        device,
        functools.partial(read_candidates, dataset=dataset),
        folder=out / TABLES,
        start=fresh,
        engine=engine,
    )
    train, features = dataset.split("train"), dataset.query_features
    batches = TrainBatches(
        train, config.train.batch, config.train.seed, model.tower.uses_history, features, dataset.windows
    )
    mine = make_miner(config.sampler, train, features, dataset.windows, engine)
    validate = make_validator(dataset, config.train, engine)
    if validate is None:
        say(WITHOUT_VALID)
    trainer = Trainer(model, batches, config.train, out, validate, mine, on_validation, engine)
    if resume and not trainer.resume():
        say("no checkpoint yet: starting from the beginning")
    _finish(out, dataset, config, trainer, trainer.run(), scored)


def _begin(out: Path, dataset: Dataset, config: RunConfig, checkpoints: CheckpointStore) -> bool:
    """Note what the run is made of; false when there is nothing left to do."""
    remove_leftovers(out)
    _start(out, dataset, config)
    if (out / MANIFEST).exists():
        checkpoints.keep_final()
        remove_any(out / TABLES)
        say(f"{out} is finished already; nothing to resume")
        return False
    remove_leftovers(checkpoints.folder)
    return True


def _train_scorers(out: Path, dataset: Dataset, config: RunConfig) -> dict[str, Any]:
    """Train the scorers that are not there yet; a signal ends it between two of them or inside one."""
    started = time.perf_counter()
    try:
        found = train_scorers(out, dataset, config.documents, config.train.seed)
    except KeyboardInterrupt:
        raise Interrupted("training was interrupted; scorers that were finished are kept", RESUME) from None
    return {**found, "train_s": round(time.perf_counter() - started, 3)}


def _start(out: Path, dataset: Dataset, config: RunConfig) -> None:
    """Note what the run is made of, or check that a resumed one is made of the same."""
    if not (out / "started.json").exists():
        _write_text(out / "config.toml", to_toml(config))
        keep_ids(out, dataset)
        started = {"dataset": os.path.abspath(dataset.path), "fingerprint": dataset.fingerprint}
        write_json(out / "started.json", started | vocabularies(dataset))
        return
    if (out / GROWING / MANIFEST).exists():
        raise ArtefactError(
            "a grown run is being put in the place of this one",
            where=out,
            do="give the dataset that it has grown to, with --resume --grow-vocab (in Python resume=True, "
            "grow_vocab=True)",
        )
    made_from = read_started(out)
    if made_from.get("fingerprint") != dataset.fingerprint:
        raise ArtefactError(
            "this run was started with another dataset",
            where=out,
            wanted=made_from.get("dataset"),
            got=dataset.path,
            do="resume with the dataset it was started with, choose another directory, or, if this one has all of its "
            "items and queries, add --resume --grow-vocab (in Python resume=True, grow_vocab=True)",
        )
    stored = build_config(RunConfig, read_toml(out / "config.toml"), where=out / "config.toml")
    how = {"distributed": config.distributed}  # how a launch runs changes nothing of what is trained
    if stored.model_copy(update=how) != config:
        before, now = flatten(stored.model_dump()), flatten(config.model_dump())
        changed = [key for key in now if before.get(key) != now[key] and not key.startswith("distributed.")]
        raise ConfigError(
            "this run was started with another configuration",
            where=out,
            got="other values for " + ", ".join(changed),
            do=f"resume with --config {out / 'config.toml'}, or choose another --out",
        )
    if not all((out / name).exists() for name in IDS):
        keep_ids(out, dataset)


def vocabularies(dataset: Dataset) -> dict[str, Any]:
    """How the dataset numbers its features, as a run notes it; nothing for a dataset without any."""
    found = {
        side: {
            name: {"size": size, "sha256": vocabulary_hash(dataset, side, name, size)}
            for name, size in dataset.feature_sizes(side).items()
        }
        for side in ("query", "item")
    }
    return {"vocabularies": found} if any(found.values()) else {}


def vocabulary_hash(dataset: Dataset, side: str, name: str, size: int) -> str:
    """SHA-256 over the names of the first ``size`` features, in the order of their numbers."""
    digest = hashlib.sha256()
    for part in (
        dataset.vocabulary(side, name).select(pl.col("feature").cast(pl.String)).head(size).iter_slices(1 << 16)
    ):
        digest.update(json.dumps(part["feature"].to_list()).encode())
    return digest.hexdigest()


def keep_ids(out: Path, dataset: Dataset) -> None:
    """The ids by number, kept from the start: a dataset that grows has others by the time the run ends."""
    for name in IDS:
        with atomic_file(out / name) as temporary:
            shutil.copyfile(dataset.file(name), temporary)
    dataset.check_unchanged()


def _finish(
    out: Path, dataset: Dataset, config: RunConfig, trainer: Trainer, result: Position, scored: dict[str, Any]
) -> None:
    """Write the model, then the manifest that makes it a run; of the checkpoints only that of its weights stays.

    The model goes to the disk in blocks and is hashed on the way: no second copy in memory, no second reading. Of a
    launch rank 0 writes; the others send their rows, and have done.
    """
    tensors, group = trainer.state.model_tensors(), trainer.engine.group
    blocks = trainer.state.model_blocks(tensors)
    trainer.store.prune(1)
    if not group.is_first:
        trainer.state.send_blocks(tensors)
        return
    try:
        require_space(out, sum(tensor.nbytes for tensor in tensors.values()) + (1 << 20))
        with atomic_file(out / MODEL) as temporary:
            entry = write_tensors(temporary, tensors, blocks)
    except (OSError, ArtefactError) as error:
        raise ArtefactError(
            "the model can't be written",
            where=out / MODEL,
            got=why(error),
            do="free some space, then run the same command with --resume: training is done",
        ) from None
    fields = {
        "result": {
            "steps": result.step,
            "epochs": result.epoch,
            "positives": result.positives,
            "train_s": round(result.train_s, 3),
            "best": result.best,
            "best_step": result.best_step,
        },
        **({"scorers": scored} if scored else {}),
    }
    _bind(out, dataset, config, fields, {MODEL: entry})
    trainer.store.keep_final()


def _bind(
    out: Path, dataset: Dataset, config: RunConfig, fields: dict[str, Any], known: dict[str, Any] | None = None
) -> None:
    """Write the manifest: from now on it is a run."""
    started = read_started(out)
    started.pop("vocabularies", None)
    grown = {"grown": started.pop("grown")} if "grown" in started else {}
    sizes = {
        "dataset": started,
        "num_queries": dataset.num_queries,
        "num_items": dataset.num_items,
        "num_train_queries": dataset.num_train_queries,
        "features": {"query": dataset.feature_sizes("query")},
        **({} if dataset.sequence is None else {SEQUENCE: dataset.sequence._asdict()}),
    }
    fields = {**sizes, **fields, **grown}
    write_manifest(out, MANIFEST, KIND, FORMAT_VERSION, fields, only=bound_files(config), known=known)


def _write_text(path: Path, text: str) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
