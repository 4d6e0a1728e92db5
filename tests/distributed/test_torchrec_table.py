"""Tables that TorchRec holds: the same rows and the same state as ours."""

from __future__ import annotations

import pytest
from ranks.launching import launch, run


@pytest.mark.distributed
def test_torchrec_trains_the_same_rows() -> None:
    found = launch(2, run("torchrec_tables"))
    assert [code for code, _, _ in found] == [0, 0], found
