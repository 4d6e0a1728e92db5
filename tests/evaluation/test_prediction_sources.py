"""Where predictions and truth come from: directories, tables in memory, compressed and quoted text; ids that match
nothing; ranks with gaps."""

from __future__ import annotations

import gzip
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import xclass
from xclass.errors import ArtefactError, DataError, InputError
from xclass.evaluation import pair_blocks
from xclass.ingest.text.lines import zstd
from xclass.io.list_manifest import FORMAT_VERSION, KIND, MANIFESTS
from xclass.io.manifest import write_manifest
from xclass.metrics import Evaluation, parse_metrics

PREDICTIONS = pl.DataFrame(
    {
        "query_id": ["q1", "q1", "q2", "q2", "q3", "q3"],
        "item_id": ["a", 'b"', "ü", "a", "c, d", "e"],
        "rank": [1, 2, 1, 2, 1, 2],
        "score": [0.5, 0.25, 3.0, -1.0, 0.0, -2.0],
    }
)
TRUTH = pl.DataFrame({"query_id": ["q1", "q2", "q2", "q3"], "item_id": ['b"', "ü", "x", "c, d"]})
WANTED = {"recall@1": (0 + 0.5 + 1) / 3, "recall@2": (1 + 0.5 + 1) / 3}


def measured(predictions: Any, truth: Any, **options: Any) -> Evaluation:
    return xclass.evaluate_predictions(predictions, truth, metrics=parse_metrics(list(WANTED)), **options)


def written(path: Path, table: pl.DataFrame, mark: bool = False) -> Path:
    """As the name's endings say."""
    match path.name.split(".")[1]:
        case "csv":
            text = table.write_csv()
        case "tsv":
            text = table.write_csv(separator="\t", quote_style="always", line_terminator="\r\n")
        case _:
            text = table.write_ndjson()
    content = (b"\xef\xbb\xbf" if mark else b"") + text.encode()
    path.write_bytes({".gz": gzip.compress, ".zst": zstd.compress}.get(path.suffix, bytes)(content))
    return path


@pytest.fixture(autouse=True)
def nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What becomes Parquet for a while is removed."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    yield
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "csv.gz", "tsv.zst", "jsonl.gz", "ndjson.zst"])
@pytest.mark.parametrize("mark", [False, True])
def test_text_files(tmp_path: Path, ending: str, mark: bool) -> None:
    files = (written(tmp_path / f"{name}.{ending}", table, mark) for name, table in (("p", PREDICTIONS), ("t", TRUTH)))
    assert measured(*files).metrics == pytest.approx(WANTED)


def test_trec_files(tmp_path: Path) -> None:
    run = "".join(f"{q}\tQ0 {i.replace(' ', '')}  {r} {s} tag\n" for q, i, r, s in PREDICTIONS.rows())
    judged = "".join(f"{q} 0 {i.replace(' ', '')} 1\n" for q, i in TRUTH.rows()) + "q1 0 a 0\n"
    (tmp_path / "p.trec.gz").write_bytes(gzip.compress(b"\xef\xbb\xbf" + run.encode()))
    (tmp_path / "t.qrels").write_text(judged)
    assert measured(tmp_path / "p.trec.gz", tmp_path / "t.qrels").metrics == pytest.approx(WANTED)


@pytest.mark.parametrize("manifest", [None, *MANIFESTS])
@pytest.mark.parametrize("ending", ["parquet", "jsonl", "csv.gz"])
def test_directories(tmp_path: Path, manifest: str | None, ending: str) -> None:
    """Parts in the order of their names, beside a manifest of ours, marks of other programs and what is hidden."""
    folder = tmp_path / "lists[1]*"
    folder.mkdir()
    for number, part in enumerate((PREDICTIONS.head(2), PREDICTIONS.tail(4))):
        path = folder / f"part-{number}.{ending}"
        if ending == "parquet":
            part.write_parquet(path)
        else:
            written(path, part)
    if manifest is not None:
        write_manifest(folder, manifest, KIND, FORMAT_VERSION, {})
    (folder / "_SUCCESS").write_text("")
    (folder / ".part.crc").write_text("x")
    truth = tmp_path / "truth"
    truth.mkdir()
    TRUTH.write_parquet(truth / "only.parquet")
    assert measured(folder, truth).metrics == pytest.approx(WANTED)
    if manifest is not None:
        (folder / f"part-1.{ending}").unlink()
        with pytest.raises(ArtefactError, match="this file is missing"):
            measured(folder, truth)


def test_directories_that_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "lists"
    folder.mkdir()
    with pytest.raises(DataError, match=r"(?s)a directory of files is wanted.*got: nothing"):
        measured(folder, TRUTH)
    PREDICTIONS.write_parquet(folder / "a.parquet")
    PREDICTIONS.write_csv(folder / "b.csv")
    with pytest.raises(DataError, match=r"(?s)several kinds.*\.csv \.parquet"):
        measured(folder, TRUTH)
    (folder / "b.csv").unlink()
    (folder / "query_id=1").mkdir()
    with pytest.raises(DataError, match="query_id=1"):
        measured(folder, TRUTH)


@pytest.mark.parametrize(
    ("second", "message"),
    [("q2,c,1\n", "b.csv: a column is missing"), ("query_id,item_id,score\nq2,c,1\n", "b.csv: .*the same columns")],
)
def test_every_file_of_a_directory_has_the_columns(tmp_path: Path, second: str, message: str) -> None:
    """Files of which one had no header lost its rows without a word."""
    folder = tmp_path / "lists"
    folder.mkdir()
    (folder / "a.csv").write_text("query_id,item_id,rank\nq1,a,1\n")
    (folder / "b.csv").write_text(second)
    with pytest.raises(DataError, match=message):
        measured(folder, TRUTH)


def test_a_header_in_the_middle_is_no_pair(tmp_path: Path) -> None:
    for name, rows in (("t.csv", "q1,a\nquery_id,item_id\nq2,b\n"), ("u.tsv", "q1\ta\nquery_id\titem_id\n")):
        header = "query_id,item_id\n" if name == "t.csv" else "query_id\titem_id\n"
        (tmp_path / name).write_text(header + rows)
        with pytest.raises(DataError, match="line 3: the header comes again"):
            measured(PREDICTIONS, tmp_path / name)


def test_columns_and_train_pairs_without_effect_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    truth = TRUTH.with_columns(label=pl.lit(0))
    measured(PREDICTIONS, truth, train=pl.DataFrame({"query_id": ["1.0"], "item_id": ["10.0"]}))
    said = capsys.readouterr().err
    assert "the table of truth: columns that are not read: label" in said
    assert "not one query id is in both truth and train pairs" in said and "not one item id" in said


class PandasLike:
    """What is asked of a table of pandas."""

    def __init__(self, table: pl.DataFrame) -> None:
        self.columns = table.columns
        self._table = table

    def __getitem__(self, name: str) -> np.ndarray:
        return np.array(self._table[name].to_list(), dtype=object)


def test_tables_in_memory() -> None:
    categories = PREDICTIONS.with_columns(pl.col("query_id", "item_id").cast(pl.Categorical))
    for predictions in (PREDICTIONS, PREDICTIONS.lazy(), categories, PandasLike(PREDICTIONS)):
        for truth in (TRUTH, PandasLike(TRUTH)):
            assert measured(predictions, truth, train=TRUTH).metrics == pytest.approx(WANTED)
    floats = PandasLike(PREDICTIONS.with_columns(query_id=pl.Series([1.0] * 6)))
    with pytest.raises(DataError, match="floating-point"):
        measured(floats, TRUTH)
    with pytest.raises(DataError, match=r"(?s)the table of truth: a column is missing.*item_id"):
        measured(PREDICTIONS, TRUTH.drop("item_id"))
    for nothing in (3, None, [("q1", "a")], {"query_id": ["q1"]}):
        with pytest.raises(InputError, match="neither a path nor a table"):
            measured(nothing, TRUTH)


def test_tables_are_compared(tmp_path: Path) -> None:
    better = PREDICTIONS.filter(pl.col("item_id") != "a")
    better.write_parquet(tmp_path / "better.parquet")
    compared = xclass.compare_predictions([PREDICTIONS, better, tmp_path / "better.parquet"], TRUTH, 1)
    names = list(compared.runs)
    assert [str(name).split("/")[-1] for name in names] == ["table 1", "table 2", "better.parquet"]
    for alone in (PREDICTIONS, str(tmp_path), None):
        with pytest.raises(InputError, match="a list of paths or tables"):
            xclass.compare_predictions(alone, TRUTH)


def test_pandas_and_arrow_where_they_are_installed() -> None:
    pandas = pytest.importorskip("pandas")
    arrow = pytest.importorskip("pyarrow")
    data = PREDICTIONS.to_dict(as_series=False)
    for table in (pandas.DataFrame(data), arrow.table(data)):
        assert measured(table, TRUTH).metrics == pytest.approx(WANTED)


def test_integers_of_a_table_in_json_stay_integers(tmp_path: Path) -> None:
    """Over several blocks; where one line has text, all are text; beyond 64 bits, too."""
    rows = [{"query_id": n, "item_id": n % 3, "rank": 1} for n in range(50)]
    truth = pl.DataFrame({"query_id": range(50), "item_id": [n % 3 for n in range(50)]})
    with pytest.MonkeyPatch.context() as patch:
        original = pair_blocks.whole_lines
        patch.setattr(pair_blocks, "whole_lines", lambda path: original(path, 100))
        for change in ({}, {"item_id": "1"}, {"item_id": 2**70}):
            some = [{**row, **change} if row["query_id"] == 1 else row for row in rows]
            path = tmp_path / "p.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in some))
            wanted = 49 / 50 if change == {"item_id": 2**70} else 1.0
            assert measured(path, truth).metrics["recall@1"] == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.csv", "query_id,item_id,rank\nq1,a,first\n", r"(?s)row 1: rank is no number.*got: first"),
        ("p.csv", "query_id,item_id,rank\nq1,a,1\nq1,b,\n", "row 2: a rank or score is no number"),
        ("p.csv", "query_id,item_id,rank\nq1,,1\n", "null in row 1"),
        ("p.csv", "query_id,item_id,rank\nq1,a,1\nq1,b\n", "line 3"),
        ("p.csv", 'query_id,item_id,rank\nq1,a,1\n"q1,b,2\n', "not closed"),
        ("p.csv", "q1,a,1\nq1,b,2\n", "a column is missing"),
        ("p.csv", "", "is empty"),
        ("p.csv", "query_id,item_id,rank\n", "there are no predictions"),
        ("p.jsonl", "", "there are no predictions"),
        ("p.csv", "query_id,item_id,score\nq1,a,1\nquery_id,item_id,score\n", "line 3: the header comes again"),
        ("p.jsonl", '{"query_id": "q1", "item_id": "a", "item_id": "b", "rank": 1}\n', "p.jsonl:1: .*not JSON"),
        ("p.jsonl", '{"query_id": "q1", "item_id": "a", "rank": 1}\n[1]\n', "p.jsonl:2: this line is no JSON object"),
        ("p.jsonl", '{"query_id": "q1", "item_id": "a", "rank": 1}\n\n{"a"', "p.jsonl:3: this line is not JSON"),
        ("p.jsonl", '{"query_id": "q1"},{"a": 1}\n', "p.jsonl:1: this line is not JSON"),
        ("p.jsonl", '{"query_id": \n"q1", "item_id": "a"}\n', "p.jsonl:1: this line is not JSON"),
        ("p.jsonl", '{"query_id": "q1", "item_id": 1.0, "rank": 1}\n', "p.jsonl:1: .*floating-point"),
        ("p.jsonl", '{"query_id": "q1", "item_id": true, "rank": 1}\n', "p.jsonl:1: item_id is of the wrong type"),
        ("p.jsonl", '{"query_id": ["q1"], "item_id": "a", "rank": 1}\n', "query_id is of the wrong type"),
        ("p.jsonl", '{"query_id": "q1", "item_id": "a", "rank": "1"}\n', "rank is of the wrong type"),
        ("p.jsonl", '{"query_id": "q1", "rank": 1}\n', r"(?s)a column is missing.*item_id"),
        ("p.jsonl", '{"query_id": "q1", "item_id": null, "rank": 1}\n', "null in row 1"),
        ("p.jsonl", '{"query_id": "q1", "item_id": "", "rank": 1}\n', "null in row 1"),
        ("p.trec", "q1 Q0 a 1 nan me\n", "p.trec:1: this is no TREC line"),
        ("p.jsonl", r'{"query_id": "q1", "item_id": "\ud800", "rank": 1}', "no Unicode text"),
        ("p.jsonl", "[" * 100_000, "p.jsonl:1: this line is not JSON"),
        ("p.trec", "q1 Q0 a 1 0.5 me\n\nq1 Q0 a 1 high me\n", "p.trec:3: this is no TREC line"),
        ("p.parquet", "PAR1garbage", "can't be read"),
        ("p.csv.gz", "query_id", "can't be read"),
    ],
)
def test_damage_is_one_clear_error(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        measured(tmp_path / name, TRUTH)


def test_inch_marks_lose_no_row(tmp_path: Path) -> None:
    """Quotes before, in and behind the ids; every list finds its positive."""
    rows = [(f"{n}", f'{n % 7}"' if n % 5 == 0 else f"i{n}") for n in range(5000)]
    lines = "".join(f'{n}" pipe,{query},{item},1,{n}"\n' for n, (query, item) in enumerate(rows))
    (tmp_path / "p.csv").write_text("title,query_id,item_id,rank,size\n" + lines)
    truth = "".join(f'{query}\t"{item.replace(chr(34), 2 * chr(34))}"\n' for query, item in rows)
    (tmp_path / "t.tsv").write_text("query_id\titem_id\n" + truth)
    result = measured(tmp_path / "p.csv", tmp_path / "t.tsv")
    assert result.metrics["recall@1"] == 1.0 and result.num_queries == 5000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"query_id": ["1.0", "2.0"]},
            r"(?s)not one query id is in truth.*such as 1, 2.*got: 1.0, 2.0.*floating-point",
        ),
        ({"item_id": ["i1", "i2"]}, r"(?s)not one item id is in truth.*such as 1, 2.*got: i1, i2.*same ids"),
    ],
)
def test_ids_that_match_nothing_stop(change: dict[str, list[str]], message: str) -> None:
    truth = pl.DataFrame({"query_id": [1, 2], "item_id": [1, 2]})
    predictions = pl.DataFrame({"query_id": ["1", "2"], "item_id": ["1", "2"], "rank": [1, 1]} | change)
    with pytest.raises(DataError, match=message):
        measured(predictions, truth)


def test_ids_that_match_nothing_stop_where_lists_are_sorted_first(capsys: pytest.CaptureFixture[str]) -> None:
    truth = pl.DataFrame({"query_id": [1, 2], "item_id": [1, 2]})
    predictions = pl.DataFrame({"query_id": [1, 2, 1], "item_id": [7, 8, 9], "rank": [1, 1, 2]})
    with pytest.raises(DataError, match="not one item id is in truth"):
        measured(predictions, truth)
    assert "sorting them" in capsys.readouterr().err


def test_lists_that_miss_every_positive_need_the_train_pairs() -> None:
    truth, train = (pl.DataFrame({"query_id": [1], "item_id": [item]}) for item in (1, 2))
    predictions = pl.DataFrame({"query_id": [1], "item_id": [2], "rank": [1]})
    with pytest.raises(DataError, match="give the train pairs"):
        measured(predictions, truth)
    assert measured(predictions, truth, train=train).metrics["recall@1"] == 0.0


def test_few_ids_that_match_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    truth = pl.DataFrame({"query_id": range(100), "item_id": range(100)})
    for shift, told in ((95, True), (50, False)):
        predictions = truth.with_columns(pl.col("query_id") + shift, rank=1)
        measured(predictions, truth)
        message = f"few query ids match: {100 - shift} of 100, and there are 100 in truth"
        assert (message in capsys.readouterr().err) == told
    measured(truth.head(5).with_columns(rank=1), truth)  # lists for some queries only
    assert "few" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("ranks", "lists"),
    [
        ([1, 2, 1, 2], 0),
        ([2, 1, 1, 1], 0),
        ([0, 1, 0, 1], 0),
        ([10, 20, 1, 2], 1),
        ([1, 3, 2, 3], 2),
        ([1, 2, 5, 1], 1),
    ],
)
def test_ranks_with_gaps_are_told(ranks: list[int], lists: int, capsys: pytest.CaptureFixture[str]) -> None:
    truth = pl.DataFrame({"query_id": [1, 2], "item_id": [1, 1]})
    predictions = pl.DataFrame({"query_id": [1, 1, 2, 2], "item_id": [1, 2, 1, 2], "rank": ranks})
    result = measured(predictions, truth)
    assert result.metrics["recall@2"] == 1.0 and result.files["num_lists_with_rank_gaps"] == lists
    assert (f"in {lists} lists the ranks begin after 1" in capsys.readouterr().err) == bool(lists)


def test_a_judgement_that_is_no_number_is_no_positive(tmp_path: Path) -> None:
    (tmp_path / "t.qrels").write_text("q1 0 a 1\nq1 0 b nan\n")
    with pytest.raises(DataError, match="t.qrels:2: this is no TREC line"):
        measured(PREDICTIONS, tmp_path / "t.qrels")
