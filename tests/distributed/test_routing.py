"""Where the rows of a step lie: the compiled loop and the sort give the same, and both what the words say."""

from __future__ import annotations

import pytest
import torch

from xclass.distributed import routing
from xclass.distributed.placement import Turns
from xclass.runtime.rng import torch_generator


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize(("holders", "rows"), [((0, 1, 2), 1000), ((2,), 50), ((0,), 7), ((1, 0), 31), ((0, 1, 2), 0)])
def test_rows_by_owner(holders: tuple[int, ...], rows: int, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if compiled:
        pytest.importorskip("numba")
    monkeypatch.setattr(routing, "compiles", lambda: compiled)
    ids = torch.unique(torch.randint(0, 10**9, (rows,), generator=torch_generator(0, "ids")))
    found = routing.cut(ids, Turns(holders), 3)
    by_rank = [[row for row in ids.tolist() if holders[row % len(holders)] == rank] for rank in range(3)]
    assert found.counts.tolist() == [len(each) for each in by_rank]
    wanted = [row for each in by_rank for row in each]
    assert ids[found.order].tolist() == wanted
    assert found.rows.tolist() == [row // len(holders) for row in wanted]
    assert torch.equal(found.order[found.places], torch.arange(len(ids)))
