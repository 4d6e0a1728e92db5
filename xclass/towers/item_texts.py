"""Item vectors from the items' texts, with a short vector of its own for what a text does not say."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xclass.towers.characters import CharacterCnn
from xclass.types import Ragged, Rows

CORRECTION = "correction"
REQUEST = "item.correction"
TEXTS = "texts"


class TextEncoder(nn.Module):
    """v_i = CNN(text_i) + M r_i, with r_i a row of few dimensions in the table "correction".

    Items of like spelling get like vectors from the network alone; the correction tells them apart.

    Args:
        cnn: D dimensions.
        correction: dimensions of r_i, 0 for none; M has D times as many parameters.
        generator: of M's first weights. The rows start at 0, so that training starts from the network alone.

    Source: Jozefowicz et al. 2016, "Exploring the limits of language modeling", §3.2, eq. 4.
    """

    def __init__(self, cnn: CharacterCnn, correction: int, generator: torch.Generator) -> None:
        super().__init__()
        self.cnn, self.correct = cnn, None
        if correction:
            self.correct = nn.Linear(correction, cnn.dim, bias=False)
            nn.init.normal_(self.correct.weight, std=correction**-0.5, generator=generator)

    def forward(self, texts: Ragged, corrected: Ragged | None = None, rows: Tensor | None = None) -> Tensor:
        """(U, D).

        Args:
            texts: (U) lists of bytes.
            corrected: (U) lists of one value for a text that has a row, of none for another.
            rows: theirs, in that order.
        """
        vectors: Tensor = self.cnn(texts)
        if self.correct is None or corrected is None or rows is None:
            return vectors
        return vectors.index_add(0, corrected.rows(), self.correct(rows))


class ItemTexts:
    """What :class:`xclass.towers.ItemFeatures` is for sparse features, for the items' texts.

    Args:
        encoder: makes the vectors; its parameters belong to whoever holds it, too.
        texts: (N) lists of bytes.
        trained: items 0 … trained−1 have train pairs, and a row in the table "correction". An item without one is
            what its text says, even where it is drawn as a negative.
    """

    def __init__(self, encoder: TextEncoder, texts: Ragged, trained: int) -> None:
        self.encoder, self.texts, self.trained = encoder, texts, trained

    @property
    def tables(self) -> tuple[str, ...]:
        """The tables that are read."""
        return () if self.encoder.correct is None else (CORRECTION,)

    @property
    def dim(self) -> int:
        """D."""
        return self.encoder.cnn.dim

    @property
    def device(self) -> torch.device:
        """Of the parameters."""
        return self.encoder.cnn.bias.device

    def take(self, ids: Tensor) -> dict[str, Ragged]:
        """The texts of these items, and the numbers of those that have a row. Cost O(bytes taken)."""
        known = ids < self.trained
        offsets = torch.zeros(len(ids) + 1, dtype=torch.int64)
        torch.cumsum(known, 0, out=offsets[1:])
        return {TEXTS: self.texts.take(ids), CORRECTION: Ragged(offsets, ids[known])}

    def drop(self, taken: dict[str, Ragged], generator: torch.Generator) -> dict[str, Ragged]:
        """The same: a text stays whole."""
        return taken

    def requests(self, taken: dict[str, Ragged]) -> dict[str, dict[str, Tensor]]:
        """Table → request → ids of the corrections' rows."""
        return {table: {REQUEST: taken[CORRECTION].values} for table in self.tables}

    def __call__(self, taken: dict[str, Ragged], rows: dict[str, Rows]) -> Tensor:
        """(U, D)."""
        if not self.tables:
            return self.encoder(taken[TEXTS])
        return self.encoder(taken[TEXTS], taken[CORRECTION], rows[CORRECTION].of(REQUEST))
