"""A sharded table that TorchRec holds: its row-wise sharding, its exchanges, FBGEMM's fused kernel for the updates.

TorchRec gives each rank one contiguous part. Row i of the table is row i ÷ R of the part of rank i mod R, as in
:mod:`xclass.engine.sharded`, so that popular rows are spread and checkpoints are the same.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import Tensor

from xclass.engine.group import Group
from xclass.engine.sharded import ShardedTable, rows_of
from xclass.errors import ConfigError
from xclass.optim import RowAdaGrad
from xclass.tables import MemoryTable, RowOptimizer, TableOptions

FEATURE = "rows"
STATE = "sum_of_squares"
INSTALL = "pip install fbgemm-gpu-cpu==1.8.0 tensordict torchmetrics==1.0.3, then pip install --no-deps torchrec==1.8.0"


class TorchRecTable(ShardedTable):
    """See the top of this file. Row-wise AdaGrad, float32, no weight decay, no clipping.

    Args:
        num_rows, dim: of all ranks together.
        optimizer: its eps is taken over; the rate of a step is given with the push.
        options: how rows start.
        group: the ranks; on a launch of one rank there is one shard.
    """

    def __init__(
        self, num_rows: int, dim: int, optimizer: RowOptimizer | None, options: TableOptions, group: Group
    ) -> None:
        eps = _check(optimizer, options)
        rows = rows_of(num_rows, group)
        self._block = -(-num_rows // group.size)
        self._module = _sharded_module(self._block * group.size, dim, eps, group)
        local = _local(next(iter(self._module.state_dict().values())))[:rows]
        state = next(iter(self._module.fused_optimizer.state_dict()["state"].values()))
        self._sums = _local(next(iter(state.values())))[:rows]
        if options.init_std is None:
            local.zero_()
        else:
            drawn = TableOptions(options.init_std, options.seed, part=(group.size, group.rank))
            local.copy_(MemoryTable(rows, dim, None, drawn).weight)
        super().__init__(num_rows, MemoryTable(rows, dim, None, TableOptions(rows=local)), group)
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

        size, asked = self.group.size, ids if len(ids) else ids.new_zeros(1)
        places = asked % size * self._block + torch.div(asked, size, rounding_mode="floor")
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
        """The rows here and their sums of squares, by the names that :class:`xclass.tables.MemoryTable` gives them."""
        return {"weight": self.weight, STATE: self._sums}


def _check(optimizer: RowOptimizer | None, options: TableOptions) -> float:
    if importlib.util.find_spec("torchrec") is None:
        raise ConfigError(
            "TorchRec is not installed", where="distributed.tables", got="torchrec", do=f'{INSTALL}; or "exchange"'
        )
    plain = options.dtype == torch.float32 and not options.weight_decay and not options.clip_norm
    if not isinstance(optimizer, RowAdaGrad) or not plain:
        raise ConfigError(
            "TorchRec's tables are trained by row-wise AdaGrad, in float32, without weight decay or clipping",
            where="distributed.tables",
            do='set distributed.tables = "exchange", which takes every setting',
        )
    return optimizer.eps


def _sharded_module(num_rows: int, dim: int, eps: float, group: Group) -> Any:
    import torch.distributed as dist
    from fbgemm_gpu.split_embedding_configs import EmbOptimType
    from torchrec.distributed.comm_ops import set_gradient_division
    from torchrec.distributed.embedding import EmbeddingCollectionSharder
    from torchrec.distributed.sharding_plan import construct_module_sharding_plan, row_wise
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
        {"table": row_wise(compute_kernel="fused")},
        sharder,
        world_size=group.size,
        local_size=group.local_size,
        device_type=kind,
    )
    device = torch.device(kind, torch.cuda.current_device()) if kind == "cuda" else torch.device("cpu")
    with group.guard("making a table"):
        return sharder.shard(module, plan, ShardingEnv.from_process_group(dist.group.WORLD), device)


def _local(sharded: Any) -> Tensor:
    shards = sharded.local_shards()
    assert len(shards) == 1, "row-wise sharding gives every rank one part"
    rows: Tensor = shards[0].tensor
    return rows
