"""What unmutated commands made: the datasets, runs and lists that cases alter copies of."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

from tests.robustness.commands import Said, Streams, run

QUERIES, ITEMS = 60, 40
PLAIN = """[model]
embedding_dim = 8
[sampler]
num_sampled = 16
[train]
epochs = 2
checkpoint_every_s = 0.0001
[train.batch]
size = 64
[train.validation]
queries = 50
"""
COMMANDS = (
    "ingest pairs.csv --out ds --split random",
    "ingest planted-documents:documents=80,features=40,labels=20 --out doc",
    "ingest more.csv --append --base ds --out grown",
    "train ds --config c.toml --out run",
    'train doc --config c.toml --out run_doc --set model.query.kind="features"',
    "train ds --config tree.toml --out run_tree",
    "index run_hnsw --kind hnsw -k 5 --target-recall 0.3 --deterministic",
    "index run_lsh --kind lsh -k 5 --target-recall 0.3",
    "retrieve run --out all.jsonl -k 40 --include-seen --exact",
    "retrieve run --out lists -k 3 --directory",
    "retrieve run --out lists.parquet -k 3",
)
COPIED = {"run_hnsw": "run", "run_lsh": "run"}  # before the command that changes it


def small_parts() -> None:
    """``retrieve`` in this process finishes a part every 16 queries, not every million rows."""
    import xclass.batch.retrieve

    xclass.batch.retrieve.PART_ROWS, xclass.batch.retrieve.PART_QUERIES = 1, 16


def build(folder: Path, streams: Streams) -> None:
    """Make them all, in the current folder; a command that fails ends everything."""
    write_inputs(folder)
    for command in COMMANDS:
        name = command.split()[1]
        if name in COPIED:
            shutil.copytree(COPIED[name], name)
        _done(run(streams, *command.split()))
    shutil.copytree("run", "run_open")  # as a killed process leaves it
    for name in ("run.json", "model.safetensors"):
        (folder / "run_open" / name).unlink()
    stop_retrieval(streams)


def write_inputs(folder: Path) -> None:
    """Pairs, and the configuration."""
    chance = random.Random(7)
    rows = [(f"u{q:02d}", f"i{i:02d}") for q in range(QUERIES) for i in chance.sample(range(ITEMS), 9)]
    more = [
        (f"u{q:02d}", f"i{i:02d}") for q in range(QUERIES - 5, QUERIES + 5) for i in chance.sample(range(ITEMS + 4), 5)
    ]
    for name, pairs in (("pairs.csv", rows), ("more.csv", more)):
        (folder / name).write_text("user_id,item_id\n" + "".join(",".join(pair) + "\n" for pair in pairs))
    (folder / "c.toml").write_text(PLAIN)
    (folder / "tree.toml").write_text(PLAIN.replace("[sampler]\nnum_sampled = 16\n", '[head]\nkind = "hierarchical"\n'))


def stop_retrieval(streams: Streams) -> None:
    """``.stopped.jsonl.parts``: two parts of a retrieval that was interrupted in the third."""
    from xclass.batch import retrieve

    add = retrieve.Parts.add

    def stopping(self: Any, frames: Any, counts: Any, number: int) -> None:
        if number == 2:
            raise KeyboardInterrupt
        add(self, frames, counts, number)

    retrieve.Parts.add = stopping  # type: ignore[method-assign]
    try:
        said = run(streams, "retrieve", "run", "--out", "stopped.jsonl", "-k", "5", "--exact")
    finally:
        retrieve.Parts.add = add  # type: ignore[method-assign]
    assert said.code == 3, said


def _done(said: Said) -> None:
    if said.code != 0:
        raise RuntimeError(f"{said.arguments}: {said.err}")
