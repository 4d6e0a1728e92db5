"""Lists over different items made one."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from xclass.types import TopK, offsets_of


def merged(parts: Sequence[TopK], k: int) -> TopK:
    """The best k of each query's lists, of parts over different items; equal scores by rising item number.

    >>> one, two = (TopK.from_padded(torch.tensor([[i]]), torch.tensor([[1.0]])) for i in (7, 3))
    >>> merged([one, two], 5).ids.tolist()
    [3, 7]
    """
    rows, ids = torch.cat([part.rows() for part in parts]), torch.cat([part.ids for part in parts])
    scores = torch.cat([part.scores for part in parts])
    order = torch.argsort(ids, stable=True)
    order = order[torch.argsort(scores[order], descending=True, stable=True)]
    order = order[torch.argsort(rows[order], stable=True)]
    lengths = torch.bincount(rows, minlength=len(parts[0]))
    return TopK(offsets_of(lengths), ids[order], scores[order]).head(k)
