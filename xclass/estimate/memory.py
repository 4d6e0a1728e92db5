"""What training a configuration on a dataset takes in memory, on the accelerator and on the disk, part by part."""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import MappingProxyType
from typing import NamedTuple

import torch

from xclass.data.dataset import Dataset
from xclass.data.shuffle import WINDOW_ROWS
from xclass.data.windows import SequenceFacts
from xclass.distributed.placement import Turns, placed
from xclass.distributed.sharded_table import BLOCK_BYTES as COLLECTED_BYTES
from xclass.estimate.layout import Features, Layout, layout_of
from xclass.estimate.own_sizes import CANDIDATE_BYTES, DRAWING
from xclass.estimate.parts import Part, Place
from xclass.estimate.scorers import scorer_parts
from xclass.heads import HeadConfig, rows_asked, table_shapes
from xclass.heads.config import SCORED
from xclass.index.exact import BLOCK_SCORES, SWEEP_ITEMS
from xclass.ingest.options import DEFAULT_VALID_FRACTION, IngestOptions
from xclass.ingest.synthetic.spec import parse_planted
from xclass.losses.fused.row_blocks import BLOCK_BYTES
from xclass.sampling import SamplerConfig
from xclass.sampling.distributions.decayed import FORGOTTEN
from xclass.sampling.distributions.learned import FOLD, FOLD_SHARE
from xclass.scorers.config import DocumentsConfig
from xclass.towers.item_texts import CORRECTION
from xclass.training.checkpoint.snapshot import SPARE_BYTES
from xclass.training.run_config import RunConfig
from xclass.training.validation import SHOWN

BASE = "interpreter and libraries"
BATCH, LOADER = "batch: rows, gradients, blocks", "loader: shuffled rows"
CANDIDATES = "batch: candidates and their log-Q"
WINDOW_ROW_BYTES = 40  # of the loader, see xclass.data.shuffle
FOUND_BYTES = 36  # of exact search, for each of k items of a query
SMALL_FILES = 1 << 20
COLLECTED_BLOCKS = 10  # as they come, in order, and what the allocator keeps of them
FLOAT, INT = 4, 8
ID_BYTES = 16  # an external id in a file, about


class Job(NamedTuple):
    """The sizes of a dataset that memory and time depend on.

    features: side → name → number of different features. feature_values: the same → values of all lists. sequence:
    how positions of a text are read, where it is one.
    """

    queries: int
    items: int
    pairs: int
    valid_pairs: int
    files: dict[str, int]
    features: Features = MappingProxyType({})
    feature_values: Features = MappingProxyType({})
    sequence: SequenceFacts | None = None

    @classmethod
    def of(cls, dataset: Dataset) -> Job:
        """Read off the manifest: nothing else is opened."""
        splits, files = dataset.manifest["splits"], dataset.manifest["files"]
        features = dataset.manifest.get("features", {})
        return cls(
            dataset.num_queries,
            dataset.num_items,
            splits["train"]["pairs"],
            splits["valid"]["pairs"] if "valid" in splits else 0,
            {name: entry["bytes"] for name, entry in files.items()},
            _of_sets(features, "size"),
            _of_sets(features, "values"),
            dataset.sequence,
        )

    @classmethod
    def planned(cls, source: str) -> Job:
        """Of ``planted:items=…,queries=…,pairs=…``, which need not exist: a dataset of that size, split by default."""
        sizes = parse_planted(source)
        queries, items = sizes["num_queries"], sizes["num_items"]
        valid = round(DEFAULT_VALID_FRACTION * sizes["pairs"])
        pairs = sizes["pairs"] - valid - round(IngestOptions().test_fraction * sizes["pairs"])
        files = {
            "train/offsets.npy": INT * (queries + 1),
            "train/values.npy": pairs * (FLOAT if items < 1 << 31 else INT),
            "items.parquet": ID_BYTES * items,
            "queries.parquet": ID_BYTES * queries,
        }
        return cls(queries, items, pairs, valid, files)

    def bytes_of(self, prefix: str) -> int:
        """Bytes of the files whose names begin so."""
        return sum(count for name, count in self.files.items() if name.startswith(prefix))


def _of_sets(features: dict[str, dict[str, dict[str, int]]], key: str) -> Features:
    return {side: {name: part[key] for name, part in sets.items()} for side, sets in features.items()}


def parts_of(config: RunConfig, job: Job, device: torch.device, base_bytes: int, ranks: int = 1) -> list[Part]:
    """Every part of training ``config`` on a dataset of these sizes; of several ranks, what one of them takes.

    Tables are divided among ranks, and so are the queries of a batch. Everything else is there on every rank; the disk
    is shared.

    Args:
        config: checked.
        job: the dataset.
        device: where it would be computed.
        base_bytes: what the interpreter and the libraries take.
        ranks: how many processes train together.

    Cost: models of a few hundred rows are built; nothing is as long as the catalogue.
    """
    of_scorers = _scorers(config.documents, job) if config.documents.sparse else []
    if not config.documents.towers:
        return [Part(BASE, "memory", base_bytes), *of_scorers]
    layout = layout_of(config, job.features, job.sequence)
    return [
        Part(BASE, "memory", base_bytes),
        *of_scorers,
        *_tables(config, job, device, layout, ranks),
        *_beside_tables(config, job, device, layout),
        *_samplers(config.sampler, config, job),
        *_flow(config, job, device, layout, ranks),
        *_disk(config, job, layout, ranks),
    ]


def _scorers(config: DocumentsConfig, job: Job) -> list[Part]:
    """Of the features that they read; the largest where none is named."""
    sizes, values = job.features.get("query", {}), job.feature_values.get("query", {})
    name = config.features or max(values, key=lambda each: values[each], default="")
    return scorer_parts(config, job.queries, job.items, job.pairs, sizes.get(name, 0), values.get(name, 0))


def storage_of(config: RunConfig) -> str:
    """Where rows lie: device, host or mapped."""
    return config.tables.storage


def rows_of(name: str, job: Job, head: HeadConfig) -> int:
    """Rows of a table."""
    own = table_shapes(head, job.items, 1)
    if name in own:
        return own[name][0]
    kind, _, field = name.partition(".")
    if field:
        return job.features["query" if kind == "feature" else "item"][field]
    return job.queries if name == "query" else job.items


def _tables(config: RunConfig, job: Job, device: torch.device, layout: Layout, ranks: int) -> Iterator[Part]:
    storage = storage_of(config)
    place: Place = "accelerator" if device.type == "cuda" and storage == "device" else "memory"
    mapped = storage == "mapped"
    here = _rows_of_the_fullest(config, job, layout, ranks)
    for table, tensors in layout.tables.items():
        for key, row_bytes in tensors.items():
            component, size = f"table {table}: {key}", here[table] * row_bytes
            yield Part(component, place, size, certain=not mapped, cache=mapped)
            if mapped:
                yield Part(component, "disk", rows_of(table, job, config.head) * row_bytes)


def holders_of(config: RunConfig, job: Job, layout: Layout, ranks: int) -> dict[str, Turns]:
    """Table → the ranks that hold it; what a planner would say is not known here, and row-wise is taken instead."""
    sharding = config.distributed.sharding
    sizes = {name: (rows_of(name, job, config.head), own["weight"]) for name, own in layout.tables.items()}
    return placed("row-wise" if sharding == "planner" else sharding, sizes, ranks)


def _rows_of_the_fullest(config: RunConfig, job: Job, layout: Layout, ranks: int) -> dict[str, int]:
    """Table → its rows on the rank that holds the most."""
    holders = holders_of(config, job, layout, ranks)

    def here(rank: int) -> dict[str, int]:
        return {name: turns.rows(rows_of(name, job, config.head), rank) for name, turns in holders.items()}

    def size(rank: int) -> int:
        return sum(count * sum(layout.tables[name].values()) for name, count in here(rank).items())

    return here(max({turns.holders[0] for turns in holders.values()}, key=size))


def _beside_tables(config: RunConfig, job: Job, device: torch.device, layout: Layout) -> Iterator[Part]:
    place: Place = "accelerator" if device.type == "cuda" else "memory"
    yield Part("dense layers, their gradients and Adam", place, layout.trained + layout.dense)
    yield Part("train counts of the items", "memory", layout.counts * job.items, "start", certain=False)
    yield Part("history weights of the items", place, layout.tower.at(job.items, job.queries))
    yield Part("sampler", "memory", layout.sampler.at(job.items, job.queries))
    if config.head.kind != "dot":
        yield Part("output layer: what it knows of items", place, layout.head.at(job.items, job.queries))


def _samplers(sampler: SamplerConfig, config: RunConfig, job: Job) -> Iterator[Part]:
    """What a sampler learns or reads: it depends on what comes, so it is never certain."""
    labels = _positives_per_epoch(config, job) * config.train.epochs
    id_bytes = FLOAT if job.items < 1 << 31 else INT
    learned = 0
    if sampler.kind == "learned-unigram" and sampler.decay:
        batches = math.ceil(math.log(FORGOTTEN) / math.log(sampler.decay))
        learned = 2 * batches * (positives_of(config, job) * id_bytes + 2 * INT)
    elif sampler.kind == "learned-unigram":
        longest = sampler.window or max(FOLD_SHARE * job.items, FOLD)
        learned = min(labels, longest) * id_bytes
        if not sampler.window and labels > longest:
            learned += 3 * INT * job.items
    elif sampler.kind == "adaptive":
        learned = min(_positives_per_epoch(config, job), job.pairs) * (
            4 * INT if sampler.proposal != "unigram" else INT
        )
    elif sampler.kind == "hard":
        learned = 2 * min(job.queries, job.pairs) * sampler.depth * INT
    elif sampler.kind == "given":
        learned = _size_of(sampler.file) * 2
    if learned:
        yield Part(
            "sampler: what it learns" if sampler.kind != "given" else "sampler: candidates",
            "memory",
            learned,
            certain=False,
        )
    for part in sampler.parts:
        yield from _samplers(part, config, job)


def _flow(config: RunConfig, job: Job, device: torch.device, layout: Layout, ranks: int) -> Iterator[Part]:
    """The data that flows through: mapped files, batches, validation; and what the start needs for itself."""
    place: Place = "accelerator" if device.type == "cuda" else "memory"
    dim = config.model.embedding_dim
    mapped = job.bytes_of("train/") + job.bytes_of("query_features/") + job.bytes_of("item_features/")
    yield Part("dataset, mapped files", "memory", mapped, certain=False, cache=True)
    rows = job.queries if config.train.batch.by == "query" else job.pairs
    yield Part(LOADER, "memory", min(rows, 2 * WINDOW_ROWS) * WINDOW_ROW_BYTES, "training", certain=False)
    drawn = _drawn_bytes(config, job, ranks)
    yield Part(CANDIDATES, "memory", drawn, "training")
    batch = max(_batch_bytes(config, job, device, layout, ranks) - drawn, 0)
    yield Part(BATCH, place, batch, "training", certain=False)
    if job.valid_pairs:
        settings = config.train.validation
        k = max(_cutoff(name) for name in (settings.metric, *SHOWN))
        queries = min(settings.queries, job.valid_pairs, job.queries)
        blocks = (torch.get_num_threads() * BLOCK_SCORES + SWEEP_ITEMS * dim) * FLOAT
        history = queries * (job.pairs / max(job.queries, 1)) * 3 * INT
        found = round(queries * (2 * dim * FLOAT + k * FOUND_BYTES) + history)
        yield Part("validation", place, blocks + found, "training", certain=False)
    if config.model.init == "spectral":
        width = dim + config.model.spectral.oversampling
        values = job.pairs + sum(sum(sets.values()) for sets in job.feature_values.values())
        fields = [name for name in layout.tables if "feature." in name]
        rows = job.queries + job.items + sum(rows_of(name, job, config.head) for name in fields)
        size = 3 * rows * width * FLOAT + 2 * values * (2 * INT + FLOAT)
        yield Part("spectral start", "memory", size, "start", certain=False)
    if config.model.init == "documents":
        yield Part("start from documents", "memory", 2 * job.items * dim * FLOAT, "start", certain=False)


def _batch_bytes(config: RunConfig, job: Job, device: torch.device, layout: Layout, ranks: int) -> int:
    """Rows that a step pulls, their gradients and what is computed from them; measured where there is a calibration.

    With several ranks each row and each gradient is there twice more: as it is sent, and as it is put together.
    """
    queries, asked = -(-queries_of(config, job) // ranks), asked_rows(config, job, layout, ranks)
    drawn = 0 if config.head.kind not in SCORED else candidates_of(config, job, ranks)
    row_bytes = config.model.embedding_dim * FLOAT
    distinct = sum(min(asked[table], rows_of(table, job, config.head)) for table in layout.tables)
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    blocks = threads * (BLOCK_BYTES[device.type] + min(drawn, job.items) * row_bytes)
    blocks += _network_bytes(config, min(-(-positives_of(config, job) // ranks) + drawn, job.items))
    copies = 4 if ranks == 1 else 8
    return copies * distinct * row_bytes + 6 * queries * row_bytes + blocks + 4 * INT * sum(asked.values())


def _drawn_bytes(config: RunConfig, job: Job, ranks: int) -> int:
    """Numbers and log-Q of the candidates that a step draws whatever the data are."""
    if config.head.kind not in SCORED or config.sampler.kind not in DRAWING or job.pairs == 0:
        return 0
    return candidates_of(config, job, ranks) * CANDIDATE_BYTES


def asked_rows(config: RunConfig, job: Job, layout: Layout, ranks: int = 1) -> dict[str, int]:
    """Table → rows that a rank's share of a batch asks for; repeats counted. Shared candidates are asked for by all."""
    queries, positives = (-(-count // ranks) for count in (queries_of(config, job), positives_of(config, job)))
    history = history_of(job, queries)
    drawn = candidates_of(config, job, ranks)
    own = 0 if _in_batch(config.sampler) else positives  # else they are among the candidates
    asked = {"item": own + drawn, "query": queries, "history": history}
    if config.model.query.share_item_table:
        asked["item"] += history
    if config.head.kind not in SCORED:
        drawn = 0
    asked |= rows_asked(config.head, job.items, positives + drawn)
    return asked | _features_asked(config, job, layout, queries, positions=positives + drawn)


def history_of(job: Job, queries: int) -> int:
    """Items that so many queries have seen, about."""
    length = job.pairs / max(job.queries, 1) if job.sequence is None else job.sequence.context
    return round(queries * length)


def candidates_of(config: RunConfig, job: Job, ranks: int = 1) -> int:
    """Candidates that a rank scores its queries against, at most: those for the whole batch, and its queries' own."""
    return _candidates(config.sampler, positives_of(config, job), -(-queries_of(config, job) // ranks), job.items)


def _network_bytes(config: RunConfig, items: int) -> int:
    """What a network over the items' texts keeps of a step for its gradients, and those."""
    if config.head.kind != "cnn":
        return 0
    layers = 4 + 5 * config.head.highway
    return items * FLOAT * (layers * sum(config.head.filters) + 4 * config.model.embedding_dim)


def _features_asked(config: RunConfig, job: Job, layout: Layout, queries: int, positions: int) -> dict[str, int]:
    """Feature table → values of a batch: of its queries, and of its distinct items where they have features."""
    asked: dict[str, int] = {}
    for name in layout.tables:
        kind, _, field = name.partition(".")
        if kind == "feature":
            asked[name] = round(queries * job.feature_values["query"][field] / max(job.queries, 1))
        shared = kind == "feature" and config.model.item.share_feature_table
        if (kind == "item_feature" or shared) and field in job.feature_values.get("item", {}):
            items = min(positions, job.items)
            asked[name] = asked.get(name, 0) + round(items * job.feature_values["item"][field] / max(job.items, 1))
    return asked


def _candidates(sampler: SamplerConfig, positives: int, queries: int, items: int) -> int:
    """How many candidates a batch has, at most; those of each query's own counted for all queries."""
    if sampler.kind == "mixture":
        return sum(_candidates(part, positives, queries, items) for part in sampler.parts)
    if sampler.per_query or (sampler.kind == "adaptive" and sampler.proposal != "unigram"):
        return queries * sampler.num_sampled
    if sampler.kind in ("given", "hard"):
        return queries * (sampler.num_sampled or sampler.depth)
    return {"all": items, "in-batch": positives}.get(sampler.kind, sampler.num_sampled)


def _in_batch(sampler: SamplerConfig) -> bool:
    return sampler.kind == "in-batch" or any(map(_in_batch, sampler.parts))


def queries_of(config: RunConfig, job: Job) -> int:
    """Queries of a batch; by pair as many as pairs."""
    return min(config.train.batch.size, job.queries if config.train.batch.by == "query" else job.pairs)


def positives_of(config: RunConfig, job: Job) -> int:
    """Targets of a batch, about."""
    batch = config.train.batch
    if batch.by == "pair":
        return queries_of(config, job)
    mean = job.pairs / max(min(job.queries, job.pairs), 1)
    each = max(mean / 2, 1) if "history" in config.model.query.parts else mean
    return round(queries_of(config, job) * min(each, batch.positives_per_query or math.inf))


def _positives_per_epoch(config: RunConfig, job: Job) -> int:
    if config.train.batch.by == "pair":
        return job.pairs
    return round(positives_of(config, job) * min(job.queries, job.pairs) / max(queries_of(config, job), 1))


def _disk(config: RunConfig, job: Job, layout: Layout, ranks: int) -> Iterator[Part]:
    """At most so much at a time. One checkpoint and the model are certain. What is read back from a file is mapped.

    While a checkpoint is being written the numbered ones are max(keep_checkpoints, 2), that one included, and the best.
    The model, which is no larger than a checkpoint, comes when all but the newest and the best have gone: it takes the
    place of one of the others.
    """
    rows = {name: rows_of(name, job, config.head) for name in layout.tables}
    weights = layout.dense + sum(rows[name] * tensors["weight"] for name, tensors in layout.tables.items())
    tables = sum(rows[name] * sum(tensors.values()) for name, tensors in layout.tables.items())
    checkpoint = layout.trained + tables
    trains = config.train.epochs > 0 and config.train.steps != 0
    yield Part("checkpoint", "disk", checkpoint, certain=trains)
    others = (max(config.train.keep_checkpoints, 2) - 1) * checkpoint - weights
    yield Part("checkpoints: others, while there is no model", "disk", others, certain=False)
    if trains and ranks == 1:
        aside = min(tables, SPARE_BYTES)
        yield Part("rows kept aside while a checkpoint is written", "memory", aside, "training", certain=False)
    elif trains:  # the first rank writes what the others send
        passing = min(COLLECTED_BLOCKS * COLLECTED_BYTES, weights)
        yield Part("rows on their way into the model's file", "memory", passing, "training", certain=False)
    if config.train.validation.keep_best and job.valid_pairs:
        yield Part("best weights", "disk", checkpoint, certain=False)
        yield Part("best weights, read back", "memory", checkpoint, certain=False, cache=True)
    if "features" in config.model.item.parts:  # their vectors are stored whole, instead of their own tables
        own = [name for name in layout.tables if name.startswith("item_feature.") or name == "item"]
        weights -= sum(rows[name] * layout.tables[name]["weight"] for name in own)
        weights += job.items * next(iter(layout.tables.values()))["weight"]
    if config.head.kind == "cnn":  # likewise: its corrections go into them
        correction = CORRECTION in layout.tables
        weights -= rows[CORRECTION] * layout.tables[CORRECTION]["weight"] if correction else 0
        weights += job.items * config.model.embedding_dim * (2 if config.tables.dtype == "bfloat16" else FLOAT)
    yield Part("model", "disk", weights)
    yield Part(
        "ids and small files", "disk", job.bytes_of("items.parquet") + job.bytes_of("queries.parquet") + SMALL_FILES
    )


def _cutoff(metric: str) -> int:
    """The cutoff of ``name@k``; whether there is such a metric is for others to say."""
    digits = metric.rpartition("@")[2]
    return int(digits) if digits.isdecimal() else 0


def _size_of(file: str | None) -> int:
    from pathlib import Path

    return Path(file).stat().st_size if file is not None and Path(file).is_file() else 0
