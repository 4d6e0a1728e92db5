"""A sample of the fuzz campaign (``make fuzz`` runs all of it), and that the campaign can tell right from wrong."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
import pytest

from tests.robustness import kills, plain_readers, pool
from tests.robustness.artefacts import rehash
from tests.robustness.commands import BAD, GOOD, RIGHT, TRACEBACK, UNCLEAR, Said, fault
from tests.robustness.datasets import difference, stored
from tests.robustness.environment import THREADS
from tests.robustness.mutations import BYTES, TEXT, json_text, mutated
from tests.robustness.plain_readers import Reading, Refusal

SEED, CASES, KILLS = 1, 250, 4


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the bases, and one thread for all processes that are started."""
    folder = tmp_path_factory.mktemp("robustness")
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))
    pool.built(folder, folder / "bases")
    yield folder
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


def test_mutated_inputs(room: Path) -> None:
    found = list(pool.results(SEED, range(CASES), 1, room, room / "bases"))
    assert [result for result in found if result.verdict.outcome in BAD] == []
    counts = Counter(result.verdict.outcome for result in found)
    assert len(found) == CASES
    assert counts[RIGHT] > CASES / 5, "most of what is left is refused: the cases say little"
    assert len({result.kind for result in found}) == len(pool.KINDS)


def test_kills(room: Path) -> None:
    found = list(kills.results(SEED, KILLS, room, room / "bases"))
    assert [result for result in found if result.verdict.outcome not in GOOD] == []


def test_a_case_can_be_repeated(tmp_path: Path) -> None:
    for number in range(40):
        made = []
        for again in ("a", "b"):
            folder = tmp_path / again
            folder.mkdir()
            kind, case = pool.case_of(SEED, number, folder)
            made.append(
                (kind, case.made, {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()})
            )
            shutil.rmtree(folder)
        if "parquet" not in made[0][1]:
            assert made[0] == made[1]


def test_every_mutation_alters_and_none_fails() -> None:
    data = b"user_id,item_id\nu1,i1\nu2,i2\n"
    for mutation in {*TEXT, *BYTES}:
        results = {mutation(data, Random(seed)) for seed in range(30)}
        assert results - {data}, mutation.__name__
        assert isinstance(mutation(b"", Random(0)), bytes)
    assert mutated(data, Random(1), TEXT)[0] != data
    assert json_text(b'{"a": [1, {"b": "c"}]}', Random(2))


class TestWhatIsNoticed:
    SAID = Said(("ingest",), 1, "", "error: a.csv: this file is empty\n")

    def test_one_clear_message_is_none(self) -> None:
        assert fault(self.SAID) is None

    @pytest.mark.parametrize(
        ("code", "err", "outcome"),
        [
            (None, "Traceback (most recent call last):\n", TRACEBACK),
            (1, "error: this is a defect of xclass\n", TRACEBACK),
            (0, "thread '<unnamed>' panicked at src/lib.rs\n", TRACEBACK),
            (1, "\nAborted!\n", TRACEBACK),
            (1, "", UNCLEAR),
            (3, "interrupted\n", UNCLEAR),
            (0, "a.py:1: RuntimeWarning: overflow\n", UNCLEAR),
        ],
    )
    def test_a_fault(self, code: int | None, err: str, outcome: str) -> None:
        found = fault(Said(("ingest",), code, "", err))
        assert found is not None and found.outcome == outcome

    def test_what_is_left_behind(self, tmp_path: Path) -> None:
        (tmp_path / ".out.abcd1234.tmp").mkdir()
        found = fault(self.SAID, tmp_path)
        assert found is not None and "left behind" in found.why

    def test_a_dataset_with_another_pair(self, room: Path, tmp_path: Path) -> None:
        shutil.copytree(room / "bases" / "ds", tmp_path / "ds")
        before = stored(tmp_path / "ds")
        assert difference(stored(tmp_path / "ds"), before) == ""
        path = tmp_path / "ds" / "train" / "values.npy"
        values = np.load(path)
        offsets = np.load(tmp_path / "ds" / "train" / "offsets.npy")
        first = set(values[offsets[0] : offsets[1]].tolist())
        values[0] = min(set(range(40)) - first)
        np.save(path, values)
        assert "pairs missing" in difference(stored(tmp_path / "ds"), before)

    def test_other_weights_and_times(self) -> None:
        one, other = Reading({("u", "i"): (1.0, 5)}, {"u"}), Reading({("u", "i"): (1.5, 5)}, {"u"})
        assert difference(one, other) != ""
        assert difference(one, Reading({("u", "i"): (1.0, 6)}, {"u"})) != ""

    def test_manifests_are_hashed_anew(self, room: Path, tmp_path: Path) -> None:
        shutil.copytree(room / "bases" / "ds", tmp_path / "ds")
        manifest = tmp_path / "ds" / "dataset.json"
        before = json.loads(manifest.read_text())["files"]
        rehash(tmp_path / "ds")
        assert json.loads(manifest.read_text())["files"] == before
        (tmp_path / "ds" / "train" / "values.npy").write_bytes(b"x")
        rehash(tmp_path / "ds")
        assert json.loads(manifest.read_text())["files"]["train/values.npy"]["bytes"] == 1


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("user_id,item_id\na,b\n\nc,d\n", [("a", "b"), ("c", "d")]),
        ('user_id,item_id\na,"b,""x"\n', [("a", 'b,"x')]),
        ('user_id,item_id\na,12" b\n', [("a", '12" b')]),
        ("1,2\n3,4\n", [("1", "2"), ("3", "4")]),
        ("user_id,item_id,rating\na,b,1\na,b,2\n", [("a", "b")]),
        ("user_id,item_id\na,b\nuser_id,item_id\nc,d\n", [("a", "b"), ("c", "d")]),
    ],
)
def test_the_plain_reader_of_tables(text: str, pairs: list[tuple[str, str]]) -> None:
    assert list(plain_readers.delimited(text.encode(), ",").pairs) == pairs


@pytest.mark.parametrize(
    "text",
    ["", "user_id,item_id\n", "user_id,item_id\na\n", "user_id,item_id\na,\n", 'user_id,item_id\na,"b\n', "user_id,note\na,b\n",
     "user_id,item_id,rating\na,b,-1\n", "user_id,item_id,rating\na,b,nan\n", "user_id,item_id,rating\na,b,3e38\na,b,3e38\n"],
)  # fmt: skip
def test_the_plain_reader_refuses(text: str) -> None:
    with pytest.raises(Refusal):
        plain_readers.delimited(text.encode(), ",")
