"""What the ranks of a launch run in tests: ``python -c "from ranks.scripts import NAME; NAME()"``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from xclass.config import build_config
from xclass.distributed import DistributedEngine, Group, RankError, ShardedTable
from xclass.distributed.all_to_all import Exchange
from xclass.distributed.placement import placed
from xclass.distributed.routing import plan_routes
from xclass.distributed.sharded_search import MergedSearch
from xclass.embeddings import MemoryTable, Place, TableOptions, plan_rows
from xclass.errors import ConfigError, DataError
from xclass.estimate.layout import Grows, Layout
from xclass.estimate.ranks import exchanged
from xclass.index.exact import ExactIndex
from xclass.optim import ROW_OPTIMIZERS
from xclass.runtime.rng import torch_generator
from xclass.training.run_config import RunConfig
from xclass.types import Ragged
from xclass.types.vectors import TensorVectors

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
            "exchanged": group.exchange(torch.arange(3) + 10 * rank, [1, 1, 1], [1, 1, 1]).tolist(),
        }
        group.barrier("the end")
        try:
            group.together(fails, "reading")
        except (DataError, RankError) as error:
            said["failed"] = str(error)
        check_tables(DistributedEngine(group))
        check_tables(DistributedEngine(group, "exchange", "table-wise"), ["adam"])
        assert group.shares_memory
        group.share_no_memory()
        check_tables(DistributedEngine(group), ["adagrad"])
        check_few_rows(DistributedEngine(group))
        check_bytes(group, "row-wise")
        check_bytes(group, "table-wise")
        check_search(group)
        sys.stdout.write(json.dumps(said))


def torchrec_tables() -> None:
    """TorchRec's tables do what ours do."""
    with Group(60) as group:
        check_tables(DistributedEngine(group, "torchrec"), ["adagrad"])
        check_tables(DistributedEngine(group, "torchrec", "table-wise"), ["adagrad"])
        check_few_rows(DistributedEngine(group, "torchrec"))
        check_planner(DistributedEngine(group, "torchrec", "planner"))
        for optimizer, options in (("adam", TableOptions()), ("adagrad", TableOptions(weight_decay=0.1))):
            try:
                DistributedEngine(group, "torchrec").table(
                    "device", 9, 4, ROW_OPTIMIZERS[optimizer](), options, Place()
                )
            except ConfigError:
                continue
            raise AssertionError("a setting that TorchRec does not have was taken")


def check_planner(engine: DistributedEngine) -> None:
    """What TorchRec's planner says is done, and every table has a rank."""
    engine.arrange({"large": (10_000_000, 256), "small": (ROWS, 4 * DIM), "tiny": (1, 4 * DIM)})
    assert set(engine._turns) == {"large", "small", "tiny"}
    table = engine.table("device", ROWS, DIM, ROW_OPTIMIZERS["adagrad"](), TableOptions(0.5), Place(), "small")
    assert table.rows_here == engine._turns["small"].rows(ROWS, engine.group.rank)
    assert sum(engine.group.gather_values(table.rows_here)) == ROWS == len(table.pull(torch.arange(ROWS)))


def check_tables(engine: DistributedEngine, optimizers: list[str] | None = None) -> None:
    """Many pushes of rows that ranks have in common give what one table gives for their sum."""
    engine.arrange({"other": (ROWS + 1, 4), "table": (ROWS, 4)})
    for name in optimizers or ROW_OPTIMIZERS:
        options = TableOptions(init_std=0.5, seed=3, weight_decay=0.01 if optimizers is None else 0)
        whole = MemoryTable(ROWS, DIM, ROW_OPTIMIZERS[name](), options)
        table = engine.table("device", ROWS, DIM, ROW_OPTIMIZERS[name](), options, Place(), "table")
        assert isinstance(table, ShardedTable)
        assert engine.sharding == "row-wise" or table.rows_here == ROWS * (engine.group.rank == 1)
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
        first, turns = table.turns.first(group.rank), len(table.turns.holders)
        mine = other if not other.dim() else other[:0] if first is None else other[first::turns]
        assert tensor.shape == mine.shape and torch.allclose(tensor, mine, atol=1e-4), key
    blocks = list(table.blocks())
    if group.is_first:
        found = torch.from_numpy(np.concatenate(blocks).view(np.float32).reshape(ROWS, DIM))
        assert torch.allclose(found, whole.weight, atol=1e-5), "blocks are other rows"


def check_few_rows(engine: DistributedEngine) -> None:
    """A table of fewer rows than ranks, some of which hold none; one of items can be searched."""
    for rows in (1, 2):
        options = TableOptions(0.5, 3, part=(1, 0))
        whole = MemoryTable(rows, DIM, ROW_OPTIMIZERS["adagrad"](), options)
        table = engine.table("device", rows, DIM, ROW_OPTIMIZERS["adagrad"](), options, Place())
        assert isinstance(table, ShardedTable) and table.rows_here == (engine.group.rank < rows)
        for _ in range(2):
            assert torch.allclose(table.pull(torch.arange(rows)), whole.pull(torch.arange(rows)), atol=1e-6)
            table.push(torch.arange(rows), torch.ones(rows, DIM), 0.1)
            whole.push(torch.arange(rows), torch.full((rows, DIM), float(engine.group.size)), 0.1)
        blocks = [block.copy() for block in table.blocks()]
        if engine.group.is_first:
            assert np.allclose(np.concatenate(blocks).view(np.float32), whole.weight, atol=1e-6)
        found = MergedSearch(TensorVectors(table.weight), engine.group, table.turns).search(torch.ones(2, DIM), 5)
        best = whole.weight.sum(1).argsort(descending=True)
        assert found.ids.tolist() == 2 * best.tolist()


def check_bytes(group: Group, sharding: Literal["row-wise", "table-wise"]) -> None:
    """What the ranks send in a step is what an estimate says, but for which rows happen to lie where."""
    engine, sizes, rows = DistributedEngine(group, "exchange", sharding), {"a": (4000, 32), "b": (2000, 32)}, {}
    engine.arrange(sizes)
    sent = dict.fromkeys(("a plan", "a pull", "a push"), 0)
    begin, tables = group.begin_exchange, []

    def counted(values: torch.Tensor, sends: list[int], receives: list[int], what: str, *rest: bool) -> Exchange:
        sent[what] += values[:1].nbytes * (sum(sends) - sends[group.rank])
        return begin(values, sends, receives, what, *rest)

    draw = torch_generator(group.rank, "bytes")
    for name, (count, _) in sizes.items():
        table = engine.table("device", count, DIM, ROW_OPTIMIZERS["sgd"](), TableOptions(0.5), Place(), name)
        assert isinstance(table, ShardedTable)
        tables.append((table, torch.randperm(count, generator=draw)[: count // 4].sort().values))
        rows[name] = count // 4
    group.begin_exchange = counted  # type: ignore[method-assign, assignment]
    routes = plan_routes([ids for _, ids in tables], [table.turns for table, _ in tables], group, beside=True)
    for (table, ids), route in zip(tables, routes, strict=True):
        table.plan_ahead(route)
        table.push(ids, table.pull(ids), 0.1)
    del group.begin_exchange
    nothing, config = Grows(0, 0, 0), build_config(RunConfig, {"model": {"embedding_dim": DIM}})
    layout = Layout({}, nothing, nothing, 0, 0, 0, nothing)
    said = exchanged(rows, placed(sharding, sizes, group.size), config, layout, group.size)
    most = max(group.gather_values(list(sent.values())), key=sum)
    for found, wanted in zip(most, (said.numbers_bytes, said.rows_bytes, said.gradients_bytes), strict=True):
        assert abs(found - wanted) <= 0.05 * wanted, (sharding, most, said)


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
    from xclass.data.dataset import open_dataset
    from xclass.runs.train import resolve_config, train_run

    job = json.loads(sys.argv[1])
    train_run(
        open_dataset(job["dataset"]),
        resolve_config(Path(job["config"]), job["changes"]),
        Path(job["out"]),
        job.get("resume", False),
    )


def full_disks() -> None:
    """A checkpoint that one rank can't write is none, and all ranks go on; the next one is whole."""
    from xclass.training.checkpoint import sharded_store
    from xclass.training.checkpoint.store import Content

    whole = {name: getattr(sharded_store, name) for name in ("write_tensors", "write_manifest", "link_checkpoint")}

    def fails(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device", "a file")

    with Group(20) as group:
        store = sharded_store.ShardedStore(Path(sys.argv[1]), 2, group)
        content = Content({"rows": torch.arange(4.0) + group.rank, "layer": torch.ones(2)}, {"t": ["rows"]}, {})
        for step, (name, rank) in enumerate((("write_tensors", 1), ("write_manifest", 0), ("link_checkpoint", 0))):
            if group.rank == rank:
                setattr(sharded_store, name, fails)
            store.begin(f"step-{step}", content, best=name == "link_checkpoint")
            group.barrier("the end of a step")
            setattr(sharded_store, name, whole[name])
        assert group.gather_values(sorted(path.name for path in store.folder.iterdir()))[1] == ["best"]
        store.begin("step-7", content)
        assert group.gather_values(sorted(path.name for path in store.folder.iterdir()))[1] == ["best", "step-7"]
