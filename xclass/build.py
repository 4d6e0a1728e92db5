"""Configuration → objects. The only file that knows every room."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, Protocol

import pydantic
import torch
from torch import Tensor

from xclass.config import Config, describe_toml
from xclass.errors import ConfigError, nearest
from xclass.heads import DotHead, TopWeights
from xclass.losses import LOSSES, LossConfig, build_loss
from xclass.model import TwoTower
from xclass.optim import ROW_OPTIMIZERS
from xclass.rng import derive_seed, torch_generator
from xclass.sampling import AllItems, Known, Sampler, SamplerConfig, build_sampler
from xclass.scorers.config import DocumentsConfig
from xclass.spectral import SpectralConfig, spectral_factors
from xclass.tables import TABLES, Place, Table, TableConfig, TableOptions
from xclass.towers import QUERY_TOWERS, HistorySource, IdSource, Projection, QueryTower, Source
from xclass.training.config import TrainingConfig
from xclass.types import Ragged

SPECTRAL_BLOCK_ROWS = 1 << 16
DEVICES = ("auto", "cpu", "cuda")
TABLE_DTYPES = PRODUCT_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class QueryTowerConfig(Config):
    """The query tower."""

    kind: Literal["id", "history", "id+history"] = "history"
    """id: one vector per query; history: the items it has; both, added."""
    history_weights: Literal["mean", "degree"] = "mean"
    """degree: an item of train count c has weight c^-degree_power in the history."""
    degree_power: float = 0.5
    """The power in history_weights = "degree"."""
    share_item_table: bool = False
    """The history reads the head's item table instead of one of its own."""
    hidden: tuple[int, ...] = ()
    """Widths of a residual MLP at the end of the tower; empty for none."""


class ItemTowerConfig(Config):
    """The item tower."""

    hidden: tuple[int, ...] = ()
    """Widths of a residual MLP at the end of the tower; empty for none."""


class ModelConfig(Config):
    """The two towers and what joins them."""

    embedding_dim: int = pydantic.Field(64, ge=1)
    """Dimensions of the vectors, D."""
    normalize: bool = True
    """Vectors of unit length: the score is the cosine. false: the plain inner product."""
    temperature: float = pydantic.Field(0.1, gt=0)
    """Scores are divided by it in training."""
    init: Literal["random", "spectral"] = "random"
    """random: N(0, init_std²); spectral: the closed form of [model.spectral] as the start of the history tower."""
    init_std: float = pydantic.Field(0.1, gt=0)
    """Standard deviation of random rows."""
    query: QueryTowerConfig = QueryTowerConfig()
    """The query tower."""
    item: ItemTowerConfig = ItemTowerConfig()
    """The item tower."""
    spectral: SpectralConfig = SpectralConfig()
    """Settings of init = "spectral"."""

    @pydantic.model_validator(mode="after")
    def _spectral_needs_a_history(self) -> ModelConfig:
        if self.init == "spectral" and (self.query.kind != "history" or self.query.share_item_table):
            raise ValueError('init = "spectral" needs query.kind = "history" with a table of its own')
        return self


class RunConfig(Config):
    """Everything that decides a run; the file given to `xclass train --config`."""

    model: ModelConfig = ModelConfig()
    """The two towers."""
    sampler: SamplerConfig = SamplerConfig()
    """Where negatives come from."""
    loss: LossConfig = LossConfig()
    """What is minimised."""
    optimizer: Literal["adagrad", "adam", "rmsprop", "sgd"] = "adagrad"
    """Row-wise optimiser of the tables."""
    tables: TableConfig = TableConfig()
    """The tables of vectors."""
    product_dtype: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 makes the large products of the loss faster and rounds scores to 8 bits."""
    train: TrainingConfig = TrainingConfig()
    """The loop."""
    documents: DocumentsConfig = DocumentsConfig()
    """Scorers of documents by their sparse features, beside the two towers or instead of them."""

    @pydantic.model_validator(mode="after")
    def _full_losses_take_all_items(self) -> RunConfig:
        if LOSSES[self.loss.kind].all_items and self.sampler.kind != "all":
            raise ValueError(f'loss.kind = "{self.loss.kind}" needs sampler.kind = "all"')
        if self.loss.calibration > 0 and self.sampler.kind != "uniform":
            raise ValueError('loss.calibration is defined for sampler.kind = "uniform"')
        if self.train.learning_rate * self.tables.weight_decay >= 1:
            raise ValueError("train.learning_rate · tables.weight_decay must be below 1: a step would leave nothing")
        return self


class Catalogue(Protocol):
    """What a model must know of the data: sizes and train counts. A dataset has it, and so has a finished run."""

    @property
    def num_queries(self) -> int:
        """Queries with a number."""
        ...

    @property
    def num_items(self) -> int:
        """N."""
        ...

    @property
    def item_counts(self) -> Tensor:
        """(N,) integers, train pairs of each item; read when it is asked for."""
        ...


def choose_device(name: str) -> torch.device:
    """ "cpu", "cuda", or "auto" for the accelerator where there is one; a ConfigError when it is not there."""
    if name not in DEVICES:
        raise ConfigError("there is no such device", where="--device", got=name, do=nearest(name, DEVICES))
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise ConfigError(
            "torch sees no CUDA device", where="--device", got=name, do="pass --device cpu, or see xclass doctor"
        )
    return torch.device("cuda" if there and name != "cpu" else "cpu")


def build_model(
    config: RunConfig,
    catalogue: Catalogue,
    train: Ragged | None,
    device: torch.device | str = "cpu",
    read_candidates: Callable[[str], Ragged] | None = None,
    untrained: bool = True,
    folder: Path | None = None,
    start: bool = True,
    stored: dict[str, Tensor] | None = None,
) -> TwoTower:
    """The model that a configuration describes, over a catalogue.

    Args:
        config: checked.
        catalogue: sizes and counts.
        train: the train split, from which a spectral start is computed; None when stored rows will be loaded.
        device: where tables and dense layers live and the loss is computed. Batches are drawn on the CPU.
        read_candidates: reads the file of sampler.kind = "given" as lists by query number.
        untrained: false for a finished run, which is only read: its rows are in the memory of ``device``, without an
            optimiser's state, and its sampler is not built.
        stored: rows of each table of a finished run, which are used as they are; without them they are all 0.
        folder: where mapped tables may put their files.
        start: false when stored rows will be loaded: they are not drawn first.
    """
    if untrained:
        tables = _tables(config, catalogue, Place(device, folder), start)
    else:
        tables = _finished_tables(config, catalogue, Place(device), stored or {})
    if start and train is not None and config.model.init == "spectral":
        _spectral_start(config, catalogue, train, tables)
    generator = torch_generator(config.train.seed, "projection")
    tower = QueryTower(_sources(config, catalogue, device), _projection(config, config.model.query.hidden, generator))
    known = Known(catalogue.num_queries, catalogue.num_items, lambda: catalogue.item_counts, read_candidates)
    sampler = build_sampler(config.sampler, known) if untrained else AllItems(catalogue.num_items)
    return TwoTower(tower, _head(config, sampler, catalogue, generator), tables).to(device)


def _tables(config: RunConfig, catalogue: Catalogue, place: Place, start: bool) -> dict[str, Table]:
    drawn = start and config.model.init == "random"
    return {name: _table(config, name, rows, place, drawn) for name, rows in _table_sizes(config, catalogue).items()}


def _finished_tables(
    config: RunConfig, catalogue: Catalogue, place: Place, stored: dict[str, Tensor]
) -> dict[str, Table]:
    def table(name: str, rows: int) -> Table:
        options = TableOptions(dtype=TABLE_DTYPES[config.tables.dtype], rows=stored.get(name))
        return TABLES["device"](rows, config.model.embedding_dim, None, options, place)

    return {name: table(name, rows) for name, rows in _table_sizes(config, catalogue).items()}


def _table_sizes(config: RunConfig, catalogue: Catalogue) -> dict[str, int]:
    sizes = {"item": catalogue.num_items}
    if "id" in QUERY_TOWERS[config.model.query.kind]:
        sizes["query"] = catalogue.num_queries
    if "history" in QUERY_TOWERS[config.model.query.kind] and not config.model.query.share_item_table:
        sizes["history"] = catalogue.num_items
    return sizes


def _table(config: RunConfig, name: str, rows: int, place: Place, drawn: bool) -> Table:
    chosen = config.tables
    options = TableOptions(
        config.model.init_std if drawn else None,
        derive_seed(config.train.seed, f"table.{name}"),
        TABLE_DTYPES[chosen.dtype],
        chosen.weight_decay,
        chosen.clip_norm,
    )
    own = Place(place.device, place.folder and place.folder / name)
    return TABLES[chosen.storage](rows, config.model.embedding_dim, ROW_OPTIMIZERS[config.optimizer](), options, own)


def _sources(config: RunConfig, catalogue: Catalogue, device: torch.device | str) -> list[Source]:
    query = config.model.query
    weights = None
    if query.history_weights == "degree":
        weights = catalogue.item_counts.clamp(min=1).float().pow(-query.degree_power).to(device)
    sources: dict[str, Source] = {
        "id": IdSource(),
        "history": HistorySource("item" if query.share_item_table else "history", weights),
    }
    return [sources[name] for name in QUERY_TOWERS[query.kind]]


def _projection(config: RunConfig, hidden: tuple[int, ...], generator: torch.Generator) -> Projection:
    return Projection(config.model.embedding_dim, hidden, config.model.normalize, generator)


def _head(config: RunConfig, sampler: Sampler, catalogue: Catalogue, generator: torch.Generator) -> DotHead:
    loss = config.loss
    return DotHead(
        sampler,
        build_loss(loss, config.sampler.num_sampled, catalogue.num_items),
        _projection(config, config.model.item.hidden, generator),
        temperature=config.model.temperature,
        subtract_log_q=loss.subtract_log_q,
        corrected_log_q=loss.corrected_log_q,
        remove_accidental_hits=loss.remove_accidental_hits,
        remove_known_positives=loss.masks_known_positives,
        per_pair=loss.positives == "per-positive",
        product_dtype=PRODUCT_DTYPES[config.product_dtype],
        top_weights=TopWeights(loss.top_k, loss.top_k_temperature) if loss.top_k else None,
    )


def _spectral_start(config: RunConfig, catalogue: Catalogue, train: Ragged, tables: dict[str, Table]) -> None:
    """Item rows V·deg^p, history rows V·S^g·deg^-p (without deg^-p where the tower weights by degree itself)."""
    settings = config.model.spectral
    factors = spectral_factors(
        train,
        catalogue.num_items,
        config.model.embedding_dim,
        config.train.seed,
        settings.iterations,
        settings.oversampling,
    )
    degree = catalogue.item_counts.clamp(min=1).float().pow(settings.degree_power).unsqueeze(1)
    scale = factors.values.pow(settings.value_power)
    by_mean = config.model.query.history_weights == "mean"
    for start in range(0, catalogue.num_items, SPECTRAL_BLOCK_ROWS):
        vectors, degrees = (tensor[start : start + SPECTRAL_BLOCK_ROWS] for tensor in (factors.vectors, degree))
        tables["history"].write(start, vectors * scale / degrees if by_mean else vectors * scale)
        tables["item"].write(start, vectors * degrees)


def reference() -> str:
    """``configs/reference.toml``: every key of a run's configuration with its default and its meaning."""
    head = "# Every key of a configuration, with its default. Made by `make reference`; a test keeps it true."
    return f"{head}\n\n{describe_toml(RunConfig)}\n"
