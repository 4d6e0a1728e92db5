"""Texts → vectors by convolutions over their characters, each pooled to its largest value.

A text is the bytes of its UTF-8 form between two marks, c_1 … c_L. A filter of width w reads w of them in a row:

    h_t = Σ_{j<w} ⟨W_j, e(c_{t+j})⟩ for t = 1 … max(L − w + 1, 1), nothing beyond the end;  pooled = ReLU(max h_t + b)

Source: Kim et al. 2016, "Character-aware neural language models", §2.2; as an output layer Jozefowicz et al. 2016.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from xclass.runtime.jit import compiles
from xclass.runtime.threads import in_parts
from xclass.types import Ragged, offsets_of

BYTES = 256
BEGIN, END, SYMBOLS = BYTES, BYTES + 1, BYTES + 2
TEXTS_AT_ONCE = 1 << 18
BLOCK_CELLS = 1 << 22
PART_CELLS = 1 << 18  # less than this for each thread is not worth waking it
LINE = 16  # numbers of a line of the cache


def text_bytes(texts: pl.Series, most: int) -> Ragged:
    """The first ``most`` bytes of each text in UTF-8, uint8 values; a missing text is empty. Cost O(bytes)."""
    kept, lengths = list[Tensor](), list[Tensor]()
    for part in texts.cast(pl.String).fill_null("").to_frame("text").iter_slices(TEXTS_AT_ONCE):
        joined = np.frombuffer(str(part["text"].str.join("").item()).encode(), np.uint8).copy()
        length = torch.from_numpy(part["text"].str.len_bytes().cast(pl.Int64).to_numpy().copy())
        whole = Ragged(offsets_of(length), torch.from_numpy(joined))
        first = torch.arange(len(whole.values)) - whole.offsets[:-1][whole.rows()] < most
        kept.append(whole.values[first])
        lengths.append(length.clamp(max=most))
    return Ragged(offsets_of(torch.cat(lengths)), torch.cat(kept))


def marked(texts: Ragged) -> Ragged:
    """The same with the marks of begin and end: int64 numbers below 258, two at least."""
    lengths = texts.lengths() + 2
    offsets = offsets_of(lengths)
    values = torch.empty(int(offsets[-1]), dtype=torch.int64, device=offsets.device)
    values[offsets[:-1]], values[offsets[1:] - 1] = BEGIN, END
    rows = texts.rows()
    values[torch.arange(len(rows), device=offsets.device) + 2 * rows + 1] = texts.values.long()
    return Ragged(offsets, values)


def pooled_maps(texts: Ragged, table_WSF: Tensor) -> Tensor:
    """(U, F) max_t Σ_j table[j, c_{t+j}], differentiable in the table.

    A convolution over symbols of which there are few is a sum of rows of a table, which has been multiplied out before.

    Args:
        texts: (U) of :func:`marked`.
        table_WSF: (width, 258, F), what each filter makes of each symbol at each of its places.

    Cost O(symbols · width · F) additions; back only O(U · width · F), for the largest value alone has a gradient.
    """
    if table_WSF.device.type == "cpu" and table_WSF.dtype == torch.float32 and compiles():
        compiled: Tensor = _PooledMaps.apply(texts, table_WSF)
        return compiled
    longest = int(texts.lengths().max()) if len(texts) else 1
    size = max(BLOCK_CELLS // (longest * table_WSF.shape[2]), 1)
    parts = [_plain(texts.slice(low, min(low + size, len(texts))), table_WSF) for low in range(0, len(texts), size)]
    return torch.cat(parts) if parts else table_WSF.new_empty(0, table_WSF.shape[2])


def _plain(texts: Ragged, table: Tensor) -> Tensor:
    width, lengths = len(table), texts.lengths()
    windows = (lengths - width + 1).clamp(min=1)
    padded = torch.full((len(texts), int(windows.max()) + width - 1), SYMBOLS, device=lengths.device)
    rows = texts.rows()
    places = torch.arange(len(rows), device=lengths.device) - texts.offsets[:-1][rows]
    inside = places < padded.shape[1]
    padded[rows[inside], places[inside]] = texts.values[inside]
    longer = functional.pad(table, (0, 0, 0, 1))  # a row of 0 for what is beyond the end
    span = padded.shape[1] - width + 1
    maps = sum(functional.embedding(padded[:, j : j + span], longer[j]) for j in range(width))
    assert isinstance(maps, Tensor)
    beyond = torch.arange(span, device=lengths.device) >= windows[:, None]
    pooled: Tensor = maps.masked_fill(beyond.unsqueeze(2), -torch.inf).max(dim=1).values
    return pooled


class _PooledMaps(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, texts: Ragged, table: Tensor) -> Tensor:
        from xclass.towers import _numba_characters

        ctx.texts, ctx.shape = texts, table.shape
        pooled = torch.empty(len(texts), table.shape[2])
        where = torch.empty(pooled.shape, dtype=torch.int32)
        given = texts.offsets.numpy(), texts.values.numpy(), table.detach().contiguous().numpy()
        found = pooled.numpy(), where.numpy()

        def part(low: int, high: int) -> None:
            _numba_characters.pool(low, high, *given, *found)

        cells = len(texts.values) * len(table) * table.shape[2]
        in_parts(part, len(texts), cells // PART_CELLS, table.device)
        ctx.save_for_backward(where)
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[None, Tensor]:
        from xclass.towers import _numba_characters

        (where,) = ctx.saved_tensors
        gradient = torch.zeros(ctx.shape)
        given = ctx.texts.offsets.numpy(), ctx.texts.values.numpy(), where.numpy(), upstream.contiguous().numpy()

        def part(low: int, high: int) -> None:
            _numba_characters.push(low, high, *given, gradient.numpy())

        worth = upstream.numel() * ctx.shape[0] // PART_CELLS
        in_parts(part, ctx.shape[2], min(worth, ctx.shape[2] // LINE), upstream.device)
        return None, gradient


class CharacterCnn(nn.Module):
    """Embedding of symbols → convolutions of several widths, pooled → highway layers → D dimensions.

    A highway layer is y = g · ReLU(A x + a) + (1 − g) · x with g = σ(G x + g_0), and passes x on at first (g_0 = −2).

    Args:
        dim: D.
        symbol_dim: dimensions of a symbol's embedding.
        filters: how many filters of width 1, 2, 3, …
        highway: layers.
        generator: of the first weights.

    Parameters: 258 · symbol_dim + Σ_w w · symbol_dim · filters_w + highway · 2 F² + F · D with F = Σ filters, and
    biases; nothing depends on the number of items.
    """

    def __init__(
        self, dim: int, symbol_dim: int, filters: Sequence[int], highway: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.dim, total = dim, sum(filters)

        def drawn(*shape: int, std: float) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, generator=generator) * std)

        self.symbols = drawn(SYMBOLS, symbol_dim, std=1.0)
        self.filters = nn.ParameterList(
            [
                drawn(width, symbol_dim, count, std=(width * symbol_dim) ** -0.5)
                for width, count in enumerate(filters, 1)
                if count
            ]
        )
        self.bias = nn.Parameter(torch.zeros(total))
        self.highway = nn.ModuleList([_linear(total, 2 * total, generator) for _ in range(highway)])
        for layer in self.highway:
            nn.init.constant_(layer.bias[total:], -2.0)  # type: ignore[index]
        self.last = _linear(total, dim, generator)

    def forward(self, texts: Ragged) -> Tensor:
        """(U, D) of texts, lists of bytes."""
        read = marked(texts)
        tables = [torch.einsum("se,wef->wsf", self.symbols, each) for each in self.filters]
        x = functional.relu(torch.cat([pooled_maps(read, table) for table in tables], 1) + self.bias)
        for layer in self.highway:
            inner, gate = layer(x).chunk(2, dim=1)
            x = torch.lerp(x, functional.relu(inner), torch.sigmoid(gate))
        vectors: Tensor = self.last(x)
        return vectors


def _linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.normal_(layer.weight, std=inputs**-0.5, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer
