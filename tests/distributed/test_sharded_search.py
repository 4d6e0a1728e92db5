"""Retrieval by several processes: the same file as one process writes, bit for bit, whatever they divide."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
import torch
from ranks.launching import ended, launch, start

from xclass.api import train
from xclass.batch.retrieve import Job, retrieve_to_file
from xclass.distributed.process_group import Group
from xclass.distributed.sharded_search import DividedIndex
from xclass.errors import ConfigError
from xclass.index import ExactIndex
from xclass.index.merge import merged
from xclass.ingest.ingest import ingest
from xclass.ingest.options import IngestOptions
from xclass.recommender import Recommender
from xclass.runtime.rng import torch_generator
from xclass.types import Ragged, TopK
from xclass.types.vectors import RangeOfVectors, TensorVectors

NUM_ITEMS, NUM_QUERIES = 2500, 150
JOBS = """
import sys, json
from pathlib import Path
import torch
import xclass.batch.retrieve as batch
from xclass.batch.retrieve import Job, retrieve_to_file
from xclass.distributed.sharded_search import DividedIndex
from xclass.distributed.process_group import Group
from xclass.recommender import Recommender
torch.set_num_threads(1)
batch.PART_QUERIES, batch.PART_ROWS = 64, 1
run, folder, jobs = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
with Group(60) as group:
    recommender = Recommender.load(run)
    for name, options in jobs.items():
        written = retrieve_to_file(recommender, folder / name, Job(**options), group=group)
        if group.is_first:
            print(name, written.counts.queries, written.counts.rows, flush=True)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    source = f"planted:items={NUM_ITEMS},queries={NUM_QUERIES},pairs=6000"
    config = {"model": {"embedding_dim": 12}, "sampler": {"num_sampled": 32}, "train": {"epochs": 1}}
    return train(ingest(source, folder / "dataset", IngestOptions()), config, folder / "run", device="cpu").run.path


def jobs_of(run: Path, folder: Path) -> dict[str, dict[str, object]]:
    """Name of the file → the job."""
    ids = Recommender.load(run).run.item_ids
    (folder / "allow.txt").write_text("\n".join(ids[:700].to_list()))
    (folder / "deny.txt").write_text("\n".join(ids[::7].to_list()))
    own = pl.DataFrame({"query_id": Recommender.load(run).dataset.queries["query_id"][:50]})
    own.with_columns(item_id=pl.lit(ids[3])).write_csv(folder / "own.csv")
    (folder / "queries.txt").write_text("\n".join([*own["query_id"].to_list()[::-1], "nobody"]))
    plain = {
        "plain.parquet": {"k": 10},
        "seen.jsonl": {"k": 40, "include_seen": True},
        "filters.parquet": {"k": 7, "candidates": str(folder / "allow.txt"), "exclude": str(folder / "own.csv")},
        "denied.parquet": {"k": 20, "exclude": str(folder / "deny.txt"), "queries": str(folder / "queries.txt")},
    }
    return {
        f"{divide}-{name}": {**options, "divide": divide}
        for divide in ("queries", "items")
        for name, options in plain.items()
    }


def lists(path: Path) -> pl.DataFrame:
    return pl.read_ndjson(path) if path.suffix == ".jsonl" else pl.read_parquet(path)


def test_the_lists_of_one_process(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xclass.batch.retrieve.PART_QUERIES", 64)
    monkeypatch.setattr("xclass.batch.retrieve.PART_ROWS", 1)
    jobs = jobs_of(run, tmp_path)
    ended = launch(2, ["-c", JOBS, str(run), str(tmp_path), json.dumps(jobs)])
    assert [code for code, _, _ in ended] == [0, 0], ended
    recommender = Recommender.load(run)
    for name, options in jobs.items():
        alone = tmp_path / f"alone-{name}"
        counts = retrieve_to_file(recommender, alone, Job(**options)).counts  # type: ignore[arg-type]
        assert lists(tmp_path / name).equals(lists(alone)), name
        assert f"{name} {counts.queries} {counts.rows}" in ended[0][1]
    assert not list(tmp_path.glob(".*.parts"))


def test_any_number_of_processes_goes_on(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Part 1 of three is there alone, as one of two processes that were killed might leave it."""
    monkeypatch.setattr("xclass.batch.retrieve.PART_QUERIES", 64)
    monkeypatch.setattr("xclass.batch.retrieve.PART_ROWS", 1)
    recommender, removed = Recommender.load(run), []

    def stop(parts: object, *arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(BaseException, match="parts are kept"):
        patch.setattr("xclass.retrieval.parts.Parts.finish", stop)
        retrieve_to_file(recommender, tmp_path / "topk.parquet", Job(k=5))
    for number in (0, 2):
        for file in (tmp_path / ".topk.parquet.parts").glob(f"part-{number:06d}.*"):
            file.unlink()
            removed.append(file.name)
    assert len(removed) == 4
    written = retrieve_to_file(recommender, tmp_path / "topk.parquet", Job(k=5), resume=True)
    assert (written.resumed_parts, written.queries_here) == (1, NUM_QUERIES - 64)
    retrieve_to_file(recommender, tmp_path / "whole.parquet", Job(k=5))
    assert lists(tmp_path / "topk.parquet").equals(lists(tmp_path / "whole.parquet"))


def test_the_command_on_four_ranks(run: Path, tmp_path: Path) -> None:
    arguments = ["-m", "xclass", "retrieve", str(run), "-k", "5", "--json", "--divide", "items", "--out"]
    first, *others = ended(start(4, [*arguments, str(tmp_path / "four.parquet")]), timeout_s=400)
    assert first[0] == 0 and all((code, out) == (0, "") for code, out, _ in others), (first, others)
    assert json.loads(first[1])["queries"] == NUM_QUERIES
    retrieve_to_file(Recommender.load(run), tmp_path / "one.parquet", Job(k=5))
    assert lists(tmp_path / "four.parquet").equals(lists(tmp_path / "one.parquet"))


class Fake(Group):
    """One rank of several whose exchanges are answered from what the others said before."""

    def __init__(self, rank: int, size: int, others: list[TopK]) -> None:
        super().__init__()
        self.rank, self.size, self._others, self._asked = rank, size, others, 0

    def gather(self, values: torch.Tensor, what: str = "") -> list[torch.Tensor]:
        self._asked += 1
        return [values]


@pytest.mark.parametrize(("items", "dim", "k"), [(5000, 64, 100), (3000, 7, 10), (1500, 33, 1400)])
@pytest.mark.parametrize("ranks", [2, 3, 8])
def test_merged_lists_are_those_of_one_search(items: int, dim: int, k: int, ranks: int) -> None:
    """Bit for bit: ids, scores and ties (every vector is there twice), with exclusions."""
    generator = torch_generator(0, "divided", items)
    vectors = torch.randn(items, dim, generator=generator)
    vectors[items // 2 :] = vectors[: items - items // 2]
    query_BD = torch.randn(300, dim, generator=generator)
    hidden = Ragged.from_lists([torch.randint(items, (b % 5,), generator=generator).tolist() for b in range(300)])
    whole = ExactIndex()
    whole.build(vectors)
    wanted = whole.search(query_BD, k, hidden)
    parts = [DividedIndex(vectors, Fake(rank, ranks, [])).search(query_BD, k, hidden) for rank in range(ranks)]
    found = merged(parts, k)
    assert torch.equal(found.offsets, wanted.offsets) and torch.equal(found.ids, wanted.ids)
    assert torch.equal(found.scores, wanted.scores)
    assert sum(len(part.ids) for part in parts) >= len(wanted.ids)


def test_one_rank_searches_all() -> None:
    vectors = torch.randn(50, 4, generator=torch_generator(0, "one"))
    index = DividedIndex(vectors, Group())
    assert index.num_items == 50 and index.dim == 4 and index.describe()["kind"] == "exact"
    assert index.search(vectors, 1).ids.tolist() is not None and len(index.search(vectors, 3)) == 50


def test_only_exact_search_divides_items(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    recommender = Recommender.load(run)
    recommender.__dict__["index"] = type("Other", (), {"kind": "hnsw"})()
    with pytest.raises(ConfigError, match="only exact search"):
        retrieve_to_file(recommender, tmp_path / "x", Job(k=3, divide="items"), group=Fake(0, 2, []))


def test_a_range_of_vectors_is_its_rows() -> None:
    rows = torch.arange(20.0).view(10, 2)
    part = RangeOfVectors(TensorVectors(rows), 3, 8)
    assert (len(part), part.dim, part.nbytes) == (5, 2, 40)
    assert torch.equal(part.read(1, 3), rows[4:6]) and torch.equal(part.take(torch.tensor([4, 0])), rows[[7, 3]])
    inside = part.in_memory()
    assert inside is not None and torch.equal(inside, rows[3:8])
