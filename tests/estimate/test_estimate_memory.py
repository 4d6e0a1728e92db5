"""The bytes an estimate names against the bytes of models, samplers and runs that are really built."""

from __future__ import annotations

import itertools

import pytest
import torch

from xclass.config import apply_overrides, build_config
from xclass.estimate import memory
from xclass.estimate.layout import Few, held, layout_of
from xclass.estimate.memory import BASE, BATCH, LOADER, Job, parts_of
from xclass.estimate.parts import by_component, cached, total
from xclass.ingest.synthetic.pairs import PlantedModel
from xclass.runs.train import train_run
from xclass.sampling import Known, build_sampler
from xclass.training.build import build_model
from xclass.training.checkpoint.model_state import ModelState
from xclass.training.run_config import RunConfig
from xclass.types import Ragged

CPU = torch.device("cpu")
JOB = Job(queries=700, items=1500, pairs=20_000, valid_pairs=500, files={"train/values.npy": 80_128})
TOWERS = [{"kind": "id"}, {"kind": "history"}, {"kind": "id+history", "history_weights": "degree", "hidden": [8]}]
TOWERS.append({"kind": "history", "share_item_table": True})
SAMPLERS = [
    {"kind": "uniform", "replacement": False},
    {"kind": "log-uniform"},
    {"kind": "fixed-unigram"},
    {"kind": "fixed-unigram", "num_shards": 3, "shard": 1, "replacement": False},
    {"kind": "learned-unigram", "replacement": False},
    {"kind": "learned-unigram", "decay": 0.9},
    {"kind": "in-batch"},
    {"kind": "in-batch", "frequency": "streaming", "frequency_hashes": 2},
    {"kind": "in-batch", "frequency": "streaming", "frequency_buckets": 77},
    {"kind": "target"},
    {"kind": "hard"},
    {"kind": "mixture", "parts": [{"kind": "fixed-unigram"}, {"kind": "hard"}, {"kind": "uniform"}]},
    {"kind": "all"},
]


def config(**changes):
    values = {"model": {"embedding_dim": 12}, "sampler": {"num_sampled": 64}, **changes}
    return build_config(RunConfig, values)


class Catalogue(Few):
    """As many rows as the job has."""

    def __init__(self):
        super().__init__(JOB.items, JOB.queries)

    @property
    def item_counts(self):
        return torch.arange(JOB.items, 0, -1, dtype=torch.int32)


def components(settings, place="memory", cache=False):
    parts = [part for part in parts_of(settings, JOB, CPU, 0) if part.cache == cache]
    return {name: count for name, count in by_component(parts, place).items() if count}


@pytest.mark.parametrize(("optimizer", "tower"), list(itertools.product(["adagrad", "adam", "rmsprop", "sgd"], TOWERS)))
def test_tables_and_layers_are_those_of_a_model_that_is_built(optimizer, tower, tmp_path):
    for dtype, storage, decay in itertools.product(["float32", "bfloat16"], ["device", "host", "mapped"], [0.0, 0.01]):
        tables = {"dtype": dtype, "storage": storage, "weight_decay": decay}
        settings = config(
            optimizer=optimizer, tables=tables, model={"embedding_dim": 12, "query": tower, "item": {"hidden": [4]}}
        )
        folder = tmp_path / f"{dtype}-{decay}"
        model = build_model(settings, Catalogue(), None, folder=folder)
        real = {
            f"table {name}: {key}": tensor.nbytes
            for name, table in model.tables.items()
            for key, tensor in table.tensors().items()
            if tensor.dim()
        }
        said = components(settings, cache=storage == "mapped")
        assert {name: count for name, count in said.items() if name.startswith("table ")} == real
        if storage == "mapped":
            on_disk = components(settings, "disk")
            files = sum(file.stat().st_size for file in folder.rglob("*.bin"))
            assert sum(on_disk[name] for name in real) == files
        state = ModelState(model, 0.1).tensors()
        dense = sum(parameter.nbytes for parameter in model.parameters())
        trained = sum(tensor.nbytes for name, tensor in state.items() if name.startswith(("dense.", "adam.")))
        assert layout_of(settings).trained == trained and layout_of(settings).dense == dense
        small = sum(tensor.nbytes for tensor in state.values() if not tensor.dim())
        saved = sum(tensor.nbytes for tensor in state.values())
        assert saved - small <= components(settings, "disk")["checkpoint"] <= saved
        weights = dense + sum(table.weight.nbytes for table in model.tables.values())
        assert components(settings, "disk")["model"] == weights
        tower_bytes = held(model.tower.sources)
        assert components(settings).get("history weights of the items", 0) == tower_bytes


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: "-".join(map(str, sampler.values())))
def test_samplers_are_those_that_are_built(sampler):
    sampler = {"num_sampled": 64, **sampler}
    settings = config(sampler=sampler)
    real = build_sampler(settings.sampler, Known(JOB.queries, JOB.items, Catalogue().item_counts))
    assert components(settings).get("sampler", 0) == pytest.approx(held(real), abs=16)  # a shard's last item


def test_train_counts_are_named_where_something_reads_them():
    assert components(config(sampler={"kind": "fixed-unigram"}))["train counts of the items"] == 4 * JOB.items
    assert components(config(sampler={"kind": "in-batch"}))["sampler"] == 4 * JOB.items
    assert "train counts of the items" not in components(config())
    degree = config(model={"query": {"kind": "history", "history_weights": "degree"}})
    assert components(degree)["train counts of the items"] == 4 * JOB.items


@pytest.mark.parametrize(
    ("sampler", "labels"),
    [
        ({"kind": "learned-unigram"}, 40_000),
        ({"kind": "learned-unigram"}, (1 << 20) + 40_000),
        ({"kind": "learned-unigram", "window": 5000}, 40_000),
        ({"kind": "learned-unigram", "decay": 0.8}, 100 * 2048),
    ],
)
def test_what_a_sampler_learns_stays_below_what_is_named(sampler, labels):
    settings = config(sampler={"num_sampled": 64, **sampler}, train={"epochs": 1})
    job = JOB._replace(pairs=labels)
    real = build_sampler(settings.sampler, Known(JOB.queries, JOB.items, Catalogue().item_counts))
    before = held(real)
    one = torch.arange(2048) % JOB.items
    for start in range(0, labels, 2048):
        batch = one[: labels - start]
        real.learn(Ragged(torch.tensor([0, len(batch)]), batch))
    parts = by_component(parts_of(settings, job, CPU, 0), "memory")
    grown = held(real) - before
    assert grown <= 2 * parts["sampler: what it learns"] + 8192  # a log's capacity is twice its length at most
    assert parts["sampler: what it learns"] <= 3 * max(grown, before) + 8192


def test_what_is_expected_only_is_not_certain_and_files_are_cache():
    parts = {part.component: part for part in parts_of(config(), JOB, CPU, 5)}
    assert parts[BASE].bytes == 5 and parts[BASE].certain
    assert not parts[BATCH].certain and not parts[LOADER].certain and not parts["validation"].certain
    assert parts["dataset, mapped files"].cache and parts["best weights, read back"].cache
    assert cached(parts.values()) == JOB.files["train/values.npy"] + parts["best weights, read back"].bytes
    mapped = parts_of(config(tables={"storage": "mapped"}), JOB, CPU, 0)
    assert total(mapped, "memory", certain=True) < total(parts.values(), "memory", certain=True)


def test_an_accelerator_takes_tables_layers_and_batches():
    cuda = torch.device("cuda")
    found = by_component(parts_of(config(), JOB, cuda, 0), "accelerator")
    assert {"table item: weight", "table history: sum_of_squares", BATCH} <= set(found)
    host = by_component(parts_of(config(tables={"storage": "host"}), JOB, cuda, 0), "accelerator")
    assert not any(name.startswith("table ") for name in host) and BATCH in host


def test_the_cost_does_not_depend_on_the_size_of_the_job():
    """Formulas only: a catalogue of 10¹⁰ items is estimated like one of a thousand."""
    job = Job(10**9, 10**10, 10**11, 10**6, {})
    parts = parts_of(config(sampler={"kind": "fixed-unigram"}), job, CPU, 0)
    assert by_component(parts, "memory")["table item: weight"] == 48 * 10**10
    assert by_component(parts, "memory")["sampler"] == 16 * 10**10


def test_a_run_writes_what_was_certain_and_no_more_than_was_expected(tmp_path):
    model = PlantedModel(num_items=3000, num_queries=1000, pairs=20_000, num_topics=8, seed=3)
    dataset = model.write_dataset(tmp_path / "dataset")
    settings = config(
        optimizer="adam",
        train={"epochs": 3, "checkpoint_every_s": 0, "batch": {"size": 4096}, "validation": {"keep_best": False}},
    )
    run = train_run(dataset, settings, tmp_path / "run")
    written = sum(file.stat().st_size for file in run.rglob("*") if file.is_file())
    parts = parts_of(settings, Job.of(dataset), CPU, 0)
    assert total(parts, "disk", certain=True) - memory.SMALL_FILES <= written <= total(parts, "disk")


def test_every_key_of_tables_has_a_size():
    """A storage or type that is added to the configuration is estimated, too."""
    for name, field in {"storage": "storage", "dtype": "dtype"}.items():
        annotation = type(RunConfig().tables).model_fields[field].annotation
        for value in annotation.__args__:
            parts = parts_of(build_config(RunConfig, apply_overrides({}, [f"tables.{name}={value}"])), JOB, CPU, 0)
            assert sum(part.bytes for part in parts if part.component.startswith("table item")) > 0
