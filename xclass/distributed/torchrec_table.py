"""A sharded table that TorchRec holds: its sharding, its exchanges, FBGEMM's fused kernel for the updates.

Row-wise TorchRec gives each rank one contiguous part. Row i of the table is row i ÷ R of the part of rank i mod R, as
in :mod:`xclass.distributed.sharded_table`, so that popular rows are spread and checkpoints are the same. Table-wise one
rank has all.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from xclass.distributed.placement import Turns
from xclass.distributed.process_group import Group
from xclass.distributed.sharded_table import ShardedTable
from xclass.embeddings import MemoryTable, RowOptimizer, TableOptions
from xclass.errors import ConfigError
from xclass.optim import RowAdaGrad

FEATURE = "rows"
STATE = "sum_of_squares"
FLOAT = 4
INSTALL = "pip install fbgemm-gpu-cpu==1.8.0 tensordict torchmetrics==1.0.3, then pip install --no-deps torchrec==1.8.0"


class TorchRecTable(ShardedTable):
    """See the top of this file. Row-wise AdaGrad, float32, no weight decay, no clipping.

    Args:
        num_rows, dim: of all ranks together.
        optimizer: its eps is taken over; the rate of a step is given with the push.
        options: how rows start.
        group: the ranks; on a launch of one rank there is one shard.
        turns: which of them hold rows: all (or the first, of fewer rows), or one.
    """

    def __init__(
        self,
        num_rows: int,
        dim: int,
        optimizer: RowOptimizer | None,
        options: TableOptions,
        group: Group,
        turns: Turns | None = None,
    ) -> None:
        eps, turns = _check(optimizer, options), turns or Turns.of_all(num_rows, group.size)
        first, rows = turns.first(group.rank), turns.rows(num_rows, group.rank)
        self._parts = 1 if len(turns.holders) == 1 else group.size
        self._block = -(-num_rows // self._parts)
        owner = turns.holders[0] if self._parts < group.size else None
        self._module = _sharded_module(self._block * self._parts, dim, eps, group, owner)
        local = _local(self._module.state_dict().values(), (0, dim), group)[:rows]
        state = self._module.fused_optimizer.state_dict()["state"].values()
        self._sums = _local((each for one in state for each in one.values()), (0,), group)[:rows]
        if options.init_std is None:
            local.zero_()
        else:
            part = (group.size, group.rank) if first is None else (len(turns.holders), first)
            drawn = TableOptions(options.init_std, options.seed, part=part)
            local.copy_(MemoryTable(rows, dim, None, drawn).weight)
        here = TableOptions(rows=local, part=(max(group.size, 2), group.rank))
        super().__init__(num_rows, MemoryTable(rows, dim, None, here), group, turns)
        self._pulled: tuple[Tensor, Tensor] | None = None
        self._rate = 0.0

    def expect(self, lr: float) -> None:
        """The rate of the next push: the kernel takes it with the pull. A push at another rate pulls again."""
        if lr != self._rate:
            self._rate = lr
            for group in self._module.fused_optimizer.param_groups:
                group["lr"] = lr
            self._module.fused_optimizer.step()  # hands the rate on; rows change in the backward pass

    def begin_pull(self, ids: Tensor) -> None:
        """TorchRec's exchanges are its own."""

    def begin_push(self, ids: Tensor, grads: Tensor) -> None:
        """As above."""

    def pull(self, ids: Tensor) -> Tensor:
        """(U, D) float32 rows, a copy. TorchRec wants to be asked for something: for no rows it is asked for row 0."""
        from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

        parts, asked = self._parts, ids if len(ids) else ids.new_zeros(1)
        places = asked % parts * self._block + torch.div(asked, parts, rounding_mode="floor")
        lengths = torch.ones_like(places)
        with self.group.guard("a pull"):
            found = self._module(KeyedJaggedTensor(keys=[FEATURE], values=places, lengths=lengths)).wait()
        rows: Tensor = found[FEATURE].values()
        self._pulled = ids, rows
        return rows.detach()[: len(ids)].clone()

    def push(self, ids: Tensor, grads: Tensor, lr: float) -> None:
        """One summed gradient per row, of the rows that were pulled last; the fused kernel adds and applies them."""
        if self._pulled is None or ids is not self._pulled[0] or lr != self._rate:
            self.expect(lr)
            self.pull(ids)
        assert self._pulled is not None
        rows, self._pulled = self._pulled[1], None
        with self.group.guard("a push"):
            rows.backward(grads if len(ids) else torch.zeros_like(rows))

    def tensors(self) -> dict[str, Tensor]:
        """The rows here and their sums of squares, by the names that :class:`xclass.embeddings.MemoryTable` gives
        them."""
        return {"weight": self.weight, STATE: self._sums}


def _require_torchrec() -> None:
    if importlib.util.find_spec("torchrec") is None:
        raise ConfigError(
            "TorchRec is not installed", where="distributed.tables", got="torchrec", do=f'{INSTALL}; or "exchange"'
        )


def _check(optimizer: RowOptimizer | None, options: TableOptions) -> float:
    _require_torchrec()
    plain = options.dtype == torch.float32 and not options.weight_decay and not options.clip_norm
    if not isinstance(optimizer, RowAdaGrad) or not plain:
        raise ConfigError(
            "TorchRec's tables are trained by row-wise AdaGrad, in float32, without weight decay or clipping",
            where="distributed.tables",
            do='set distributed.tables = "exchange", which takes every setting',
        )
    return optimizer.eps


def _sharded_module(num_rows: int, dim: int, eps: float, group: Group, owner: int | None) -> Any:
    """Row-wise; table-wise where one rank is to own it."""
    import torch.distributed as dist
    from fbgemm_gpu.split_embedding_configs import EmbOptimType
    from torchrec.distributed.comm_ops import set_gradient_division
    from torchrec.distributed.embedding import EmbeddingCollectionSharder
    from torchrec.distributed.sharding_plan import construct_module_sharding_plan, row_wise, table_wise
    from torchrec.distributed.types import ShardingEnv
    from torchrec.modules.embedding_configs import EmbeddingConfig
    from torchrec.modules.embedding_modules import EmbeddingCollection

    set_gradient_division(False)  # gradients are of the mean over the whole batch already
    table = EmbeddingConfig(name="table", embedding_dim=dim, num_embeddings=num_rows, feature_names=[FEATURE])
    module = EmbeddingCollection(tables=[table], device=torch.device("meta"))
    fused = {"optimizer": EmbOptimType.EXACT_ROWWISE_ADAGRAD, "learning_rate": 0.1, "eps": eps}
    sharder = EmbeddingCollectionSharder(fused_params=fused)
    kind = group.device.type
    plan = construct_module_sharding_plan(
        module,
        {"table": row_wise(compute_kernel="fused") if owner is None else table_wise(owner, compute_kernel="fused")},
        sharder,
        world_size=group.size,
        local_size=group.local_size,
        device_type=kind,
    )
    device = torch.device(kind, torch.cuda.current_device()) if kind == "cuda" else torch.device("cpu")
    with group.guard("making a table"):
        return sharder.shard(module, plan, ShardingEnv.from_process_group(dist.group.WORLD), device)


def _local(tensors: Iterable[Any], empty: tuple[int, ...], group: Group) -> Tensor:
    """The part here of the one tensor that there is; nothing where it has none."""
    shards = [shard.tensor for sharded in tensors for shard in sharded.local_shards()]
    assert len(shards) <= 1, "a rank has one part of a table"
    return shards[0] if shards else torch.empty(empty, device=group.device)


def planned(sizes: Mapping[str, tuple[int, int]], group: Group) -> dict[str, Turns]:
    """Table (→ rows, bytes of a row) → the ranks that TorchRec's planner gives it: all, or one.

    Every rank asks its own planner, which says the same of the same sizes.
    """
    _require_torchrec()
    from torchrec.distributed.embedding import EmbeddingCollectionSharder
    from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
    from torchrec.modules.embedding_configs import EmbeddingConfig
    from torchrec.modules.embedding_modules import EmbeddingCollection

    numbers = {f"table_{number}": name for number, name in enumerate(sizes)}
    by_dim = dict[str, list[Any]]()  # one collection has one
    for key, name in numbers.items():
        rows, dim = sizes[name][0], sizes[name][1] // FLOAT
        table = EmbeddingConfig(name=key, embedding_dim=dim, num_embeddings=rows, feature_names=[key])
        by_dim.setdefault(str(dim), []).append(table)
    allowed = ParameterConstraints(sharding_types=["row_wise", "table_wise"], compute_kernels=["fused"])
    logging.getLogger("torchrec.distributed.planner").setLevel(logging.ERROR)
    planner = EmbeddingShardingPlanner(
        topology=Topology(group.size, group.device.type, local_world_size=group.local_size),
        constraints=dict.fromkeys(numbers, allowed),
        debug=False,
    )
    meta = torch.device("meta")
    module = torch.nn.ModuleDict({dim: EmbeddingCollection(tables, meta) for dim, tables in by_dim.items()})
    plans = planner.plan(module, [EmbeddingCollectionSharder()]).plan.values()
    found = {key: one for each in plans for key, one in each.items()}
    return {
        name: Turns((found[key].ranks[0],))
        if found[key].sharding_type == "table_wise"
        else Turns.of_all(sizes[name][0], group.size)
        for key, name in numbers.items()
    }
