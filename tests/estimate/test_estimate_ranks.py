"""Plans for several ranks: memory, bytes and seconds against cases computed by hand."""

from __future__ import annotations

import json
import os

import pytest
import torch

from xclass.cli import main
from xclass.cli.amounts import bytes_of, count_of, seconds_of
from xclass.config import build_config
from xclass.data.batches import TrainBatches
from xclass.data.dataset import open_dataset
from xclass.errors import ConfigError
from xclass.estimate import calibration
from xclass.estimate.calibration import Rates
from xclass.estimate.cores import at_most
from xclass.estimate.drawn import BATCHES, drawn_rows
from xclass.estimate.layout import layout_of
from xclass.estimate.memory import Job, candidates_of, holders_of, parts_of
from xclass.estimate.parts import by_component, total
from xclass.estimate.ranks import PREPARED_PER_S, Cluster, distinct_rows, exchanged, plan
from xclass.ingest.synthetic.pairs import PlantedModel
from xclass.training.run_config import RunConfig

CPU = torch.device("cpu")
JOB = Job(queries=1000, items=4000, pairs=10_000, valid_pairs=100, files={})
ID = {"embedding_dim": 8, "query": {"kind": "id"}}


def config(**changes):
    values = {
        "model": ID,
        "sampler": {"kind": "uniform", "num_sampled": 100},
        "train": {"epochs": 2, "batch": {"by": "pair", "size": 64}},
    }
    return build_config(RunConfig, {**values, **changes})


def cluster(ranks, **changes):
    return Cluster(ranks, **{"device_bytes": None, "bytes_per_s": 1e9, "latency_s": 1e-4, **changes})


def sent(chosen, ranks):
    layout = layout_of(chosen)
    holders = holders_of(chosen, JOB, layout, ranks)
    return exchanged(distinct_rows(chosen, JOB, layout, ranks), holders, chosen, layout, ranks)


def test_bytes_of_a_step_by_hand():
    """64 pairs on 4 ranks: each asks for 16 queries, and for 16 targets and 100 candidates."""
    found = sent(config(), 4)
    assert found.rows == {"item": 116, "query": 16}
    assert found.numbers_bytes == 8 * (116 + 4 + 16 + 4) * 3 // 4
    assert found.rows_bytes == found.gradients_bytes == 4 * 8 * 132 * 3 // 4
    assert found.sums_bytes == round(2 * 3 / 4 * 4 * (3 + 2))  # no dense layer
    assert found.exchanges == 8
    assert found.bytes == 840 + 2 * 3168 + 30
    assert found.seconds(cluster(4)) == pytest.approx(5e-4 + 7206 / 1e9)


def test_a_whole_table_on_a_rank():
    """Items on one of 4 ranks, queries on another: the one with the items sends rows of it to three."""
    chosen = config(distributed={"sharding": "table-wise"})
    found = sent(chosen, 4)
    assert found.numbers_bytes == 8 * (16 + 2 * 3)
    assert found.rows_bytes == 4 * 8 * 116 * 3 and found.gradients_bytes == 4 * 8 * 16
    memory = by_component(parts_of(chosen, JOB, CPU, 0, 4), "memory")
    assert memory["table item: weight"] == 4000 * 8 * 4 and not memory["table query: weight"]


def test_dense_layers_are_summed_too():
    mlp = config(model={**ID, "query": {"kind": "id", "hidden": [16]}})
    dense = sum(size for size in (8 * 16 + 16, 16 * 8 + 8))
    assert layout_of(mlp).dense == 4 * dense, "the shapes that the case assumes"
    assert sent(mlp, 2).sums_bytes == 2 * 4 * (3 + 2 + dense) // 2


def test_one_rank_exchanges_nothing():
    found = sent(config(), 1)
    assert (found.bytes, found.exchanges, found.seconds(cluster(1))) == (0, 0, 0.0)
    assert found.rows == {"item": 164, "query": 64}


@pytest.mark.parametrize(
    ("sampler", "candidates"),
    [
        ({"kind": "uniform", "num_sampled": 100}, 100),
        ({"kind": "in-batch"}, 64),
        ({"kind": "all"}, 4000),
        ({"kind": "mixture", "parts": [{"kind": "in-batch"}, {"kind": "uniform", "num_sampled": 10}]}, 74),
        ({"kind": "hard", "num_sampled": 5, "depth": 20}, 16 * 5),
    ],
)
def test_candidates_of_the_batch_are_asked_for_by_every_rank(sampler, candidates):
    chosen = config(sampler=sampler)
    assert candidates_of(chosen, JOB, 4) == candidates
    own = 0 if candidates in (64, 74) else 16  # of the batch's targets they are a part
    assert distinct_rows(chosen, JOB, layout_of(chosen), 4)["item"] == min(own + candidates, JOB.items)


def test_memory_of_a_rank():
    parts = {ranks: parts_of(config(), JOB, CPU, 1000, ranks) for ranks in (1, 3, 4)}
    memory = {ranks: by_component(found, "memory") for ranks, found in parts.items()}
    assert memory[1]["table item: weight"] == 4000 * 8 * 4
    assert memory[4]["table item: weight"] == 1000 * 8 * 4 and memory[4]["table query: weight"] == 250 * 8 * 4
    assert memory[3]["table item: weight"] == 1334 * 8 * 4, "the first rank has one row more"
    assert memory[4]["table item: sum_of_squares"] == 1000 * 4
    for shared in ("interpreter and libraries", "sampler", "train counts of the items"):
        assert memory[4][shared] == memory[1][shared]
    assert by_component(parts[4], "disk") == by_component(parts[1], "disk")


def test_whether_it_fits():
    needed = total(parts_of(config(), JOB, CPU, 0, 4), "memory")
    sure = total(parts_of(config(), JOB, CPU, 0, 4), "memory", certain=True)

    def answer(there):
        return plan(config(), JOB, CPU, cluster(4, device_bytes=there)).answer

    assert [answer(there) for there in (needed, needed - 1, sure - 1)] == ["fits", "tight", "does not fit"]
    assert plan(config(), JOB, CPU, cluster(4)).answer is None
    accelerator = total(parts_of(config(), JOB, torch.device("cuda"), 0, 4), "accelerator")
    assert plan(config(), JOB, torch.device("cuda"), cluster(4, device_bytes=accelerator)).answer == "fits"


def test_seconds_of_a_step_at_stated_rates():
    """16 queries against 100 candidates and a target; 132 rows of 32 bytes and a float of state."""
    there = cluster(4, operations_per_s=1e6, memory_bytes_per_s=1e6)
    found = plan(config(), JOB, CPU, there)
    operations, moved = 6 * 8 * 16 * (100 + 1), 132 * (16 * 8 + 3 * (32 + 4))
    assert found.compute_s == pytest.approx((operations + moved) / 1e6)
    assert found.prepare_s == pytest.approx((64 + 640 + 132) / PREPARED_PER_S)
    assert found.step_s == pytest.approx(found.compute_s + found.exchange.seconds(there))
    assert found.steps == 2 * -(-10_000 // 64)
    quick = plan(config(), JOB, CPU, cluster(1, operations_per_s=1e15, memory_bytes_per_s=1e15))
    assert quick.step_s == quick.prepare_s, "the host can't keep up"


def test_seconds_of_a_step_measured_here():
    rates = Rates(**dict.fromkeys(Rates._fields, 0))._replace(
        step_s=0.02, phase_ms={"load": 2.0, "sample": 2.0, "pull": 3.0, "loss": 8.0, "push": 5.0}
    )
    found = plan(config(), JOB, CPU, cluster(4), rates=rates)
    assert found.compute_s == pytest.approx((2 + 2 + 8 * 132 / 228 + 8 / 4) / 1000)
    assert found.prepare_s is None
    alone = plan(config(), JOB, CPU, cluster(1), rates=rates)
    assert alone.step_s == pytest.approx(0.02)
    assert plan(config(), JOB, CPU, cluster(4)).step_s is None


def test_a_rank_with_less_than_a_core_computes_longer():
    rates = Rates(**dict.fromkeys(Rates._fields, 0))._replace(step_s=0.02, phase_ms={"load": 2.0, "loss": 8.0})
    step = {cores: plan(config(), JOB, CPU, cluster(4, cores=cores), rates=rates).compute_s for cores in (0.5, 1, 3)}
    routed = plan(config(), JOB, CPU, cluster(4, cores=0.5), rates=rates, routed_s=0.01).compute_s
    assert routed == pytest.approx(step[0.5] + 2 * 0.01)
    assert step[0.5] == pytest.approx(2 * step[1]) and step[1] == step[3] == pytest.approx(0.02 * (2 + 8 / 4) / 10)
    assert [cluster(4, cores=cores).whole_cores for cores in (None, 0.5, 1, 2.5)] == [None, 1, 1, 2]
    with pytest.raises(ConfigError, match="above 0"):
        cluster(4, cores=0.0)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="threads can't be bound to cores here")
def test_at_most_so_many_cores():
    whole, threads = os.sched_getaffinity(0), torch.get_num_threads()
    with at_most(1):
        assert len(os.sched_getaffinity(0)) == 1 == torch.get_num_threads()
    assert (os.sched_getaffinity(0), torch.get_num_threads()) == (whole, threads)
    with at_most(len(whole)):
        assert os.sched_getaffinity(0) == whole


def test_what_can_not_be_planned():
    with pytest.raises(ConfigError, match="item vectors only"):
        plan(build_config(RunConfig, {"head": {"kind": "hierarchical"}}), JOB, CPU, cluster(2))
    with pytest.raises(ConfigError, match="go together"):
        cluster(2, operations_per_s=1e9)
    with pytest.raises(ConfigError, match="above 0"):
        cluster(2, bytes_per_s=0.0)


def test_amounts():
    assert bytes_of("--x", "1.5GiB") == 1.5 * 2**30 and bytes_of("--x", "3 TB/s") == 3e12
    assert bytes_of("--x", "8Mbit/s") == 1e6 and bytes_of("--x", "1000") == 1000
    assert seconds_of("--x", "2 ms") == 0.002 and count_of("--x", "1.2P") == 1.2e15


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    model = PlantedModel(num_items=300, num_queries=400, pairs=8000, num_topics=8, seed=3)
    text = '[model]\nembedding_dim = 8\nquery = {kind = "id"}\n[sampler]\nnum_sampled = 32\n[train.batch]\nsize = 256\n'
    (folder / "config.toml").write_text(text)
    return model.write_dataset(folder / "dataset").path, folder / "config.toml"


def answer(capsys, *arguments):
    assert main(["estimate", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_rows_asked_for_are_counted_on_batches(files):
    """Of one rank by sets; more ranks ask for a share of the queries, and for all candidates."""
    dataset, chosen = open_dataset(files[0]), config(sampler={"kind": "uniform", "num_sampled": 32})
    found = drawn_rows(dataset, chosen, (1, 4))
    batches = TrainBatches(dataset.split("train"), chosen.train.batch, chosen.train.seed, False)
    seen = [batch for _, batch in zip(range(BATCHES), batches.epoch(0), strict=False)]
    queries = [len(set(batch.query_ids.tolist())) for batch in seen]
    assert found[1]["query"] == round(sum(queries) / len(queries))
    targets = [len(set(batch.positives.values.tolist())) for batch in seen]
    assert sum(targets) / len(targets) < found[1]["item"] <= sum(targets) / len(targets) + 32
    assert found[4]["query"] == pytest.approx(found[1]["query"] / 4, rel=0.2) and 32 < found[4]["item"] <= 32 + 16
    mined = config(sampler={"kind": "hard", "num_sampled": 5, "depth": 20})
    assert drawn_rows(dataset, mined, (2,)) == {}


def test_the_command_on_a_dataset(files, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(calibration, "TIMED_S", 0.1)
    dataset, settings = files
    base = (dataset, "--config", settings, "--no-calibrate", "--device", "cpu", "--out", tmp_path)
    two = answer(capsys, *base, "--ranks", 2, "--device-memory", "2GiB", "--bandwidth", "8Gbit/s", "--latency", "1ms")
    assert two["verdict"] == "fits" and two["step"] is None and two["cluster"]["bytes_per_s"] == 1e9
    assert two["rank"]["memory"]["components"]["table item: weight"] == 150 * 8 * 4
    sent = two["exchange"]
    assert sent["seconds"] == pytest.approx(5e-3 + sent["bytes"] / 1e9)
    assert sent["rows"]["item"] < 32 + 128, "targets repeat"
    measured = answer(capsys, dataset, "--config", settings, "--device", "cpu", "--out", tmp_path, "--ranks", 2)
    step = measured["step"]
    assert step["step_s"] == pytest.approx(step["compute_s"] + step["exchange_s"])


def test_the_command_on_sizes_alone(files, capsys):
    arguments = ("planted:items=1e9,queries=1e8,pairs=1e9", "--config", files[1], "--ranks", 64, "--device", "cuda")
    found = answer(capsys, *arguments, "--device-memory", "80GiB", "--flops", "40T", "--memory-bandwidth", "3TB/s")
    rows = -(-1_000_000_000 // 64)
    assert found["rank"]["accelerator"]["components"]["table item: weight"] == rows * 8 * 4
    assert found["job"]["pairs"] == 700_000_000 and found["verdict"] == "fits" and found["step"]["step_s"] > 0
    assert main(["estimate", *map(str, arguments)]) == 0
    assert "different rows asked for" in capsys.readouterr().out


def test_options_that_need_ranks(files, capsys):
    assert main(["estimate", str(files[0]), "--config", str(files[1]), "--flops", "1T"]) == 2
    assert main(["estimate", str(files[0]), "--config", str(files[1]), "--ranks", "2", "--bandwidth", "fast"]) == 2
    assert "25GB/s" in capsys.readouterr().err
