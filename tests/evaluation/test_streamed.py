"""Around a large catalogue: counts read when they are needed, evaluation on a sample, lists joined when taken."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import xclass
from xclass.config import build_config
from xclass.data import dataset as store
from xclass.data.dataset import Dataset, read_item_counts
from xclass.data.lists import Joined, Some
from xclass.embeddings import MemoryTable, TableOptions
from xclass.errors import ArtefactError, ConfigError, InputError
from xclass.index import ExactIndex
from xclass.ingest.synthetic.pairs import PlantedModel
from xclass.metrics import CatalogueUse, check_falling, coverage, gini, inverse_propensities, parse_metrics
from xclass.metrics import popularity as popularity_module
from xclass.optim import RowAdaGrad
from xclass.queries.queries import dataset_queries
from xclass.recommender import Recommender
from xclass.runs.directory import RunDirectory
from xclass.sampling import Known, SamplerConfig, build_sampler
from xclass.sampling import config as sampler_config
from xclass.training.build import build_model
from xclass.training.config import TrainingConfig
from xclass.training.run_config import RunConfig
from xclass.training.validation import make_validator
from xclass.types import Ragged, TopK, concat_ragged, offsets_of

CONFIG = {
    "model": {"embedding_dim": 8, "normalize": True, "query": {"kind": "id"}},
    "tables": {"dtype": "bfloat16"},
    "train": {"epochs": 2, "learning_rate": 0.3, "batch": {"size": 256}, "validation": {"every_epochs": 9}},
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    path = tmp_path_factory.mktemp("streamed") / "dataset"
    return PlantedModel(num_items=300, num_queries=400, pairs=8_000, num_topics=8, seed=1).write_dataset(path)


@pytest.fixture(scope="module")
def recommender(dataset: Dataset) -> Recommender:
    return xclass.train(dataset, CONFIG, dataset.path.parent / "run")


def lists(rows: list[list[int]]) -> TopK:
    ids = torch.tensor([item for row in rows for item in row], dtype=torch.int64)
    return TopK(offsets_of(torch.tensor([len(row) for row in rows])), ids, torch.zeros(len(ids)))


def never() -> NoReturn:
    raise AssertionError("the counts were read")


def test_who_reads_the_counts(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("uniform", "learned-unigram", "target", "hard"):
        build_sampler(SamplerConfig(kind=kind, num_sampled=5), Known(9, 300, never))
    for kind in ("log-uniform", "fixed-unigram", "in-batch"):
        build_sampler(SamplerConfig(kind=kind), Known(9, 300, lambda: dataset.item_counts))
        with pytest.raises(AssertionError, match="the counts were read"):
            build_sampler(SamplerConfig(kind=kind), Known(9, 300, never))
    monkeypatch.setattr(Dataset, "item_counts", property(lambda self: never()))
    build_model(build_config(RunConfig, {"model": {"query": {"kind": "id"}}}), dataset, None)


@pytest.mark.parametrize("at_once", [1, 2, 7, 100])
def test_a_rise_is_found_wherever_a_block_ends(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler_config, "CHECKED_AT_ONCE", at_once)
    monkeypatch.setattr(popularity_module, "CHECKED_AT_ONCE", at_once)
    for item in range(1, 9):
        counts = torch.arange(9, 0, -1)
        check_falling(counts)
        counts[item:] += 2
        with pytest.raises(ConfigError, match=f"item {item} with"):
            build_sampler(SamplerConfig(kind="log-uniform", num_sampled=2), Known(3, 9, counts))
        with pytest.raises(InputError, match="fall with train count"):
            check_falling(counts)


@pytest.mark.parametrize("per_block", [1, 64, 1 << 20])
def test_counts_are_read_in_blocks(dataset: Dataset, per_block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "COUNTS_PER_BLOCK", per_block)
    wanted = torch.bincount(dataset.split("train").values.long(), minlength=300)
    assert dataset.item_counts.dtype == torch.int32
    assert torch.equal(dataset.item_counts.long(), wanted)


def test_counts_beyond_32_bits(tmp_path: Path) -> None:
    pl.DataFrame({"train_count": [1 << 40, 7]}).write_parquet(tmp_path / "items.parquet")
    assert read_item_counts(tmp_path / "items.parquet").tolist() == [1 << 40, 7]
    pl.DataFrame({"train_count": pl.Series([], dtype=pl.Int64)}).write_parquet(tmp_path / "none.parquet")
    assert read_item_counts(tmp_path / "none.parquet").tolist() == []


@given(st.lists(st.lists(st.integers(0, 19), unique=True, max_size=6), max_size=30), st.integers(1, 5), st.booleans())
def test_use_of_the_catalogue_equals_counts_of_all_items(rows: list[list[int]], batch: int, dense: bool) -> None:
    use, shown = CatalogueUse([4]), torch.zeros(20, dtype=torch.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coverage, "LEAST_TO_COUNT", 3)
        patch.setattr(coverage, "DENSE_ITEMS", 1 << 24 if dense else 0)
        for start in range(0, len(rows), batch):
            use.add(lists(rows[start : start + batch]))
        found = use.result(20)
    for row in rows:
        shown[row[:4]] += 1
    assert found["coverage@4"] == float((shown > 0).double().mean())
    assert found["gini@4"] == pytest.approx(gini(shown), nan_ok=True, abs=1e-12)


def test_propensities_leave_the_counts_alone() -> None:
    counts = torch.tensor([5, 3, 0], dtype=torch.int32)
    weights = inverse_propensities(counts, 10)
    assert counts.tolist() == [5, 3, 0]
    double = counts.double()
    assert torch.equal(weights, inverse_propensities(double, 10))
    assert double.tolist() == [5.0, 3.0, 0.0]


def test_lists_are_joined_when_they_are_taken(dataset: Dataset) -> None:
    train, valid = dataset.split("train"), dataset.split("valid")
    joined, rows = dataset.seen("test"), torch.tensor([399, 5, 5, 0])
    assert isinstance(joined, Joined)
    wanted = concat_ragged(train, valid)
    assert (len(joined), joined.to_lists()) == (400, wanted.to_lists())
    assert torch.equal(joined.lengths(), wanted.lengths())
    assert joined.take(rows).to_lists() == wanted.take(rows).to_lists()
    some = Some(joined, rows)
    assert len(some) == 4
    assert some.take(torch.tensor([3, 0])).to_lists() == wanted.take(torch.tensor([0, 399])).to_lists()


@pytest.mark.parametrize("at_once", [1, 300, 5000])
def test_queries_searched_together_get_the_same_lists(
    recommender: Recommender, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries = dataset_queries(recommender.dataset)
    wanted = [
        (positions, recommender.exact_index.search(recommender.model.query_vectors(batch), 9, batch.history))
        for positions, batch in queries.batches(size=64)
    ]
    monkeypatch.setattr(ExactIndex, "queries_at_once", at_once)
    monkeypatch.setattr("xclass.queries.queries.Queries.batches.__defaults__", (64,))
    found = list(recommender.lists(queries, 9))
    assert [positions.tolist() for positions, _ in found] == [positions.tolist() for positions, _ in wanted]
    for (_, one), (_, other) in zip(found, wanted, strict=True):
        assert torch.equal(one.ids, other.ids)
        assert torch.equal(one.offsets, other.offsets)
        torch.testing.assert_close(one.scores, other.scores)


def test_evaluation_on_a_sample(recommender: Recommender, tmp_path: Path) -> None:
    metrics = parse_metrics(["recall@20", "ndcg@20"])
    whole, part = recommender.measure(metrics), recommender.measure(metrics, max_queries=50)
    assert (part.num_queries, part.num_skipped, part.num_missing) == (50, whole.num_skipped, 0)
    assert part.metrics == recommender.measure(metrics, max_queries=50).metrics, "the same sample each time"
    values, chosen = part.per_query["recall@20"], ~torch.isnan(part.per_query["recall@20"])
    assert len(values) == 400
    assert int(chosen.sum()) == 50
    assert torch.equal(values[chosen], whole.per_query["recall@20"][chosen])
    assert part.metrics["recall@20"] == pytest.approx(float(values[chosen].double().mean()))
    assert part.popularity["recall@20"] == pytest.approx(whole.popularity["recall@20"], abs=0.1)
    part.write_per_query(tmp_path / "part.parquet", recommender.run.query_ids)
    assert pl.read_parquet(tmp_path / "part.parquet")["recall@20"].drop_nulls().len() == 50
    assert recommender.measure(metrics, max_queries=4000).metrics == whole.metrics
    assert recommender.evaluate(k=[20], max_queries=50).filter(pl.col("metric") == "recall@20")["model"].to_list() == [
        part.metrics["recall@20"]
    ]


def test_validation_equals_an_evaluation_of_the_same_queries(recommender: Recommender) -> None:
    settings = TrainingConfig(validation={"queries": 400})
    validate = make_validator(recommender.dataset, settings)
    assert validate is not None
    whole = recommender.measure(parse_metrics(["recall@20", "ndcg@20"]), "valid")
    assert validate(recommender.model).metrics == pytest.approx(whole.metrics, abs=1e-9)


def test_a_finished_run_keeps_bfloat16_rows(recommender: Recommender) -> None:
    table = recommender.model.tables["item"]
    assert table.weight.dtype == torch.bfloat16
    assert recommender.item_vectors.nbytes == 300 * 8 * 2
    assert recommender.item_vectors.read(0, 300).norm(dim=1).tolist() == pytest.approx([1.0] * 300, abs=1e-5)


def test_rows_of_a_finished_run_are_not_copied(recommender: Recommender, tmp_path: Path) -> None:
    rows = torch.zeros(5, 2, dtype=torch.bfloat16)
    table = MemoryTable(5, 2, None, TableOptions(dtype=torch.bfloat16, rows=rows))
    assert table.weight.data_ptr() == rows.data_ptr()
    with pytest.raises(InputError, match="only read"):
        table.push(torch.tensor([1]), torch.ones(1, 2), 0.1)
    for size, optimizer, dtype in [
        (6, None, torch.bfloat16),
        (5, None, torch.float32),
        (5, RowAdaGrad(), torch.bfloat16),
    ]:
        with pytest.raises(InputError, match="the rows of this table"):
            MemoryTable(size, 2, optimizer, TableOptions(dtype=dtype, rows=rows))
    config = recommender.run.config
    changed = config.model_copy(update={"model": config.model.model_copy(update={"embedding_dim": 9})})
    run = RunDirectory(recommender.run.path)
    run.config = changed
    with pytest.raises(ArtefactError, match="the rows of this table"):
        run.load_model()


def test_ragged_stays_a_ragged_without_a_valid_split(tmp_path: Path) -> None:
    world = PlantedModel(num_items=60, num_queries=50, pairs=500, num_topics=4)
    assert isinstance(world.write_dataset(tmp_path / "d", valid_fraction=0).seen("test"), Ragged)
