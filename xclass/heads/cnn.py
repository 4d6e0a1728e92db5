"""CNN-softmax: an item's vector is computed from the characters of its text.

Source: Jozefowicz et al. 2016, "Exploring the limits of language modeling", §3.2.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from xclass.heads.dot import DotHead
from xclass.losses import Loss
from xclass.sampling import Sampler
from xclass.towers.item_texts import ItemTexts, TextEncoder
from xclass.towers.projection import Projection
from xclass.types import Ragged


class CnnHead(DotHead):
    """A dot head whose item vectors are v_i = CNN(text_i) + M r_i instead of rows of a table.

    Its parameters are the network's, whatever the number of items, and N · c of the corrections r_i where there are
    any. A step computes the vectors of its distinct targets and negatives, so sampled training costs what they cost.
    A finished run holds the vectors of all items, computed once, in a table "item".

    Args:
        encoder: the network and M.
        texts: of the items, while it is trained; None for a finished run, whose table "item" has the vectors.
        sampler, loss, projection, switches: as :class:`xclass.heads.DotHead` takes them.
    """

    def __init__(
        self,
        encoder: TextEncoder,
        texts: ItemTexts | None,
        sampler: Sampler,
        loss: Loss,
        projection: Projection,
        **switches: Any,
    ) -> None:
        super().__init__(sampler, loss, projection, features=texts, item_rows=texts is None, **switches)
        self.encoder, self.texts = encoder, None if texts is None else texts.texts

    @torch.no_grad()
    def text_vectors(self, texts: Ragged) -> Tensor:
        """(U, D) vectors of items with these texts (lists of bytes), as one without a correction has it."""
        vectors: Tensor = self.projection(self.encoder(texts.to(self.encoder.cnn.bias.device)))
        return vectors
