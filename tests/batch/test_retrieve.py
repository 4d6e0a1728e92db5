"""A retrieval job: parts, kill and resume, formats, short lists, own filters, files read in blocks, lack of memory."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

import xclass.batch.retrieve as batch_module
from xclass.api import train
from xclass.batch.retrieve import Job, retrieve_to_file
from xclass.cli import main
from xclass.errors import ArtefactError, ConfigError, DataError, InputError, Interrupted
from xclass.index import ExactIndex, FaissIndex, save_index
from xclass.ingest.ingest import ingest
from xclass.ingest.options import IngestOptions
from xclass.ingest.text.lines import zstd
from xclass.io.files import locked
from xclass.queries import blocks as blocks_module
from xclass.queries.blocks import count_queries, read_query_blocks
from xclass.queries.files import QueryFile, read_query_file
from xclass.recommender import Recommender
from xclass.retrieval.parts import Parts
from xclass.retrieval.search import Filters, Searching, fill_short
from xclass.types import Batch, Ragged, TopK

NUM_ITEMS, NUM_QUERIES = 200, 300
CONFIG = {
    "model": {"embedding_dim": 8},
    "sampler": {"num_sampled": 32},
    "train": {"epochs": 1, "batch": {"by": "query", "size": 64}},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("batch")
    source = f"planted:items={NUM_ITEMS},queries={NUM_QUERIES},pairs=4000"
    recommender = train(ingest(source, folder / "dataset", IngestOptions()), CONFIG, folder / "run", device="cpu")
    return recommender.run.path


@pytest.fixture
def recommender(run: Path) -> Recommender:
    return Recommender.load(run)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 queries a part."""
    monkeypatch.setattr(batch_module, "PART_QUERIES", 64)
    monkeypatch.setattr(batch_module, "PART_ROWS", 1)


def stopped(recommender: Recommender, out: Path, job: Job, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that is interrupted when so many parts are finished."""
    original = Parts.add

    def add(parts: Parts, *arguments: Any) -> None:
        if len(parts) == after:
            raise KeyboardInterrupt
        original(parts, *arguments)

    with monkeypatch.context() as patch, pytest.raises(Interrupted, match="finished parts are kept"):
        patch.setattr(Parts, "add", add)
        retrieve_to_file(recommender, out, job)


def test_a_stopped_job_goes_on_behind_its_last_part(
    recommender: Recommender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job(k=7)
    whole = retrieve_to_file(recommender, tmp_path / "whole.parquet", job)
    stopped(recommender, tmp_path / "topk.parquet", job, 3, monkeypatch)
    assert not (tmp_path / "topk.parquet").exists()
    with pytest.raises(ArtefactError, match="pass --resume"):
        retrieve_to_file(recommender, tmp_path / "topk.parquet", job)
    written = retrieve_to_file(recommender, tmp_path / "topk.parquet", job, resume=True)
    assert (written.resumed_parts, written.queries_here) == (3, NUM_QUERIES - 3 * 64)
    assert written.counts == whole.counts
    assert pl.read_parquet(tmp_path / "topk.parquet").equals(pl.read_parquet(tmp_path / "whole.parquet"))
    assert sorted(os.listdir(tmp_path)) == ["topk.parquet", "whole.parquet"]
    assert whole.counts.queries == NUM_QUERIES and whole.counts.rows == 7 * NUM_QUERIES


def test_a_part_without_its_counts_is_written_again(
    recommender: Recommender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(recommender, tmp_path / "topk.parquet", Job(k=3), 3, monkeypatch)
    folder = tmp_path / ".topk.parquet.parts"
    (folder / "part-000002.json").unlink()
    (folder / "part-000002.parquet").write_bytes(b"half a part")
    written = retrieve_to_file(recommender, tmp_path / "topk.parquet", Job(k=3), resume=True)
    assert written.resumed_parts == 2 and len(pl.read_parquet(tmp_path / "topk.parquet")) == 3 * NUM_QUERIES


@pytest.mark.parametrize("damage", ["altered", "cut", "gone", "no record", "another record"])
def test_a_finished_part_that_was_damaged_is_made_again(
    recommender: Recommender,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    damage: str,
) -> None:
    retrieve_to_file(recommender, tmp_path / "whole.parquet", Job(k=3))
    stopped(recommender, tmp_path / "topk.parquet", Job(k=3), 3, monkeypatch)
    part = tmp_path / ".topk.parquet.parts" / "part-000001.parquet"
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    match damage:
        case "altered":
            part.write_bytes(content)
        case "cut":
            part.write_bytes(content[:-9])
        case "gone":
            part.unlink()
        case "no record":
            part.with_suffix(".json").write_text("[]")
        case _:
            shutil.copy(part.with_name("part-000000.json"), part.with_suffix(".json"))
    written = retrieve_to_file(recommender, tmp_path / "topk.parquet", Job(k=3), resume=True)
    assert "part-000001.parquet: not what was written there" in capsys.readouterr().err
    assert written.resumed_parts == 2 and written.counts.queries == NUM_QUERIES
    assert pl.read_parquet(tmp_path / "topk.parquet").equals(pl.read_parquet(tmp_path / "whole.parquet"))


def test_one_process_at_a_time(recommender: Recommender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped(recommender, tmp_path / "topk", Job(k=3), 1, monkeypatch)
    with locked(tmp_path / ".topk.parts"):  # as a living process holds it
        for resume in (True, False):
            with pytest.raises(ArtefactError, match="another process is writing these lists"):
                retrieve_to_file(recommender, tmp_path / "topk", Job(k=3), resume=resume)
    with pytest.raises(ArtefactError, match="a job that was stopped has left its parts here"):
        retrieve_to_file(recommender, tmp_path / "topk", Job(k=3))
    left = tmp_path / ".topk.parts" / ".part-000001.parquet.12345678.tmp"
    left.write_bytes(b"what a kill left")
    assert retrieve_to_file(recommender, tmp_path / "topk", Job(k=3), resume=True).resumed_parts == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["topk"]


def test_a_job_that_is_no_job(recommender: Recommender, tmp_path: Path) -> None:
    (tmp_path / ".topk.parts").mkdir()
    (tmp_path / ".topk.parts" / "job.json").write_text("[1]")
    with pytest.raises(ArtefactError, match=r"job\.json: this is not a job"):
        retrieve_to_file(recommender, tmp_path / "topk", Job(k=3), resume=True)


@pytest.mark.parametrize("ending", ["csv", "tsv", "txt", "csv.gz", "tsv.zst"])
@pytest.mark.parametrize("header", [True, False])
def test_the_first_line_of_a_list_counts(recommender: Recommender, tmp_path: Path, ending: str, header: bool) -> None:
    """Ids are integers here: a first line that is one is no header; a header is none of them."""
    header = header and not ending.startswith("txt")
    queries = [str(each) for each in recommender.run.query_ids.head(3)]
    best = recommender.retrieve(query_ids=queries, k=2)["item_id"].cast(pl.String).unique().to_list()

    def given(name: str, column: str, ids: list[str]) -> Path:
        text = "".join(f"{each}\n" for each in [column] * header + ids)
        return packed(tmp_path / f"{name}.{ending}", text.encode())

    files = {"queries": given("who", "user_id", queries), "exclude": given("deny", "item_id", best)}
    retrieve_to_file(recommender, tmp_path / "denied.parquet", Job(k=4, **files))  # type: ignore[arg-type]
    found = pl.read_parquet(tmp_path / "denied.parquet").cast({"query_id": pl.String, "item_id": pl.String})
    assert found["query_id"].unique(maintain_order=True).to_list() == queries
    assert not set(found["item_id"]) & set(best)
    files = {"queries": given("one", "id", queries[:1]), "candidates": given("few", "item", best)}
    retrieve_to_file(recommender, tmp_path / "few.parquet", Job(k=20, include_seen=True, **files))  # type: ignore[arg-type]
    assert set(pl.read_parquet(tmp_path / "few.parquet")["item_id"].cast(pl.String)) == set(best)


def packed(path: Path, content: bytes) -> Path:
    """Written as the name's ending says."""
    path.write_bytes({".gz": gzip.compress, ".zst": zstd.compress}.get(path.suffix, bytes)(content))
    return path


@pytest.mark.parametrize("option", ["candidates", "exclude"])
def test_filters_that_match_nothing_are_an_error(recommender: Recommender, tmp_path: Path, option: str) -> None:
    item, query = recommender.run.item_ids[0], recommender.run.query_ids[0]
    for name, text, message in (
        ("a.txt", "x\ny\n", "not one item id is known"),
        ("b.csv", "item_id\n1.0\n", "floating-point"),
        ("c.csv", f"query_id,item_id\n{query},no\n", "not one item id is known"),
        ("d.csv", f"query_id,item_id\nnobody,{item}\n", "not one query id is the same"),
        ("e.jsonl", f'{{"history": ["{item}"]}}\n', r"e\.jsonl:1: this line does not say whose items"),
        ("f.jsonl", f'{{"query_id": "{query}", "text": "a"}}\n', "has no items"),
        ("g.txt", "\n", "holds no item"),
        ("h.csv", "item_id\n", "holds no item"),
        ("i.parquet", "PAR1garbage", "can't be read"),
        ("j.txt.gz", "PAR1garbage", "can't be read"),
        ("k.parquet.gz", "", "compressed in itself"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match=message):
            retrieve_to_file(recommender, tmp_path / "out", Job(k=3, **{option: tmp_path / name}))  # type: ignore[arg-type]
        assert not (tmp_path / "out").exists() and not (tmp_path / ".out.parts").exists()


def test_queries_that_match_nothing_are_an_error(recommender: Recommender, tmp_path: Path) -> None:
    for name, text, message in (
        ("a.txt", "x\ny\n", r"(?s)not one query id is known.*such as .*got: x, y"),
        ("b.jsonl", '{"history": ["x"]}\n{"history": []}\n', "not one item id is known"),
        ("c.csv", "query_id\n1.0\n2.0\n", "floating-point"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match=message):
            retrieve_to_file(recommender, tmp_path / "out", Job(k=3, queries=tmp_path / name))
        assert not (tmp_path / ".out.parts").exists()


def test_empty_histories_are_counted(
    recommender: Recommender, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    item = recommender.run.item_ids[0]
    (tmp_path / "a.jsonl").write_text(f'{{"history": ["{item}"]}}\n{{"history": []}}\n{{"history": ["x"]}}\n')
    written = retrieve_to_file(recommender, tmp_path / "out", Job(k=3, queries=tmp_path / "a.jsonl"))
    assert written.to_dict()["empty_histories"] == 2 and written.to_dict()["unknown_items"] == 1
    assert "2 queries have no known item in their history" in capsys.readouterr().err


def test_no_path_is_a_pattern(recommender: Recommender, tmp_path: Path) -> None:
    """Neither what is read nor what is written, beside folders that the pattern would find."""
    ids = recommender.run.query_ids
    for folder, some in (("q[12]*?", ids.head(2)), ("q1xy", ids.tail(3)), ("q2xy", ids.tail(3))):
        (tmp_path / folder).mkdir()
        some.alias("query_id").to_frame().write_parquet(tmp_path / folder / "who.parquet")
        some.alias("query_id").to_frame().write_csv(tmp_path / folder / "who.csv")
    place = tmp_path / "q[12]*?"
    for name in ("who.parquet", "who.csv"):
        for directory in (True, False):
            out = place / f"lists[1]-{name}-{directory}"
            written = retrieve_to_file(recommender, out, Job(k=3, queries=place / name, directory=directory))
            assert written.counts.queries == 2 and count_queries(place / name) in (2, 3)
            files = [out / "part-000000.parquet"] if directory else [out]
            assert pl.read_parquet(files, glob=False)["query_id"].unique(maintain_order=True).equals(ids.head(2))


@pytest.mark.parametrize(
    ("change", "what"),
    [({"k": 4}, "another k"), ({"include_seen": True}, "include-seen"), ({"short": "popular"}, "another short"),
     ({"format": "jsonl"}, "another format"), ({"exclude": "deny.txt"}, "another exclude")],
)  # fmt: skip
def test_another_job_is_not_resumed(
    recommender: Recommender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], what: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("deny.txt").write_text(str(recommender.run.item_ids[0]))
    stopped(recommender, tmp_path / "topk", Job(k=3), 1, monkeypatch)
    with pytest.raises(ArtefactError, match=what):
        retrieve_to_file(recommender, tmp_path / "topk", Job(**{"k": 3, **change}), resume=True)
    assert (tmp_path / ".topk.parts" / "part-000000.json").exists(), "what was done is still there"


def test_another_index_is_not_resumed(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    recommender = Recommender.load(run)
    stopped(recommender, tmp_path / "topk", Job(k=3), 1, monkeypatch)
    index = FaissIndex("hnsw")
    index.build(recommender.item_vectors)
    save_index(index, run / "index", recommender.run.model_hash)
    try:
        with pytest.raises(ArtefactError, match="another index"):
            retrieve_to_file(Recommender.load(run), tmp_path / "topk", Job(k=3), resume=True)
        exact = retrieve_to_file(Recommender.load(run), tmp_path / "topk", Job(k=3, exact=True), resume=True)
        assert exact.resumed_parts == 1
    finally:
        for file in (run / "index").iterdir():
            file.unlink()
        (run / "index").rmdir()


def test_resume_without_parts_begins(recommender: Recommender, tmp_path: Path) -> None:
    assert retrieve_to_file(recommender, tmp_path / "topk", Job(k=2), resume=True).queries_here == NUM_QUERIES


KILLED = """
import sys, time
import xclass.batch.retrieve as batch
from xclass.retrieval.parts import Parts
batch.PART_QUERIES, batch.PART_ROWS = 64, 1
original = Parts.add
def add(parts, *arguments):
    original(parts, *arguments)
    print(len(parts), flush=True)
    time.sleep(0.3)
Parts.add = add
from xclass.recommender import Recommender
batch.retrieve_to_file(Recommender.load(sys.argv[1]), sys.argv[2], batch.Job(k=5))
"""


def test_a_kill_loses_at_most_the_part_at_work(run: Path, recommender: Recommender, tmp_path: Path) -> None:
    out = tmp_path / "topk.parquet"
    command = [sys.executable, "-c", KILLED, str(run), str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while process.stdout.readline().strip() != "2":
            assert process.poll() is None
        time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    assert not out.exists()
    written = retrieve_to_file(recommender, out, Job(k=5), resume=True)
    assert written.resumed_parts == 2
    retrieve_to_file(recommender, tmp_path / "whole.parquet", Job(k=5))
    assert pl.read_parquet(out).equals(pl.read_parquet(tmp_path / "whole.parquet"))


def test_a_directory_of_parts(recommender: Recommender, tmp_path: Path) -> None:
    retrieve_to_file(recommender, tmp_path / "topk", Job(k=4, directory=True))
    names = sorted(file.name for file in (tmp_path / "topk").iterdir())
    assert names == ["_topk.json"] + [f"part-{number:06d}.parquet" for number in range(5)]
    retrieve_to_file(recommender, tmp_path / "whole.parquet", Job(k=4))
    assert pl.read_parquet(tmp_path / "topk" / "*.parquet").equals(pl.read_parquet(tmp_path / "whole.parquet"))
    manifest = json.loads((tmp_path / "topk" / "_topk.json").read_text())
    assert manifest["queries"] == NUM_QUERIES and len(manifest["files"]) == 5
    with pytest.raises(ArtefactError, match="there already"):
        retrieve_to_file(recommender, tmp_path / "topk", Job(k=4, directory=True))


def test_formats_hold_the_same_rows(recommender: Recommender, tmp_path: Path) -> None:
    for name in ("a.parquet", "a.jsonl", "a.trec"):
        retrieve_to_file(recommender, tmp_path / name, Job(k=3))
    rows = pl.read_parquet(tmp_path / "a.parquet").rows()
    assert [tuple(json.loads(line).values()) for line in (tmp_path / "a.jsonl").read_text().splitlines()] == [
        (query, rank, item, pytest.approx(score)) for query, rank, item, score in rows
    ]
    lines = [line.split(" ") for line in (tmp_path / "a.trec").read_text().splitlines()]
    assert {(line[1], line[5]) for line in lines} == {("Q0", "xclass")}
    assert [(line[0], int(line[3]), line[2]) for line in lines] == [(str(a), b, str(c)) for a, b, c, _ in rows]
    assert [float(line[4]) for line in lines] == pytest.approx([row[3] for row in rows])


def test_a_blank_in_an_id_is_no_trec_run(recommender: Recommender, tmp_path: Path) -> None:
    items = recommender.run.item_ids.to_list()
    (tmp_path / "h.jsonl").write_text(json.dumps({"query_id": "a b", "history": items[:2]}))
    with pytest.raises(InputError, match="blank in a query id"):
        retrieve_to_file(recommender, tmp_path / "a.trec", Job(k=3, queries=tmp_path / "h.jsonl"))
    assert os.listdir(tmp_path) == ["h.jsonl"], "an error that would come again leaves no parts"


def test_short_lists(recommender: Recommender, tmp_path: Path) -> None:
    items = recommender.run.item_ids.to_list()
    seen, allowed, denied = items[:6], items[:8], items[7]
    (tmp_path / "h.jsonl").write_text(json.dumps({"query_id": "q", "history": seen}))
    (tmp_path / "allow.txt").write_text("\n".join(allowed))
    (tmp_path / "deny.txt").write_text(denied)
    given: dict[str, Any] = {
        "queries": tmp_path / "h.jsonl",
        "candidates": tmp_path / "allow.txt",
        "exclude": tmp_path / "deny.txt",
    }
    kept = retrieve_to_file(recommender, tmp_path / "kept.parquet", Job(k=4, **given))
    assert pl.read_parquet(tmp_path / "kept.parquet")["item_id"].to_list() == [items[6]]
    assert (kept.counts.short_lists, kept.counts.filled_lists) == (1, 0)
    for name in ("filled.parquet", "filled.jsonl", "filled.trec"):
        filled = retrieve_to_file(recommender, tmp_path / name, Job(k=4, short="popular", **given))
        assert (filled.counts.short_lists, filled.counts.filled_lists, filled.counts.rows) == (1, 1, 4)
    table = pl.read_parquet(tmp_path / "filled.parquet")
    by_count = sorted(range(8), key=lambda item: (-int(recommender.run.item_counts[item]), item))
    popular = [items[number] for number in by_count if items[number] not in (denied, items[6])][:3]
    assert table["item_id"].to_list() == [items[6], *popular] and table["score"].null_count() == 3
    scores = [float(line.split()[4]) for line in (tmp_path / "filled.trec").read_text().splitlines()]
    assert all(low < high for high, low in zip(scores[:-1], scores[1:], strict=True))
    with pytest.raises(InputError, match=r"a list is short[\s\S]*q \(1\)"):
        retrieve_to_file(recommender, tmp_path / "error.parquet", Job(k=4, short="error", **given))
    with pytest.raises(ConfigError, match='did you mean "popular"'):
        retrieve_to_file(recommender, tmp_path / "error.parquet", Job(short="popularr"))
    assert not list(tmp_path.glob(".*"))


def test_a_query_that_has_seen_everything(recommender: Recommender, tmp_path: Path) -> None:
    items = recommender.run.item_ids.to_list()
    (tmp_path / "h.jsonl").write_text(json.dumps({"history": items}) + "\n" + json.dumps({"history": items[:3]}))
    written = retrieve_to_file(recommender, tmp_path / "a.parquet", Job(k=5, queries=tmp_path / "h.jsonl"))
    assert (written.counts.queries, written.counts.short_lists, written.counts.empty_lists) == (2, 1, 1)
    assert set(pl.read_parquet(tmp_path / "a.parquet")["query_id"]) == {"2"}


@pytest.mark.parametrize("suffix", ["jsonl", "parquet", "csv"])
def test_each_query_s_own_lists(recommender: Recommender, tmp_path: Path, suffix: str) -> None:
    ids, items = recommender.run.query_ids.to_list()[:3], recommender.run.item_ids.to_list()
    (tmp_path / "ids.txt").write_text("\n".join(map(str, ids)))
    plain = retrieved(recommender, tmp_path, queries=tmp_path / "ids.txt")
    deny = {ids[0]: plain[ids[0]][:2], ids[2]: plain[ids[2]][1:3]}
    own = write_lists(tmp_path / f"own.{suffix}", deny)
    got = retrieved(recommender, tmp_path, queries=tmp_path / "ids.txt", exclude=own)
    assert got[ids[1]] == plain[ids[1]]
    for query, items_denied in deny.items():
        left = [item for item in plain[query] if item not in items_denied]
        assert got[query][: len(left)] == left and len(got[query]) == 5
    allow = {ids[0]: plain[ids[0]][1:3], ids[1]: [items[150], "nothing", plain[ids[1]][0]]}
    own = write_lists(tmp_path / f"allow.{suffix}", allow)
    (tmp_path / "deny.txt").write_text(plain[ids[0]][1])
    given = {"queries": tmp_path / "ids.txt", "candidates": own, "exclude": tmp_path / "deny.txt"}
    got = retrieved(recommender, tmp_path, include_seen=True, **given)
    assert got == {ids[0]: [plain[ids[0]][2]], ids[1]: [plain[ids[1]][0], items[150]]}
    with pytest.raises(InputError, match="own candidates"):
        retrieved(recommender, tmp_path, short="popular", candidates=own)


def retrieved(recommender: Recommender, folder: Path, **job: Any) -> dict[str, list[str]]:
    retrieve_to_file(recommender, folder / "out.parquet", Job(k=5, **job))
    table = pl.read_parquet(folder / "out.parquet").group_by("query_id", maintain_order=True).agg("item_id")
    return dict(table.rows())


def write_lists(path: Path, lists: dict[str, list[str]]) -> Path:
    table = pl.DataFrame({"query_id": list(lists), "item_id": list(lists.values())}).explode("item_id")
    if path.suffix == ".jsonl":
        lines = [json.dumps({"query_id": query, "history": items}) for query, items in lists.items()]
        path.write_text("\n".join(lines))
    elif path.suffix == ".csv":
        table.write_csv(path)
    else:
        table.write_parquet(path)
    return path


def test_a_query_whose_own_list_comes_in_two_lines(recommender: Recommender, tmp_path: Path) -> None:
    query = recommender.run.query_ids.to_list()[0]
    (tmp_path / "ids.txt").write_text(str(query))
    best = retrieved(recommender, tmp_path, queries=tmp_path / "ids.txt")[query]
    for name, line in (("a.jsonl", json.dumps({"query_id": query, "history": ["{}"]})), ("a.adj", f"{query} {{}}")):
        (tmp_path / name).write_text("".join(line.replace("{}", item) + "\n" for item in best[:2]))
        got = retrieved(recommender, tmp_path, queries=tmp_path / "ids.txt", exclude=tmp_path / name)
        assert got[query][:3] == best[2:] and not set(got[query]) & set(best[:2])
        got = retrieved(recommender, tmp_path, queries=tmp_path / "ids.txt", candidates=tmp_path / name)
        assert got[query] == best[:2]


def test_own_lists_from_python(recommender: Recommender) -> None:
    ids = recommender.run.query_ids.to_list()[:2]
    plain = recommender.retrieve([ids[0], "nobody", ids[1]], k=3)
    lists = dict(plain.group_by("query_id").agg("item_id").rows())
    deny = [lists[ids[0]][:1], ["x"], lists[ids[1]][:2]]
    got = recommender.retrieve([ids[0], "nobody", ids[1]], k=3, exclude=deny)
    found = dict(got.group_by("query_id").agg("item_id").rows())
    assert found[ids[0]][:2] == lists[ids[0]][1:] and found[ids[1]][:1] == lists[ids[1]][2:]
    allow = [[lists[ids[0]][2]], [], [lists[ids[1]][1], lists[ids[1]][0]]]
    got = recommender.retrieve([ids[0], "nobody", ids[1]], k=3, candidates=allow)
    assert got["item_id"].to_list() == [lists[ids[0]][2], lists[ids[1]][0], lists[ids[1]][1]]
    with pytest.raises(InputError, match="one list of candidates"):
        recommender.retrieve(ids, k=3, candidates=[["x"]])


def test_unknown_ids_are_counted_named_and_written(
    run: Path, recommender: Recommender, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = recommender.run.query_ids.to_list()
    names = [f"nobody-{number}" for number in range(150)]
    (tmp_path / "ids.txt").write_text("\n".join([*names, *known[:10]]))
    arguments = ["retrieve", str(run), "--out", str(tmp_path / "a.parquet"), "--queries", str(tmp_path / "ids.txt")]
    assert main([*arguments, "-k", "3", "--unknown", str(tmp_path / "unknown.txt"), "--json"]) == 0
    printed = capsys.readouterr()
    said = json.loads(printed.out)
    assert (said["queries"], said["unknown_queries"], said["short_lists"]) == (10, 150, 0)
    assert said["queries_per_s"] > 0 and said["peak_rss_bytes"] > 0
    assert "150 unknown query ids left out: nobody-0, nobody-1" in printed.err
    assert (tmp_path / "unknown.txt").read_text().splitlines() == names
    (tmp_path / "ids.txt").write_text("\n".join(names))
    assert main(arguments) == 1
    assert "not one query id is known" in capsys.readouterr().err
    assert not list(tmp_path.glob(".*"))


def test_lack_of_memory_halves_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Small(ExactIndex):
        largest, sizes = 6, list[int]()

        def search(self, query_BD: torch.Tensor, k: int, exclude: Ragged | None = None) -> TopK:
            self.sizes.append(len(query_BD))
            if len(query_BD) > self.largest:
                raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried …")
            return super().search(query_BD, k, exclude)

    class Model:
        def query_vectors(self, batch: Batch) -> torch.Tensor:
            return torch.arange(len(batch)).float()[:, None] - 2

    index = Small()
    index.build(torch.arange(9.0)[:, None])
    history = Ragged.from_lists([[row % 9] for row in range(10)])

    def lists(step: int) -> list[list[int]]:
        rows = [torch.arange(low, min(low + step, 10)) for low in range(0, 10, step)]
        given = [(part, Batch(part, history.take(part))) for part in rows]
        found = Searching(Model(), index, 3, Filters()).lists(given)
        return [ids for _, topk in found for ids in Ragged(topk.offsets, topk.ids).to_lists()]

    halved = lists(10)
    assert index.sizes == [10, 5, 5]
    assert "out of memory with 10 queries at once; going on with 5" in capsys.readouterr().err
    Small.largest = 10
    assert lists(10) == halved
    Small.largest = 3
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        lists(10)

    def broken(*arguments: object) -> TopK:
        raise RuntimeError("another fault")

    monkeypatch.setattr(Small, "search", broken)
    with pytest.raises(RuntimeError, match="another fault"):
        lists(10)


def test_fill_short_by_hand() -> None:
    found = TopK(torch.tensor([0, 2, 2, 3]), torch.tensor([7, 1, 0]), torch.tensor([2.0, 1.0, 5.0]))
    denied = Ragged.from_lists([[2], [], [3, 4]])
    filled, grown = fill_short(found, 3, torch.tensor([1, 2, 3, 4, 5]), denied)
    assert Ragged(filled.offsets, filled.ids).to_lists() == [[7, 1, 3], [1, 2, 3], [0, 1, 2]] and grown == 3
    assert filled.scores.isnan().tolist() == [False, False, True, True, True, True, False, True, True]
    same, grown = fill_short(found, 0, torch.tensor([1]), None)
    assert same is found and grown == 0


FILES = {
    "ids.txt": "a\nb \n\n c\n",
    "ids.csv": "query_id,x\na,1\nb,2\nc,3\n",
    "pairs.tsv": "query_id\titem_id\na\t1\na\t2\nb\t1\nc\t5\nc\t6\nc\t7\nd\t1\n",
    "h.jsonl": '{"history": ["1"]}\n\n{"query_id": "x", "history": []}\n{"history": ["2", "3"]}\n',
    "h.adj": "a 1 2\nb\nc 3\n",
}


def joined(blocks: Iterator[QueryFile]) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    for block in blocks:
        lists = [None] * len(block.query_ids)
        if block.offsets is not None and block.items is not None:
            bounds = block.offsets.tolist()
            pairs = zip(bounds[:-1], bounds[1:], strict=True)
            lists = [block.items[low:high].to_list() for low, high in pairs]  # type: ignore[misc]
        found += zip(block.query_ids.to_list(), lists, strict=True)
    return found


@pytest.mark.parametrize("name", [*FILES, "pairs.parquet", "ids.parquet"])
@pytest.mark.parametrize("slice_rows", [1, 2, 3, 1 << 20])
def test_blocks_are_the_whole_file(name: str, slice_rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / name
    if name.endswith(".parquet"):
        source = tmp_path / (name.removesuffix(".parquet") + (".tsv" if name.startswith("pairs") else ".csv"))
        source.write_text(FILES[source.name])
        table = pl.read_csv(source, separator="\t" if source.suffix == ".tsv" else ",", infer_schema=False)
        table.write_parquet(path)
    else:
        path.write_text(FILES[name])
    monkeypatch.setattr(blocks_module, "SLICE_ROWS", slice_rows)
    whole = joined(iter([read_query_file(path)]))
    for size in (1, 2, 3, 100):
        blocks = list(read_query_blocks(path, size))
        assert [len(block.query_ids) for block in blocks[:-1]] == [size] * (len(blocks) - 1)
        assert joined(iter(blocks)) == whole
    assert abs(count_queries(path) - len(whole)) <= 2


def test_rows_apart_in_a_large_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("query_id,item_id\na,1\nb,1\nb,2\na,2\nc,1\n")
    assert joined(read_query_blocks(path, 2)) == [("a", ["1", "2"]), ("b", ["1", "2"]), ("c", ["1"])]
    monkeypatch.setattr(blocks_module, "SLICE_ROWS", 2)
    for size in (1, 2, 10):
        with pytest.raises(DataError, match="lie apart"):
            list(read_query_blocks(path, size))


def test_broken_blocks_are_one_message(tmp_path: Path) -> None:
    for name, text, wanted in (
        ("a.jsonl", '{"history": ["1"]}\n{"history": 7}\n', "a.jsonl:2"),
        ("a.txt", "", "holds no query"),
        ("a.csv", "x,y\n1,2\n", "column is missing"),
        ("a.xlsx", "", "ending is not known"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match=wanted):
            list(read_query_blocks(tmp_path / name, 1))
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"a\.txt.* UTF-"):
        list(read_query_blocks(tmp_path / "a.txt", 1))


def test_a_file_of_queries_in_parts(recommender: Recommender, tmp_path: Path) -> None:
    """Lists do not depend on how the queries are cut."""
    ids = recommender.run.query_ids.to_list()
    (tmp_path / "ids.txt").write_text("\n".join(map(str, reversed(ids))))
    retrieve_to_file(recommender, tmp_path / "a.parquet", Job(k=3, queries=tmp_path / "ids.txt"))
    retrieve_to_file(recommender, tmp_path / "b.parquet", Job(k=3))
    first, second = (pl.read_parquet(tmp_path / name) for name in ("a.parquet", "b.parquet"))
    assert first["query_id"].unique(maintain_order=True).to_list() == list(reversed(ids))
    columns = ["query_id", "rank", "item_id"]
    assert first.select(columns).sort(columns).equals(second.select(columns).sort(columns))
