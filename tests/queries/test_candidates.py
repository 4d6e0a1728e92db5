"""Files of candidates: every form gives the same lists; what is unknown is counted; what is no such file is refused."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from xclass.data.dataset import Dataset
from xclass.errors import DataError
from xclass.ingest.synthetic.pairs import PlantedModel
from xclass.queries.candidates import read_candidates

LISTS = {7: [3, 1], 0: [9], 30: [0, 1, 2, 39]}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    path = tmp_path_factory.mktemp("planted") / "dataset"
    return PlantedModel(num_items=40, num_queries=60, pairs=600, num_topics=3, seed=1).write_dataset(path)


def by_name(dataset: Dataset, lists: dict[int, list[int]]) -> dict[str, list[str]]:
    queries, items = dataset.queries["query_id"], dataset.items["item_id"]
    return {str(queries[query]): [str(items[item]) for item in row] for query, row in lists.items()}


def write(path: Path, lists: dict[str, list[str]]) -> Path:
    """The lists in the form that the name's ending says."""
    pairs = [(query, item) for query, row in lists.items() for item in row]
    table = pl.DataFrame(pairs, schema={"query_id": pl.String, "item_id": pl.String}, orient="row")
    if path.suffix == ".parquet":
        table.write_parquet(path)
    elif path.suffix in (".csv", ".tsv"):
        table.write_csv(path, separator="," if path.suffix == ".csv" else "\t")
    elif path.suffix == ".adj":
        path.write_text("".join(" ".join([query, *row]) + "\n" for query, row in lists.items()))
    else:
        path.write_text("".join(json.dumps({"query_id": q, "history": row}) + "\n" for q, row in lists.items()))
    return path


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet", "jsonl", "ndjson", "adj"])
def test_every_form_gives_the_same_lists(
    dataset: Dataset, tmp_path: Path, ending: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = read_candidates(write(tmp_path / f"lists.{ending}", by_name(dataset, LISTS)), dataset)
    assert found.to_lists() == [sorted(LISTS.get(query, [])) for query in range(dataset.num_queries)]
    assert capsys.readouterr().err == ""


def test_rows_of_a_query_need_not_be_together_and_repeats_count_once(dataset: Dataset, tmp_path: Path) -> None:
    names = by_name(dataset, {4: [2, 5], 6: [2]})
    (four, (two, five)), (six, _) = names.items()
    path = tmp_path / "lists.csv"
    rows = [(four, five), (six, two), (four, two), (four, five), (six, two)]
    path.write_text("query_id,item_id\n" + "".join(f"{query},{item}\n" for query, item in rows))
    found = read_candidates(path, dataset).to_lists()
    assert found[4] == [2, 5] and found[6] == [2] and sum(map(len, found)) == 3


def test_unknown_ids_are_left_out_and_counted(
    dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = by_name(dataset, LISTS)
    first = next(iter(names))
    lists = {**names, first: [*names[first], "nothing", "nowhere"], "nobody": names[first]}
    found = read_candidates(write(tmp_path / "lists.jsonl", lists), dataset)
    assert found.to_lists() == [sorted(LISTS.get(query, [])) for query in range(dataset.num_queries)]
    said = capsys.readouterr().err
    assert "1 unknown queries left out: nobody" in said and "2 unknown items left out: nothing, nowhere" in said


def test_a_list_may_be_empty(dataset: Dataset, tmp_path: Path) -> None:
    names = by_name(dataset, {1: [], 2: [4]})
    found = read_candidates(write(tmp_path / "lists.adj", names), dataset)
    assert found.to_lists()[:4] == [[], [], [4], []]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("lists.csv", "query_id\n0\n", "has no items"),
        ("lists.txt", "0\n1\n", "has no items"),
        ("lists.csv", "query_id,item_id\nnobody,nothing\n", "no candidate of this file is in the dataset"),
        ("lists.jsonl", '{"query_id": "0", "history": [1.5]}\n', "neither text nor an integer"),
        ("lists.jsonl", '{"query_id": "0"}\n', "no list of items"),
        ("lists.jsonl", '{"query_id": "0", "history": ["1"]}\n{"history": ["1"]}\n', "lists.jsonl:2"),
        ("lists.csv", "item_id,other\n0,1\n", "column is missing"),
        ("lists.csv", "", "is empty"),
        ("lists.xml", "<a/>", "ending is not known"),
    ],
)
def test_files_that_cannot_be_used(dataset: Dataset, tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        read_candidates(tmp_path / name, dataset)


def test_a_file_that_is_not_there(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_candidates(tmp_path / "lists.csv", dataset)
