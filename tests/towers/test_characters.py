"""The character CNN against loops over windows, with and without a compiler, and its gradients in float64."""

from __future__ import annotations

import math

import polars as pl
import pytest
import torch
from torch import Tensor

from xclass.runtime.rng import torch_generator
from xclass.towers import characters
from xclass.towers.characters import BEGIN, END, SYMBOLS, CharacterCnn, marked, pooled_maps, text_bytes
from xclass.towers.item_texts import CORRECTION, REQUEST, ItemTexts, TextEncoder
from xclass.types import Rows

WORDS = ["the", "", "Straße", "a", "antidisestablishmentarianism", "the", "日本"]
TEXTS = text_bytes(pl.Series(WORDS), 40)


def slow_vector(cnn: CharacterCnn, word: str) -> list[float]:
    """One text in Python floats, by the formulas of the page: windows, the largest, highway, the last layer."""
    symbols, pooled = [BEGIN, *word.encode(), END], []
    embedded = cnn.symbols.detach().double().tolist()
    for each in cnn.filters:
        width, _, count = each.shape
        for f in range(count):
            taps = each[:, :, f].detach().double().tolist()
            sums = []
            for t in range(max(len(symbols) - width + 1, 1)):
                inside = [(j, symbols[t + j]) for j in range(width) if t + j < len(symbols)]
                sums.append(sum(x * w for j, s in inside for x, w in zip(embedded[s], taps[j], strict=True)))
            pooled.append(max(sums))
    x = [max(value + b, 0.0) for value, b in zip(pooled, cnn.bias.tolist(), strict=True)]
    for layer in cnn.highway:
        rows = [dot(row, x) + b for row, b in zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)]
        inner, gates = rows[: len(x)], [1 / (1 + math.exp(-each)) for each in rows[len(x) :]]
        x = [g * max(h, 0.0) + (1 - g) * old for g, h, old in zip(gates, inner, x, strict=True)]
    return [dot(row, x) + b for row, b in zip(cnn.last.weight.tolist(), cnn.last.bias.tolist(), strict=True)]


def dot(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def network(filters: tuple[int, ...] = (2, 0, 3, 4), highway: int = 2) -> CharacterCnn:
    cnn = CharacterCnn(3, 4, filters, highway, torch_generator(0, "cnn"))
    with torch.no_grad():
        cnn.bias += torch.linspace(-1, 1, len(cnn.bias))
    return cnn


@pytest.mark.parametrize("compiled", [True, False])
def test_it_equals_loops_over_windows(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not compiled:
        monkeypatch.setattr(characters, "compiles", lambda: False)
    cnn = network()
    wanted = torch.tensor([slow_vector(cnn, word) for word in WORDS])
    torch.testing.assert_close(cnn(TEXTS), wanted, rtol=1e-4, atol=1e-5)
    assert cnn(TEXTS.slice(0, 0)).shape == (0, 3)


def test_both_forms_give_the_same_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(characters, "PART_CELLS", 1)  # as many parts as there are threads
    monkeypatch.setattr(characters, "BLOCK_CELLS", 100)
    table = torch.randn(3, SYMBOLS, 40, generator=torch_generator(1, "table"))
    upstream = torch.randn(len(WORDS), 40, generator=torch_generator(2, "upstream"))
    found = []
    for compiled in (True, False):
        monkeypatch.setattr(characters, "compiles", lambda compiled=compiled: compiled)
        leaf = table.clone().requires_grad_(True)
        (pooled_maps(marked(TEXTS), leaf) * upstream).sum().backward()
        assert leaf.grad is not None
        found.append(leaf.grad)
    torch.testing.assert_close(found[0], found[1])
    assert int((found[0][:, 0] != 0).sum()) == 0  # no text has the byte 0


def test_gradcheck() -> None:
    cnn = network((2, 2), 1).double()
    names = [name for name, _ in cnn.named_parameters()]

    def loss(*parameters: Tensor) -> Tensor:
        given = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(cnn, given, (TEXTS.slice(0, 4),))  # type: ignore[no-any-return]

    assert torch.autograd.gradcheck(loss, tuple(cnn.parameters()), fast_mode=True)


def test_bytes_of_texts() -> None:
    assert [bytes(row).decode() for row in TEXTS.to_lists()] == WORDS
    short = text_bytes(pl.Series(["abc", None, "Straße", ""]), 5)
    assert [bytes(row) for row in short.to_lists()] == [b"abc", b"", b"Stra\xc3", b""]
    assert text_bytes(pl.Series([7, 12]), 9).to_lists() == [[55], [49, 50]]
    assert marked(short).to_lists()[1] == [BEGIN, END]
    assert marked(short).to_lists()[0] == [BEGIN, 97, 98, 99, END]


def test_texts_in_several_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(characters, "TEXTS_AT_ONCE", 2)
    assert text_bytes(pl.Series(WORDS), 40).to_lists() == TEXTS.to_lists()


def test_a_vector_depends_on_its_own_text_alone() -> None:
    cnn = network()
    whole = cnn(TEXTS)
    torch.testing.assert_close(whole[0], whole[5])
    for u in range(len(WORDS)):
        torch.testing.assert_close(cnn(TEXTS.slice(u, u + 1))[0], whole[u])


def test_the_correction_is_for_items_with_a_train_pair() -> None:
    encoder = TextEncoder(network(), 2, torch_generator(0, "correction"))
    items = ItemTexts(encoder, TEXTS, trained=4)
    ids = torch.tensor([6, 0, 5, 3])
    taken = items.take(ids)
    assert items.requests(taken)[CORRECTION][REQUEST].tolist() == [0, 3]
    rows = torch.tensor([[1.0, -1.0], [0.5, 2.0]])
    found = items(taken, {CORRECTION: Rows(rows, {REQUEST: torch.arange(2)})})
    plain = encoder(TEXTS.take(ids))
    torch.testing.assert_close(found[[0, 2]], plain[[0, 2]])
    assert encoder.correct is not None
    torch.testing.assert_close(found[[1, 3]] - plain[[1, 3]], rows @ encoder.correct.weight.T)
