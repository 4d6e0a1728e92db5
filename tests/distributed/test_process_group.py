"""The processes of a launch: what they exchange, and what is said when one is missing."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks.launching import launch, run

from xclass.distributed import Group, launched, share_of
from xclass.distributed.rendezvous import Meeting
from xclass.errors import ConfigError

FAILURES = """
import os, signal, time, torch
from xclass.distributed import Group
with Group(5) as group:
    group.sum(torch.ones(1))
    group.at("step 3")
    time.sleep(1)
    if group.rank == 1:
        raise ValueError("the cable is out")
    if group.rank == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    if group.rank == 3:
        group.at("step 2")
        time.sleep(7)
    group.sum(torch.ones(1), "adding up")
"""


def test_one_process_is_a_group_of_one() -> None:
    assert not launched()
    with Group() as group:
        group.barrier("nothing")
        assert (group.rank, group.size, group.is_first, group.share(7)) == (0, 1, True, (0, 7))
        assert group.gather(torch.arange(3))[0].tolist() == [0, 1, 2]
        assert group.gather_values({"a": 1}) == [{"a": 1}]
        assert group.broadcast_value("x") == "x"
        assert group.sum(torch.ones(2)).tolist() == [1, 1]
        assert group.together(lambda: 5, "work") == [5]


def test_a_time_limit_is_positive() -> None:
    with pytest.raises(ConfigError, match="time limit"):
        Group(0)


@pytest.mark.parametrize(("total", "size"), [(10, 4), (3, 4), (0, 2), (8, 1)])
def test_shares_are_contiguous_and_nearly_equal(total: int, size: int) -> None:
    shares = [share_of(total, rank, size) for rank in range(size)]
    assert shares[0][0] == 0 and shares[-1][1] == total
    assert all(one[1] == two[0] for one, two in zip(shares, shares[1:], strict=False))
    lengths = [stop - start for start, stop in shares]
    assert max(lengths) - min(lengths) <= 1


def test_three_ranks_exchange_values_train_tables_and_search() -> None:
    found = launch(3, run("exchanges"))
    assert [code for code, _, _ in found] == [0, 0, 0], found
    said = [json.loads(out) for _, out, _ in found]
    for rank, each in enumerate(said):
        assert each["size"] == 3 and each["share"] == list(share_of(10, rank, 3))
        assert each["gathered"] == [[], [[0, 1]], [[0, 1], [2, 3]]]
        assert each["values"] == [{"rank": other, "text": "é" * other} for other in range(3)]
        assert (each["broadcast"], each["sum"], each["first"]) == ("from 1", [3, 3], 40)
        assert each["exchanged"] == [rank, rank + 10, rank + 20]
        assert "no such file" in each["failed"] and (rank == 1 or "rank 1 failed at reading" in each["failed"])


def test_who_is_missing_is_named_and_why(tmp_path: Path) -> None:
    script = tmp_path / "ranks.py"
    script.write_text(FAILURES)
    code, _, said = launch(4, [str(script)])[0]
    assert code == 1 and "adding up: rank 0 can't go on" in said
    assert re.search(r"rank 1 \(.*, process \d+\) ended at step 3: ValueError: the cable is out; ", said)
    assert re.search(
        r"rank 2 \(.*\) gives no sign of life \(killed, stopped or cut off\); it was last seen at step 3; ", said
    )
    assert re.search(r"rank 3 \(.*\) is slow: it is at step 2, this rank at step 3\n", said)


def meet(store: Any, size: int, ranks: Iterable[int], timeout_s: float) -> dict[int, str]:
    """What each of these ranks is told, when they come at the same time."""

    def come(rank: int) -> None:
        try:
            found[rank] = Meeting(store, rank, size, timeout_s).attend().name
        except TimeoutError as error:
            found[rank] = str(error)

    found: dict[int, str] = {}
    threads = [threading.Thread(target=come, args=(rank,)) for rank in ranks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_processes_meet_beside_what_earlier_attempts_left() -> None:
    from torch.distributed import HashStore

    store, names = HashStore(), set()
    for _ in range(3):
        found = meet(store, 3, range(3), 20)
        assert len(set(found.values())) == 1
        names |= set(found.values())
    assert len(names) == 3
    assert meet(store, 3, [0, 2], 0.3) == {0: "missing: rank 1", 2: "missing: rank 1"}
    assert meet(store, 3, [1], 0.1)[1].startswith("rank 0 did not call")
    assert len(set(meet(store, 3, [2, 0, 1], 20).values()) - names) == 1
