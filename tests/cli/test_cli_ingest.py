"""``xclass ingest``: options reach the reader, mistakes are one message, nothing is left behind."""

from __future__ import annotations

import json
import os
import resource
import signal
from pathlib import Path
from typing import Any

import pytest

from xclass.cli import main
from xclass.cli.commands.ingest import FORMAT_NAMES, SPLIT_NAMES
from xclass.data.dataset import open_dataset
from xclass.ingest.documents.sources import FORMAT_NAMES as ALL_NAMES
from xclass.ingest.options import IngestOptions, Split
from xclass.ingest.writing import arrays


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    """Four people, five things, a time; person d has one thing, thing 5 one person."""
    rows = [
        "who,what,when",
        "a,1,10",
        "a,2,11",
        "a,3,12",
        "b,1,13",
        "b,2,14",
        "c,2,15",
        "c,3,16",
        "d,1,17",
        "a,5,18",
        "a,1,19",
    ]
    path = tmp_path / "log.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


COLUMNS = ["--query-col", "who", "--item-col", "what"]


def test_choices_are_those_of_the_library() -> None:
    assert set(FORMAT_NAMES) == set(ALL_NAMES)
    assert set(SPLIT_NAMES) == set(Split.__args__)  # type: ignore[attr-defined]


def test_options_reach_the_dataset(csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "data"
    options = [
        "--time-col",
        "when",
        "--split",
        "leave-last",
        "--min-query-count",
        "2",
        "--min-item-count",
        "2",
        "--seed",
        "7",
    ]
    assert main(["ingest", str(csv), "--out", str(out), *COLUMNS, *options, "--valid-fraction", "0", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    dataset = open_dataset(out)
    assert answer["dataset"] == str(out)
    assert (answer["num_queries"], answer["num_items"]) == (dataset.num_queries, dataset.num_items) == (3, 3)
    expected = {"query_col": "who", "item_col": "what", "time_col": "when", "split": "leave-last", "seed": 7}
    saved = IngestOptions.model_validate(answer["options"])
    assert saved == IngestOptions(**expected, min_query_count=2, min_item_count=2, valid_fraction=0.0)
    assert dataset.queries["query_id"].to_list() == ["a", "b", "c"]
    last = {
        query: dataset.items["item_id"].to_list()[items[0]]
        for query, items in zip("abc", dataset.split("test").to_lists(), strict=True)
    }
    assert {query: str(item) for query, item in last.items()} == {"a": "3", "b": "2", "c": "3"}


def test_the_report_for_people(csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "data"
    assert main(["ingest", str(csv), "--out", str(out), *COLUMNS, "--split", "random"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"read       10 pairs from {csv}, format csv"
    assert lines[-1] == f"written    {out}"


@pytest.mark.parametrize(
    "option", [["--split", "randm"], ["--format", "cvs"], ["--min-item-count", "-1"], ["--seed", "x"]]
)
def test_usage(option: list[str], csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ingest", str(csv), "--out", str(tmp_path / "data"), *COLUMNS, *option]) == 2
    assert option[0] in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_a_misspelt_choice_names_the_nearest(csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ingest", str(csv), "--out", str(tmp_path / "data"), "--split", "leavelast"]) == 2
    assert 'did you mean "leave-last"?' in capsys.readouterr().err


def test_fractions_that_leave_no_train(csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "ingest",
        str(csv),
        "--out",
        str(tmp_path / "data"),
        *COLUMNS,
        "--test-fraction",
        "0.7",
        "--valid-fraction",
        "0.3",
    ]
    assert main(arguments) == 1
    assert "leave nothing for train" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (b"who,thing\na,1\n", COLUMNS, "what"),
        (b"who,what\na,1\n,2\n", COLUMNS, "line 3"),
        (b"who,what\na,1\nb\n", COLUMNS, "line 3"),
        (b"who,what\na,1\nb,\xff\xfe\n", COLUMNS, "line 3"),
        (b"", COLUMNS, "empty"),
    ],
    ids=["missing column", "null id", "ragged line", "not UTF-8", "empty"],
)
def test_bad_files_are_one_message(
    content: bytes, options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "bad.csv"
    source.write_bytes(content)
    assert main(["ingest", str(source), "--out", str(tmp_path / "data"), *options]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("error: ") == 1
    assert f"error: {source}" in captured.err
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.csv"]


def test_a_directory_that_is_there_is_not_overwritten(
    csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "data"
    out.mkdir()
    assert main(["ingest", str(csv), "--out", str(out), *COLUMNS]) == 1
    assert "exists already" in capsys.readouterr().err
    assert list(out.iterdir()) == []


def test_a_full_disk_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No file may grow past 64 KiB: to a writer that is a disk without room."""
    source = tmp_path / "log.csv"
    source.write_text("who,what\n" + "".join(f"{row % 211},{row}\n" for row in range(30_000)))
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, old[1]))
    try:
        code = main(["ingest", str(source), "--out", str(tmp_path / "data"), *COLUMNS])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    captured = capsys.readouterr()
    assert (code, captured.out) == (1, "")
    assert "the disk is full" in captured.err
    assert "Traceback" not in captured.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.csv"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle_leaves_nothing_and_says_how_to_go_on(
    number: signal.Signals,
    csv: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_pairs, half_written = arrays.write_pairs, []

    def write_and_be_stopped(folder: Path, *rest: Any) -> Any:
        write_pairs(folder, *rest)
        half_written.extend(path.name for path in folder.iterdir())
        os.kill(os.getpid(), number)
        pytest.fail("the signal was ignored")

    monkeypatch.setattr(arrays, "write_pairs", write_and_be_stopped)
    arguments = ["ingest", str(csv), "--out", str(tmp_path / "data"), *COLUMNS]
    assert main(arguments) == 3
    assert "train" in half_written
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.endswith(f"do: run the same command again: xclass {' '.join(arguments)}\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.csv"]
