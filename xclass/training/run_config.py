"""Everything a configuration file can say about a run."""

from __future__ import annotations

from typing import Literal

import pydantic

from xclass.config import Config, Dimension, PositiveNumber, describe_toml
from xclass.distributed import TIMEOUT_S
from xclass.embeddings import TableConfig
from xclass.heads import HeadConfig
from xclass.losses import LOSSES, LossConfig
from xclass.models.init.spectral import SpectralConfig
from xclass.sampling import SamplerConfig
from xclass.sampling.config import INDEPENDENT
from xclass.scorers.config import DocumentsConfig
from xclass.towers.config import ItemTowerConfig, QueryTowerConfig
from xclass.training.config import TrainingConfig


class ModelConfig(Config):
    """The two towers and what joins them."""

    embedding_dim: Dimension = 64
    """Dimensions of the vectors, D."""
    normalize: bool = True
    """true: vectors have unit length, and the score is the cosine. false: the score is the inner product."""
    temperature: PositiveNumber = 0.1
    """In training, scores are divided by this."""
    init: Literal["random", "spectral", "documents"] = "random"
    """Initial values. random: N(0, init_std²). spectral: the closed form of [model.spectral], for a query tower of kind
    history or features. documents: features are random, and an item is the mean of the bags of its train documents,
    scaled to unit length."""
    init_std: PositiveNumber = 0.1
    """Standard deviation of random initial rows."""
    query: QueryTowerConfig = QueryTowerConfig()
    """The query tower."""
    item: ItemTowerConfig = ItemTowerConfig()
    """The item tower."""
    spectral: SpectralConfig = SpectralConfig()
    """Settings of init = "spectral"."""

    @pydantic.model_validator(mode="after")
    def _starts_fit_the_towers(self) -> ModelConfig:
        if self.item.share_feature_table and "features" not in self.query.parts:
            raise ValueError("item.share_feature_table needs a query tower with features")
        if self.query.share_item_table and self.item.kind != "id":
            raise ValueError('query.share_item_table needs item.kind = "id"')
        by_history = self.query.kind == "history" and not self.query.share_item_table and self.item.kind == "id"
        by_features = self.query.kind == "features" and "id" in self.item.parts
        if self.init == "spectral" and not (by_history or by_features):
            raise ValueError(
                'init = "spectral" needs query.kind = "history" with a table of its own, or "features"; and items with'
                " rows of their own"
            )
        if self.init == "documents" and not by_features:
            raise ValueError('init = "documents" needs query.kind = "features" and items with rows of their own')
        return self


class DistributedConfig(Config):
    """What a launch of several processes (torchrun) goes by; one process reads none of it."""

    tables: Literal["exchange", "torchrec"] = "exchange"
    """What stores the rows of each process. exchange: the tables of this package, with every storage, type and
    optimiser. torchrec: TorchRec's sharding and exchanges with FBGEMM's fused row-wise AdaGrad."""
    sharding: Literal["row-wise", "table-wise", "planner"] = "row-wise"
    """Which processes hold a table. row-wise: all of them, in equal parts. table-wise: one process; the largest table
    is placed first, each on the process that holds least so far. planner: as TorchRec's planner decides (needs tables =
    "torchrec")."""
    timeout_s: float = pydantic.Field(TIMEOUT_S, gt=0, le=1e9)
    """Longest time, in seconds, that a process waits for the others. After that the run ends and says which process was
    missing."""
    shared_memory: bool = True
    """true: processes on one host (Linux, device = "cpu") exchange rows through shared memory instead of the network's
    loopback device."""


class RunConfig(Config):
    """Everything that decides a run; the file given to `xclass train --config`."""

    model: ModelConfig = ModelConfig()
    """The two towers."""
    head: HeadConfig = HeadConfig()
    """The output layer: from a query vector to a loss in training, and to a ranking of items afterwards."""
    sampler: SamplerConfig = SamplerConfig()
    """Where negatives come from."""
    loss: LossConfig = LossConfig()
    """What is minimised."""
    optimizer: Literal["adagrad", "adam", "rmsprop", "sgd"] = "adagrad"
    """Row-wise optimiser of the tables."""
    tables: TableConfig = TableConfig()
    """How the rows of vectors are stored and updated."""
    product_dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the large products of the loss. bfloat16 is faster and rounds scores to 8 significant bits."""
    train: TrainingConfig = TrainingConfig()
    """The training loop."""
    documents: DocumentsConfig = DocumentsConfig()
    """Scorers of documents by their sparse features, with the two towers or instead of them."""
    distributed: DistributedConfig = DistributedConfig()
    """Training in several processes."""

    @pydantic.model_validator(mode="after")
    def _full_losses_take_all_items(self) -> RunConfig:
        if LOSSES[self.loss.kind].all_items and self.sampler.kind != "all":
            raise ValueError(f'loss.kind = "{self.loss.kind}" needs sampler.kind = "all"')
        if self.loss.calibration > 0 and self.sampler.kind != "uniform":
            raise ValueError('loss.calibration is defined for sampler.kind = "uniform"')
        if self.train.learning_rate * self.tables.weight_decay >= 1:
            raise ValueError("train.learning_rate · tables.weight_decay must be below 1: a step would leave nothing")
        return self

    @pydantic.model_validator(mode="after")
    def _bigrams_need_histories(self) -> RunConfig:
        by_context = self.sampler.kind == "adaptive" and self.sampler.proposal != "unigram"
        if by_context and not self.model.query.reads_history:
            raise ValueError(f'sampler.proposal = "{self.sampler.proposal}" needs a query tower with a history')
        return self

    @pydantic.model_validator(mode="after")
    def _growing_samples_are_drawn(self) -> RunConfig:
        if not self.loss.effective_size:
            return self
        if self.sampler.kind not in INDEPENDENT or not self.sampler.replacement:
            names = ", ".join(INDEPENDENT)
            raise ValueError(f"loss.effective_size needs independent draws: sampler.kind one of {names}")
        if self.loss.exact_when_short and (self.model.item.kind != "id" or self.head.kind != "dot"):
            raise ValueError('loss.exact_when_short needs head.kind = "dot" and model.item.kind = "id"')
        return self

    @pydantic.model_validator(mode="after")
    def _only_the_dot_head_samples(self) -> RunConfig:
        """A key that would do nothing is refused."""
        if self.head.kind == "dot":
            return self
        if self.head.kind == "differentiated" and sum(self.head.dims) != self.model.embedding_dim:
            raise ValueError(f"head.dims add up to {sum(self.head.dims)}, not to model.embedding_dim")
        keys = {
            "sampler": self.sampler,
            "loss": self.loss,
            "model.item": self.model.item,
            "model.init": self.model.init,
            "model.query.share_item_table": self.model.query.share_item_table,
            "product_dtype": self.product_dtype,
            "documents": self.documents,
        }
        plain = {
            "sampler": SamplerConfig(),
            "loss": LossConfig(),
            "model.item": ItemTowerConfig(),
            "model.init": "random",
            "model.query.share_item_table": False,
            "product_dtype": "float32",
            "documents": DocumentsConfig(),
        }
        if self.head.kind == "cnn":
            keys["model.item"] = self.model.item.model_copy(update={"hidden": ()})
        for key in set(keys) & {"sampler", "loss", "product_dtype"} if self.head.kind == "cnn" else ():
            del keys[key]
        for key, value in keys.items():
            if value != plain[key]:
                has = "makes item vectors of texts" if self.head.kind == "cnn" else "has no item vectors"
                raise ValueError(f'{key} is for head.kind = "dot": a {self.head.kind} head {has}')
        return self


def reference() -> str:
    """``configs/reference.toml``: every key of a run's configuration with its default and its meaning."""
    head = "# Every key of a configuration, with its default. Made by `make reference`; a test keeps it true."
    return f"{head}\n\n{describe_toml(RunConfig)}\n"
