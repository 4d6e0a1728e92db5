"""Configuration → objects. The only file that knows every room."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from xclass.data.windows import follow_counts
from xclass.distributed import Engine, LocalEngine
from xclass.embeddings import TABLES, Place, Table, TableOptions
from xclass.errors import ConfigError, nearest
from xclass.heads import CnnHead, DotHead, Head, KnownItems, TopWeights, build_head, table_shapes
from xclass.heads.build import build_encoder
from xclass.heads.config import SCORED
from xclass.heads.item_features import FeatureRows
from xclass.heads.tree.clustering import feature_vectors
from xclass.heads.tree.head import NODES
from xclass.losses import build_loss
from xclass.losses.config import ESTIMATING_Z, LossConfig
from xclass.losses.fused.adaptive_sample_size import Growth
from xclass.models.catalog import Catalogue
from xclass.models.init.closed_form import document_start, feature_start, history_start
from xclass.models.init.spectral import spectral_factors
from xclass.models.two_tower import TwoTower
from xclass.optim import ROW_OPTIMIZERS
from xclass.runtime.rng import derive_seed, torch_generator
from xclass.sampling import AllItems, Known, Sampler, build_sampler
from xclass.towers import (
    QUERY_TOWERS,
    FeatureField,
    FeatureSource,
    HistorySource,
    IdSource,
    ItemFeatures,
    Projection,
    QueryTower,
    Source,
    check_positions,
    context_source,
    inverse_frequencies,
)
from xclass.towers.characters import text_bytes
from xclass.towers.config import FeatureConfig, ItemTowerConfig
from xclass.towers.item_texts import CORRECTION, ItemTexts, TextEncoder
from xclass.training.run_config import RunConfig
from xclass.types import Ragged

CLUSTER_DIM = 64
DEVICES = ("auto", "cpu", "cuda")
TABLE_DTYPES = PRODUCT_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def choose_device(name: str) -> torch.device:
    """ "cpu", "cuda", or "auto" for the accelerator where there is one; a ConfigError when it is not there."""
    if name not in DEVICES:
        raise ConfigError("there is no such device", where="device", got=name, do=nearest(name, DEVICES))
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise ConfigError(
            "torch sees no CUDA device", where="device", got=name, do="choose the device cpu, or see xclass doctor"
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
    engine: Engine | None = None,
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
        engine: makes the tables of a model that is trained; None for one process.
    """
    if catalogue.sequence is not None:
        check_positions(config.model.query, config.model.init)
    items = config.model.item if untrained else ItemTowerConfig(hidden=config.model.item.hidden)
    fields = _query_fields(config, catalogue), _item_fields(config, items, catalogue)
    sizes = _table_sizes(config, items, catalogue, fields, untrained)
    if untrained:
        tables = _tables(config, sizes, Place(device, folder), start, engine or LocalEngine())
    else:
        tables = _finished(config, sizes, Place(device), stored or {})
    generator = torch_generator(config.train.seed, "projection")
    sources = _sources(config, catalogue, device, fields[0], generator)
    tower = QueryTower(sources, _projection(config, config.model.query.hidden, generator))
    known = Known(catalogue.num_queries, catalogue.num_items, lambda: catalogue.item_counts, read_candidates)
    sampler = build_sampler(config.sampler, known) if untrained else AllItems(catalogue.num_items)
    text = ItemFeatures(fields[1], catalogue.item_features) if fields[1] else None
    weigh = untrained and config.loss.item_weights != "none"
    weights = None
    if weigh:
        constants = catalogue.item_counts, catalogue.num_train_queries, catalogue.propensity
        weights = config.loss.weights_of_items(*constants)
    if config.head.kind in SCORED:
        head: Head = _head(config, sampler, catalogue, generator, text, "id" in items.parts, weights, untrained)
    else:
        head = _own_head(config, catalogue, train if start else None)
    if start and train is not None and config.model.init != "random":
        _closed_form(config, catalogue, train, tables, fields[0], text)
    return TwoTower(tower, head, tables).to(device)


Fields = tuple[FeatureField, ...]


def _query_fields(config: RunConfig, catalogue: Catalogue) -> Fields:
    query = config.model.query
    if "features" not in query.parts:
        return ()
    names = _field_names(query.features, catalogue, "query")
    return tuple(_field(query.features, catalogue, "query", name, f"feature.{name}") for name in names)


def _item_fields(config: RunConfig, items: ItemTowerConfig, catalogue: Catalogue) -> Fields:
    if "features" not in items.parts:
        return ()
    names = _field_names(items.features, catalogue, "item")
    if items.share_feature_table:
        _check_shared(config, catalogue, names)
    prefix = "feature" if items.share_feature_table else "item_feature"
    return tuple(_field(items.features, catalogue, "item", name, f"{prefix}.{name}") for name in names)


def _field_names(config: FeatureConfig, catalogue: Catalogue, side: str) -> Sequence[str]:
    known = catalogue.feature_sizes(side)
    names = config.names or tuple(known)
    for name in names:
        if name not in known:
            raise ConfigError(
                f'this dataset has no {side} features "{name}"',
                where=f"model.{side}.features.names",
                do=nearest(name, known),
            )
    if not names:
        raise ConfigError(
            f"this dataset has no {side} features",
            where=f"model.{side}.kind",
            do="ingest documents with features or text, or choose another kind",
        )
    return names


def _field(config: FeatureConfig, catalogue: Catalogue, side: str, name: str, table: str) -> FeatureField:
    idf = None if config.weighting == "stored" else inverse_frequencies(*catalogue.feature_counts(side, name))
    return FeatureField(name, table, config.combiner, config.dropout, config.weighting, idf)


def _check_shared(config: RunConfig, catalogue: Catalogue, names: Sequence[str]) -> None:
    """Queries and items number the features of these names alike."""
    sizes = catalogue.feature_sizes("query"), catalogue.feature_sizes("item")
    read = _field_names(config.model.query.features, catalogue, "query")
    for name in names:
        if name not in read or sizes[0][name] != sizes[1][name]:
            raise ConfigError(
                f'queries and items have no features "{name}" in common',
                where="model.item.share_feature_table",
                wanted=f"a set of this name, of {sizes[1][name]:,} features, that the query tower reads",
                got=", ".join(f"{other} of {sizes[0][other]:,}" for other in read),
            )


def _table_sizes(
    config: RunConfig, items: ItemTowerConfig, catalogue: Catalogue, fields: tuple[Fields, Fields], untrained: bool
) -> dict[str, int]:
    sizes = {"item": catalogue.num_items} if "id" in items.parts else {}
    if config.head.kind not in SCORED or (config.head.kind == "cnn" and untrained):
        sizes = {name: rows for name, (rows, _) in _head_tables(config, catalogue).items()}
    if "id" in QUERY_TOWERS[config.model.query.kind]:
        sizes["query"] = catalogue.num_queries
    if config.model.query.reads_history and not config.model.query.share_item_table:
        sizes["history"] = catalogue.num_items
    for side, part in zip(("query", "item"), fields, strict=True):
        known = catalogue.feature_sizes(side) if part else {}
        sizes |= {field.table: known[field.name] for field in part}
    return sizes


def _head_tables(config: RunConfig, catalogue: Catalogue) -> dict[str, tuple[int, int]]:
    return table_shapes(config.head, catalogue.num_items, config.model.embedding_dim)


def _own_head(config: RunConfig, catalogue: Catalogue, train: Ragged | None) -> Head:
    """A head with tables of its own; without ``train`` its clusters will be loaded."""
    vectors = None if train is None else functools.partial(_vectors_to_cluster, config, catalogue, train)
    known = KnownItems(
        catalogue.num_items, config.model.embedding_dim, lambda: catalogue.item_counts, vectors, config.train.seed
    )
    return build_head(config.head, known, config.model.temperature)


def _vectors_to_cluster(config: RunConfig, catalogue: Catalogue, train: Ragged) -> Tensor:
    """(N, D): of the closed form over the train pairs, or of the items' features."""
    name, dim, seed = config.head.cluster_by, min(config.model.embedding_dim, CLUSTER_DIM), config.train.seed
    if name != "pairs":
        known = catalogue.feature_sizes("item")
        if name not in known:
            raise ConfigError(
                f'this dataset has no item features "{name}"', where="head.cluster_by", do=nearest(name, known)
            )
        return feature_vectors(catalogue.item_features[name], known[name], dim, seed)
    if catalogue.sequence is not None:
        stop = catalogue.sequence.border_item if catalogue.sequence.borders == "stop" else None
        train = follow_counts(train.values, catalogue.num_items, stop)
    factors = spectral_factors(train, catalogue.num_items, min(dim, len(train), catalogue.num_items), seed)
    return factors.vectors * factors.values


def _tables(config: RunConfig, sizes: dict[str, int], place: Place, start: bool, engine: Engine) -> dict[str, Table]:
    def table(name: str, rows: int) -> Table:
        return _table(config, name, rows, place, start and _is_drawn(config, name), engine)

    cell = TABLE_DTYPES[config.tables.dtype].itemsize
    engine.arrange({name: (rows, cell * _dim(config, name)) for name, rows in sizes.items()})
    return {name: table(name, rows) for name, rows in sizes.items()}


def _is_drawn(config: RunConfig, name: str) -> bool:
    """Whether a table starts with random rows: a closed form writes others; corrections and nodes of trees start at 0.

    A choice that few targets pass is then even until they do: a random row would decide it at random.
    """
    if name in (CORRECTION, NODES):
        return False
    written = {"random": (), "spectral": ("item", "history", "feature"), "documents": ("item",)}
    return name.partition(".")[0] not in written[config.model.init]


def _finished(config: RunConfig, sizes: dict[str, int], place: Place, stored: dict[str, Tensor]) -> dict[str, Table]:
    def table(name: str, rows: int) -> Table:
        options = TableOptions(dtype=TABLE_DTYPES[config.tables.dtype], rows=stored.get(name))
        return TABLES["device"](rows, _dim(config, name), None, options, place)

    return {name: table(name, rows) for name, rows in sizes.items()}


def _table(config: RunConfig, name: str, rows: int, place: Place, drawn: bool, engine: Engine) -> Table:
    chosen = config.tables
    options = TableOptions(
        config.model.init_std if drawn else None,
        derive_seed(config.train.seed, f"table.{name}"),
        TABLE_DTYPES[chosen.dtype],
        chosen.weight_decay,
        chosen.clip_norm,
    )
    own = Place(place.device, place.folder and place.folder / name)
    optimizer = ROW_OPTIMIZERS[config.optimizer]()
    return engine.table(chosen.storage, rows, _dim(config, name), optimizer, options, own, name)


def _dim(config: RunConfig, name: str) -> int:
    """Of a table's rows: an output layer may have tables of their own."""
    few = len(config.head.cuts) + 2
    return table_shapes(config.head, few, config.model.embedding_dim).get(name, (0, config.model.embedding_dim))[1]


def _sources(
    config: RunConfig, catalogue: Catalogue, device: torch.device | str, fields: Fields, generator: torch.Generator
) -> list[Source]:
    query = config.model.query
    weights = None
    if query.history_weights == "degree":
        weights = catalogue.item_counts.clamp(min=1).float().pow(-query.degree_power).to(device)
    table = "item" if query.share_item_table else "history"
    if query.kind == "context":
        given = None if catalogue.sequence is None else catalogue.sequence.context
        return [context_source(query.context, given, table, config.model.embedding_dim, generator)]
    sources: dict[str, list[Source]] = {
        "id": [IdSource()],
        "history": [HistorySource(table, weights)],
        "features": [FeatureSource(field) for field in fields],
    }
    return [source for name in QUERY_TOWERS[query.kind] for source in sources[name]]


def _projection(config: RunConfig, hidden: tuple[int, ...], generator: torch.Generator) -> Projection:
    return Projection(config.model.embedding_dim, hidden, config.model.normalize, generator)


def _head(
    config: RunConfig,
    sampler: Sampler,
    catalogue: Catalogue,
    generator: torch.Generator,
    features: ItemFeatures | None,
    item_rows: bool,
    item_weights: Tensor | None,
    untrained: bool,
) -> DotHead:
    loss = config.loss
    make: Callable[..., DotHead] = functools.partial(DotHead, features=features, item_rows=item_rows)
    if config.head.kind == "cnn":
        encoder = build_encoder(config.head, config.model.embedding_dim, torch_generator(config.train.seed, "cnn"))
        make = functools.partial(CnnHead, encoder, _texts(config, encoder, catalogue) if untrained else None)
    return make(
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
        normalised_share=loss.normalised_share,
        whole_batches=loss.normalised_by == "batch",
        growth=Growth(loss.effective_size, loss.sample_block, loss.exact_when_short) if loss.effective_size else None,
        log_z=_log_z(loss, catalogue.num_items),
        learn_log_z=loss.learn_log_z,
        item_weights=item_weights,
    )


def _log_z(loss: LossConfig, num_items: int) -> float | None:
    if loss.kind not in ESTIMATING_Z:
        return None
    return math.log(num_items) if loss.log_z == "items" else loss.log_z


def _texts(config: RunConfig, encoder: TextEncoder, catalogue: Catalogue) -> ItemTexts:
    read = text_bytes(catalogue.item_texts, config.head.text_bytes)
    return ItemTexts(encoder, read, int((catalogue.item_counts > 0).sum()))


def _closed_form(
    config: RunConfig,
    catalogue: Catalogue,
    train: Ragged,
    tables: dict[str, Table],
    fields: Fields,
    features: ItemFeatures | None,
) -> None:
    model, counts, seed = config.model, catalogue.item_counts, config.train.seed
    text = FeatureRows(features, tables, None, catalogue.num_items) if features else None
    if model.query.kind == "history":
        history_start(model.spectral, train, counts, tables, model.query.history_weights, seed)
    elif model.init == "spectral":
        feature_start(model.spectral, train, fields, catalogue.query_features, counts, tables, seed, text)
    else:
        document_start(train, fields, catalogue.query_features, counts, tables, text)
