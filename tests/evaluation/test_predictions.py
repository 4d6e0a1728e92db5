"""evaluate_predictions: two files against a slow reference, formats, policies, order of rows, what is refused."""

from __future__ import annotations

import json
import random
from pathlib import Path

import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import xclass
from tests.reference import slow_files
from xclass.errors import DataError, InputError
from xclass.evaluation import predictions
from xclass.evaluation.evaluate import DEFAULT_METRICS, metrics_at
from xclass.metrics import parse_metrics
from xclass.runtime import jit

NAMES = list(DEFAULT_METRICS)
# three queries: q1 finds b at 2 of 3; q2 has all three scores equal; q3 has no list; q9 is not in the truth
ROWS = [
    ("q1", "a", 3.0),
    ("q1", "b", 2.0),
    ("q1", "c", 1.0),
    ("q2", "a", 1.0),
    ("q2", "d", 1.0),
    ("q2", "e", 1.0),
    ("q9", "a", 1.0),
]
TRUTH = [("q1", "b"), ("q1", "z"), ("q2", "a"), ("q3", "a"), ("q1", "b")]


@pytest.fixture(params=[True, False], ids=["compiled", "plain"])
def both(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param:
        pytest.importorskip("numba", reason="numba is not installed: there is no compiled form")
    else:
        for module in ("xclass.data.id_hash", "xclass.metrics.matching", "xclass.metrics.coverage"):
            monkeypatch.setattr(f"{module}.compiles", lambda: False)
    assert isinstance(jit.compiles(), bool)


def write(folder: Path, rows: list, truth: list, name: str = "p.parquet") -> tuple[Path, Path]:
    pl.DataFrame(
        rows, schema={"query_id": pl.String, "item_id": pl.String, "score": pl.Float64}, orient="row"
    ).write_parquet(folder / name)
    pl.DataFrame(truth, schema={"query_id": pl.String, "item_id": pl.String}, orient="row").write_parquet(
        folder / "t.parquet"
    )
    return folder / name, folder / "t.parquet"


@pytest.mark.usefixtures("both")
def test_by_hand(tmp_path: Path) -> None:
    result = xclass.evaluate_predictions(
        *write(tmp_path, ROWS, TRUTH), metrics=parse_metrics(["recall@2", "mrr@3", "recall@3"])
    )
    # q1: 1 of 2; q2: its positive is ranked behind the two others of its score; q3: 0
    assert result.metrics == pytest.approx(
        {"recall@2": 0.5 / 3, "mrr@3": (1 / 2 + 1 / 3) / 3, "recall@3": 1.5 / 3}, abs=1e-15
    )
    assert (result.num_queries, result.num_skipped, result.num_missing, result.num_short) == (3, 0, 1, 0)
    told = result.to_dict()["files"]
    assert (told["num_unknown_queries"], told["num_repeated_predictions"], told["num_repeated_positives"]) == (1, 0, 1)
    assert told["num_items"] == 6  # a b c d e z: q9's list does not count, its items are known otherwise
    assert result.catalogue["coverage@3"] == 5 / 6
    assert result.catalogue["coverage@2"] in (3 / 6, 4 / 6)  # which two of q2's three equal items come first is open
    assert result.query_ids is not None and result.query_ids.to_list() == ["q1", "q2", "q3"]
    assert result.per_query["recall@2"].tolist() == [0.5, 0.0, 0.0]
    json.dumps(result.to_dict(), allow_nan=False)


cases = st.tuples(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9), st.integers(0, 4)), max_size=40),
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 11)), min_size=1, max_size=20),
)


@pytest.mark.parametrize("text", [True, False])
@settings(max_examples=25, deadline=None)
@given(case=cases, shuffle=st.randoms(use_true_random=False))
def test_equals_the_slow_reference(
    tmp_path_factory: pytest.TempPathFactory, text: bool, case: tuple, shuffle: random.Random
) -> None:
    """Any ids, ties, repeats, unknown queries, missing lists; and no order of rows or size of parts matters."""
    rows, truth = case
    wanted_queries = {query for query, _ in truth}
    lists = [(query, item) for query, item, _ in rows if query in wanted_queries]
    assume({item for _, item in lists} & {item for _, item in truth})  # else an error, see below
    folder = tmp_path_factory.mktemp("files")
    kind = pl.String if text else pl.Int64

    def make(frame: pl.DataFrame, name: str) -> Path:
        frame.with_columns(pl.col("query_id", "item_id").cast(kind)).write_parquet(folder / name)
        return folder / name

    def measured(some: list) -> xclass.metrics.Evaluation:  # type: ignore[name-defined]
        schema = {"query_id": pl.Int64, "item_id": pl.Int64, "score": pl.Float64}
        file = make(pl.DataFrame([(q, i, float(s)) for q, i, s in some], schema=schema, orient="row"), "p.parquet")
        pairs = make(pl.DataFrame(truth, schema={"query_id": pl.Int64, "item_id": pl.Int64}, orient="row"), "t.parquet")
        return xclass.evaluate_predictions(file, pairs, [1, 3, 20])

    one = measured(sorted(rows))
    wanted = slow_files.means(rows, truth, NAMES, [1, 3, 20])
    assert one.metrics == pytest.approx(wanted, abs=1e-12)
    other_rows = list(rows)
    shuffle.shuffle(other_rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predictions, "ROWS_AT_ONCE", 3)
        patch.setattr(predictions, "ROWS_PER_PASS", 5)
        other = measured(other_rows)
    assert other.metrics == pytest.approx(one.metrics, abs=1e-12)
    assert other.catalogue == pytest.approx(one.catalogue, abs=1e-12)
    for name in ("num_unknown_queries", "num_repeated_predictions", "num_repeated_positives", "num_items"):
        assert other.files[name] == one.files[name], name


@pytest.mark.usefixtures("both")
def test_catalogue_against_the_slow_reference(tmp_path: Path) -> None:
    generator = random.Random(0)
    lists = [generator.sample([f"i{n}" for n in range(30)], generator.randint(1, 12)) for _ in range(40)]
    lists += lists[:3]
    rows = [(f"q{n:02d}", item, -float(place)) for n, ranked in enumerate(lists) for place, item in enumerate(ranked)]
    files = write(tmp_path, rows, [(f"q{n:02d}", "i0") for n in range(len(lists))])
    result = xclass.evaluate_predictions(*files, k=[2, 5, 10], num_items=50)
    for k in (2, 5, 10):
        wanted = slow_files.catalogue(lists, 50, k)
        assert {name: result.catalogue[name] for name in wanted} == pytest.approx(wanted, abs=1e-12)
    assert result.files["items"] == "as given"


def test_every_format_gives_the_same(tmp_path: Path) -> None:
    wanted = xclass.evaluate_predictions(*write(tmp_path, ROWS, TRUTH), [1, 3]).metrics
    table, truth = pl.read_parquet(tmp_path / "p.parquet"), pl.read_parquet(tmp_path / "t.parquet")
    table.write_csv(tmp_path / "p.csv")
    table.write_csv(tmp_path / "p.tsv", separator="\t")
    table.write_ndjson(tmp_path / "p.jsonl")
    (tmp_path / "p.trec").write_text("".join(f"{q} Q0  {i}\t1 {s} me\n" for q, i, s in ROWS))
    truth.write_csv(tmp_path / "t.csv")
    truth.write_ndjson(tmp_path / "t.jsonl")
    judged = [f"{q} 0 {i} 1\n" for q, i in TRUTH] + ["q1 0 a 0\n", "q2 0 d -1\n", "\n"]
    (tmp_path / "t.qrels").write_text("".join(judged))
    for name in ("p.csv", "p.tsv", "p.jsonl", "p.trec"):
        for other in ("t.parquet", "t.csv", "t.jsonl", "t.qrels"):
            assert xclass.evaluate_predictions(tmp_path / name, tmp_path / other, [1, 3]).metrics == wanted, (
                name,
                other,
            )


def test_ids_keep_their_form(tmp_path: Path) -> None:
    rows = [("007", "1.0", 2.0), ("7", "2", 2.0), ("NaN", "9007199254740993", 1.0), (" x", "ü", 1.0)]
    truth = [("007", "1"), ("7", "2"), ("NaN", "9007199254740992"), (" x", "ü")]
    result = xclass.evaluate_predictions(*write(tmp_path, rows, truth), [1])
    assert result.query_ids is not None
    assert dict(zip(result.query_ids, result.per_query["recall@1"].tolist(), strict=True)) == {
        "007": 0,
        "7": 1,
        "NaN": 0,
        " x": 1,
    }


def test_integers_and_text_meet_by_their_digits(tmp_path: Path) -> None:
    pl.DataFrame({"query_id": [1, 1, -2], "item_id": [2**53 + 1, 5, 7], "rank": [1, 2, 1]}).write_parquet(
        tmp_path / "p.parquet"
    )
    pl.DataFrame({"query_id": [1, -2], "item_id": [str(2**53 + 1), "07"]}).write_parquet(tmp_path / "t.parquet")
    result = xclass.evaluate_predictions(tmp_path / "p.parquet", tmp_path / "t.parquet", [1])
    assert result.per_query["recall@1"].tolist() == [0.0, 1.0]  # −2, 1


def test_rank_decides_where_there_is_one(tmp_path: Path) -> None:
    truth = [("q", "b")]
    write(tmp_path, [], truth)
    table = pl.DataFrame(
        {"query_id": ["q"] * 3, "item_id": ["a", "b", "c"], "rank": [2, 1, 3], "score": [9.0, 1.0, 1.0]}
    )
    table.write_parquet(tmp_path / "both.parquet")
    table.drop("score").write_parquet(tmp_path / "rank.parquet")
    table.drop("rank").write_parquet(tmp_path / "score.parquet")
    got = {
        name: xclass.evaluate_predictions(
            tmp_path / f"{name}.parquet", tmp_path / "t.parquet", metrics=parse_metrics(["mrr@3"])
        ).metrics["mrr@3"]
        for name in ("both", "rank", "score")
    }
    assert got == pytest.approx({"both": 1.0, "rank": 1.0, "score": 1 / 3})  # by score b and c tie: b comes last
    equal = table.with_columns(rank=pl.lit(1)).drop("score")
    equal.write_parquet(tmp_path / "equal.parquet")
    result = xclass.evaluate_predictions(tmp_path / "equal.parquet", tmp_path / "t.parquet", [3])
    assert result.metrics["mrr@3"] == pytest.approx(1 / 3)


def test_a_repeat_is_left_out_and_the_list_closes_up(tmp_path: Path) -> None:
    rows = [("q", "a", 5.0), ("q", "a", 4.0), ("q", "b", 3.0)]
    result = xclass.evaluate_predictions(*write(tmp_path, rows, [("q", "b")]), metrics=parse_metrics(["mrr@3"]))
    assert result.metrics["mrr@3"] == 0.5
    assert result.files["num_repeated_predictions"] == 1


def test_with_train_pairs(tmp_path: Path) -> None:
    rows = [("q1", "b", 2.0), ("q1", "new", 1.0), ("q2", "c", 1.0)]
    files = write(tmp_path, rows, [("q1", "new"), ("q1", "b"), ("q2", "a")])
    train = [("q1", "a"), ("x", "a"), ("x", "b"), ("y", "a"), ("y", "b"), ("z", "c"), ("z", "c")]
    pl.DataFrame(train, schema=["query_id", "item_id"], orient="row").write_csv(tmp_path / "train.csv")
    result = xclass.evaluate_predictions(
        *files,
        metrics=parse_metrics(["recall@1", "recall@2", "psp@2"]),
        train=tmp_path / "train.csv",
        by_popularity=True,
    )
    assert result.num_cold_positives == 1  # new
    # the most popular: a 3, b 2, c 1. q1 has seen a, so it gets b, c; q2 gets a, b
    assert result.popularity["recall@1"] == (1 / 2 + 1) / 2
    assert result.by_history["warm"]["num_queries"] == 1
    assert result.by_history["cold"]["recall@2"] == 0.0
    assert result.by_popularity["cold"] == {**result.by_popularity["cold"], "recall@2": 1.0, "num_queries": 1}
    assert result.by_popularity["head"]["num_queries"] == 1
    assert result.catalogue["mean_popularity@1"] == (2 + 1) / 2
    assert result.catalogue["coverage@2"] == 3 / 4
    assert 0 < result.metrics["psp@2"] < 1
    with pytest.raises(InputError, match="train pairs"):
        xclass.evaluate_predictions(*files, by_popularity=True)
    with pytest.raises(InputError, match="more items than the catalogue"):
        xclass.evaluate_predictions(*files, num_items=2)


def test_the_same_as_evaluating_a_run_in_memory(tmp_path: Path) -> None:
    """The file that retrieve writes (rank and score) gives what evaluate gives."""
    import torch

    from xclass.evaluation.evaluate import evaluate
    from xclass.retrieval.formats import topk_frame
    from xclass.runtime.rng import torch_generator
    from xclass.types import Ragged, TopK

    generator = torch_generator(0, "lists")
    ids = torch.stack([torch.randperm(40, generator=generator)[:10] for _ in range(50)])
    scores = torch.randint(0, 6, (50, 10), generator=generator).float().sort(descending=True).values
    found = TopK.from_padded(ids, scores)
    truth = Ragged.from_lists([torch.randperm(40, generator=generator)[:5].tolist() for _ in range(50)])
    numbers = torch.arange(50)
    names = pl.Series([f"q{n:02d}" for n in range(50)]), pl.Series([f"i{n}" for n in range(40)])
    topk_frame(numbers, found, *names).write_parquet(tmp_path / "p.parquet")
    pairs = pl.DataFrame(
        {"query_id": names[0].gather(truth.rows().numpy()), "item_id": names[1].gather(truth.values.numpy())}
    )
    pairs.write_parquet(tmp_path / "t.parquet")
    wanted = evaluate([(numbers, found)], truth, metrics_at([1, 3, 10]), num_items=40)
    got = xclass.evaluate_predictions(tmp_path / "p.parquet", tmp_path / "t.parquet", [1, 3, 10], num_items=40)
    assert got.metrics == pytest.approx(wanted.metrics, abs=1e-14)
    assert got.catalogue == pytest.approx(wanted.catalogue, abs=1e-12)
    assert wanted.metrics["mrr@10"] > 0


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"query_id": ["q"], "item_id": ["a"]}, "rank .*or score"),
        ({"query_id": ["q"], "rank": [1]}, "a column is missing"),
        ({"query_id": ["q"], "item_id": [1.0], "rank": [1]}, "floating-point numbers"),
        ({"query_id": ["q"], "item_id": ["a"], "rank": ["first"]}, "rank is of the wrong type"),
        ({"query_id": ["q", "q"], "item_id": ["a", None], "rank": [1, 2]}, "null in row 2"),
        ({"query_id": [None, "q"], "item_id": ["a", "b"], "rank": [1, 2]}, "null in row 1"),
        (
            {"query_id": ["q", "q"], "item_id": ["a", "b"], "score": [1.0, float("nan")]},
            "row 2: a rank or score is no number",
        ),
        ({"query_id": ["q"], "item_id": ["a"], "score": pl.Series([None], dtype=pl.Float64)}, "row 1: a rank or score"),
    ],
)
def test_what_is_refused(tmp_path: Path, table: dict, message: str) -> None:
    write(tmp_path, [], TRUTH)
    pl.DataFrame(table).write_parquet(tmp_path / "bad.parquet")
    with pytest.raises(DataError, match=message):
        xclass.evaluate_predictions(tmp_path / "bad.parquet", tmp_path / "t.parquet")


def test_files_that_are_not_there_or_not_read(tmp_path: Path) -> None:
    file, truth = write(tmp_path, ROWS, TRUTH)
    with pytest.raises(DataError, match="no such file"):
        xclass.evaluate_predictions(tmp_path / "none.parquet", truth)
    (tmp_path / "a.xlsx").write_text("")
    with pytest.raises(DataError, match="ending is not known"):
        xclass.evaluate_predictions(tmp_path / "a.xlsx", truth)
    (tmp_path / "cut.parquet").write_bytes(file.read_bytes()[:200])
    with pytest.raises(DataError, match="can't be read"):
        xclass.evaluate_predictions(tmp_path / "cut.parquet", truth)
    (tmp_path / "bad.trec").write_text("q1 Q0 a 1 0.5 me\nq1 Q0\n")
    with pytest.raises(DataError, match=r"bad\.trec:2: this is no TREC line"):
        xclass.evaluate_predictions(tmp_path / "bad.trec", truth)
    write(tmp_path, ROWS, [])
    with pytest.raises(DataError, match="holds no pair"):
        xclass.evaluate_predictions(file, truth)


def test_no_predictions_at_all(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"p\.parquet: there are no predictions"):
        xclass.evaluate_predictions(*write(tmp_path, [], TRUTH), [2])
