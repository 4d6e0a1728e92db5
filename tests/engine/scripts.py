"""What the ranks of a launch run in tests: ``python -c "from engine.scripts import NAME; NAME()"``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch

from xclass.engine import DistributedEngine, Group, RankError, ShardedTable
from xclass.engine.merged import MergedSearch
from xclass.errors import ConfigError, DataError
from xclass.index.exact import ExactIndex
from xclass.optim import ROW_OPTIMIZERS
from xclass.rng import torch_generator
from xclass.tables import MemoryTable, Place, TableOptions, plan_rows
from xclass.types import Ragged
from xclass.vectors import TensorVectors

ROWS, DIM = 101, 8


def exchanges() -> None:
    """Each of the group's operations."""

    def fails() -> int:
        if group.rank == 1:
            raise DataError("no such file")
        return 7

    with Group(30) as group:
        rank = group.rank
        said = {
            "size": group.size,
            "share": group.share(10),
            "gathered": [part.tolist() for part in group.gather(torch.arange(rank * 2).view(rank, 2))],
            "values": group.gather_values({"rank": rank, "text": "é" * rank}),
            "broadcast": group.broadcast_value(f"from {rank}", 1),
            "sum": group.sum(torch.tensor([rank, 1])).tolist(),
            "first": group.on_first(lambda: rank + 40, "work"),
            "collected": [part.tolist() for part in group.collect(torch.tensor([rank]))],
            "exchanged": group.exchange(torch.arange(3) + 10 * rank, [1, 1, 1], [1, 1, 1]).tolist(),
        }
        group.barrier("the end")
        try:
            group.together(fails, "reading")
        except (DataError, RankError) as error:
            said["failed"] = str(error)
        check_tables(DistributedEngine(group))
        assert group.shares_memory
        group.share_no_memory()
        check_tables(DistributedEngine(group), ["adagrad"])
        check_few_rows(DistributedEngine(group))
        check_search(group)
        sys.stdout.write(json.dumps(said))


def torchrec_tables() -> None:
    """TorchRec's tables do what ours do."""
    with Group(60) as group:
        check_tables(DistributedEngine(group, "torchrec"), ["adagrad"])
        for optimizer, options in (("adam", TableOptions()), ("adagrad", TableOptions(weight_decay=0.1))):
            try:
                DistributedEngine(group, "torchrec").table(
                    "device", 9, 4, ROW_OPTIMIZERS[optimizer](), options, Place()
                )
            except ConfigError:
                continue
            raise AssertionError("a setting that TorchRec does not have was taken")


def check_tables(engine: DistributedEngine, optimizers: list[str] | None = None) -> None:
    """Many pushes of rows that ranks have in common give what one table gives for their sum."""
    for name in optimizers or ROW_OPTIMIZERS:
        options = TableOptions(init_std=0.5, seed=3, weight_decay=0.01 if optimizers is None else 0)
        whole = MemoryTable(ROWS, DIM, ROW_OPTIMIZERS[name](), options)
        table = engine.table("device", ROWS, DIM, ROW_OPTIMIZERS[name](), options, Place())
        assert isinstance(table, ShardedTable)
        assert torch.equal(table.pull(torch.arange(ROWS)), whole.weight), "rows start otherwise"
        for step in range(6):
            push_together(engine.group, table, whole, step)
        table.settle()
        whole.settle()
        check_same(engine.group, table, whole)
        rows = torch.arange(7.0 * DIM).view(7, DIM)
        table.write(5, rows)
        assert torch.equal(table.pull(torch.arange(5, 12)), rows), "what is written is not read"


def push_together(group: Group, table: ShardedTable, whole: MemoryTable, step: int) -> None:
    draw = torch_generator(step, "ranks")
    asked = [torch.unique(torch.randint(0, ROWS, (20 * (step != 2 or r),), generator=draw)) for r in range(group.size)]
    grads = [torch.randn(len(ids), DIM, generator=draw) for ids in asked]
    ids = asked[group.rank]
    assert torch.allclose(table.pull(ids), whole.pull(ids), atol=1e-5), f"step {step}"
    table.push(ids, grads[group.rank], 0.1 * (step + 1))
    plan = plan_rows({str(rank): each for rank, each in enumerate(asked)})
    total = torch.zeros(len(plan.unique), DIM).index_add_(0, torch.cat(list(plan.positions.values())), torch.cat(grads))
    whole.push(plan.unique, total, 0.1 * (step + 1))


def check_same(group: Group, table: ShardedTable, whole: MemoryTable) -> None:
    for key, tensor in table.tensors().items():
        other = whole.tensors()[key]
        mine = other[group.rank :: group.size] if other.dim() else other
        assert torch.allclose(tensor, mine, atol=1e-4), key
    blocks = list(table.blocks())
    if group.is_first:
        found = torch.from_numpy(np.concatenate(blocks).view(np.float32).reshape(ROWS, DIM))
        assert torch.allclose(found, whole.weight, atol=1e-5), "blocks are other rows"


def check_few_rows(engine: DistributedEngine) -> None:
    try:
        engine.table("device", 2, DIM, ROW_OPTIMIZERS["sgd"](), TableOptions(), Place())
    except ConfigError as error:
        assert "fewer rows than there are ranks" in str(error)
    else:
        raise AssertionError("a rank without rows")


def check_search(group: Group) -> None:
    """With exclusions and many equal scores: the lists of one process, item by item."""
    draw = torch_generator(5, "search")
    items = torch.randint(-2, 3, (ROWS, 3), generator=draw).float()
    queries = torch.randint(-2, 3, (20, 3), generator=draw).float()
    hidden = Ragged.from_lists([list(range(number % 7, ROWS, 1 + number % 5)) for number in range(20)])
    index = ExactIndex()
    index.build(TensorVectors(items))
    merged = MergedSearch(TensorVectors(items[group.rank :: group.size].contiguous()), group)
    for k, exclude in ((10, None), (200, None), (10, hidden)):
        wanted, found = index.search(queries, k, exclude), merged.search(queries, k, exclude)
        assert torch.equal(found.offsets, wanted.offsets) and torch.equal(found.ids, wanted.ids)
        assert torch.equal(found.scores, wanted.scores)


def train() -> None:
    """``train(JOB)``: a JSON of dataset, out, resume and changes; any kind of launch."""
    from xclass.data.store import open_dataset
    from xclass.run import resolve_config, train_run

    job = json.loads(sys.argv[1])
    train_run(
        open_dataset(job["dataset"]),
        resolve_config(Path(job["config"]), job["changes"]),
        Path(job["out"]),
        job.get("resume", False),
    )


def full_disks() -> None:
    """A checkpoint that one rank can't write is none, and all ranks go on; the next one is whole."""
    from xclass.training import shards
    from xclass.training.checkpoint import Content

    whole = {name: getattr(shards, name) for name in ("write_tensors", "write_manifest", "link_checkpoint")}

    def fails(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device", "a file")

    with Group(20) as group:
        store = shards.ShardedStore(Path(sys.argv[1]), 2, group)
        content = Content({"rows": torch.arange(4.0) + group.rank, "layer": torch.ones(2)}, {"t": ["rows"]}, {})
        for step, (name, rank) in enumerate((("write_tensors", 1), ("write_manifest", 0), ("link_checkpoint", 0))):
            if group.rank == rank:
                setattr(shards, name, fails)
            store.begin(f"step-{step}", content, best=name == "link_checkpoint")
            group.barrier("the end of a step")
            setattr(shards, name, whole[name])
        assert group.gather_values(sorted(path.name for path in store.folder.iterdir()))[1] == ["best"]
        store.begin("step-7", content)
        assert group.gather_values(sorted(path.name for path in store.folder.iterdir()))[1] == ["best", "step-7"]
