"""Every registered head through its conformance suite, in compiled and in plain form."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest
import torch

from xclass.heads import HEADS, CnnHead, DotHead, Head, HeadConfig, KnownItems, build_head, table_shapes
from xclass.heads.build import build_encoder
from xclass.losses import LOSSES
from xclass.runtime.rng import torch_generator
from xclass.sampling import AllItems, Uniform
from xclass.testing import check_head
from xclass.towers import Projection
from xclass.towers.characters import text_bytes
from xclass.towers.item_texts import ItemTexts

N, D = 40, 8
COUNTS = (1000 / torch.arange(1, N + 1)).long()
VECTORS = torch.randn(N, D, generator=torch_generator(0, "items"))


def own(settings: dict[str, Any]) -> Head:
    known = KnownItems(N, D, lambda: COUNTS, lambda: VECTORS, 0)
    return build_head(HeadConfig.model_validate(settings), known, 0.7)


def dot(**settings: Any) -> DotHead:
    return DotHead(AllItems(N), LOSSES["full-softmax"], Projection(D, (), False, torch_generator(0, "t")), **settings)


def cnn(settings: dict[str, Any], trained: int = 30) -> CnnHead:
    config = HeadConfig.model_validate(settings)
    encoder = build_encoder(config, D, torch_generator(0, "cnn"))
    texts = ItemTexts(encoder, text_bytes(pl.Series([f"item {i * i}" for i in range(N)]), config.text_bytes), trained)
    projection = Projection(D, (), False, torch_generator(0, "t"))
    switches = {"temperature": 0.7, "remove_known_positives": False}
    return CnnHead(encoder, texts, AllItems(N), LOSSES["full-softmax"], projection, **switches)


TREES = [
    {"kind": "hierarchical", "tree": tree, "arity": arity, "beam": 8}
    for tree in ("balanced", "huffman", "clustered")
    for arity in (2, 5)
]
BANDS = [
    {"kind": "differentiated", "cuts": [0.1, 0.5], "dims": [4, 3, 1]},
    {"kind": "adaptive", "cuts": [0.2, 0.5], "dims": [4, 2]},
]
NETWORKS = [
    {"kind": "cnn", "filters": [3, 5], "symbol_dim": 4, "highway": 1, "correction": 6},
    {"kind": "cnn", "filters": [0, 0, 20], "symbol_dim": 4, "highway": 0},
]
CASES = [{"kind": "dot"}, *TREES, *BANDS, *NETWORKS]


def test_every_name_is_here() -> None:
    assert {case["kind"] for case in CASES} == set(HEADS)
    assert {case["kind"] for case in CASES} == set(HeadConfig.model_fields["kind"].annotation.__args__)  # type: ignore[union-attr]


@pytest.mark.parametrize("settings", CASES, ids=lambda case: "-".join(map(str, case.values())))
def test_heads_conform(settings: dict[str, Any]) -> None:
    makers: dict[str, Callable[[], Head]] = {
        "dot": lambda: dot(temperature=0.7, remove_known_positives=False),
        "cnn": lambda: cnn(settings),
    }
    make = makers.get(settings["kind"], lambda: own(settings))
    check_head(make, table_shapes(HeadConfig.model_validate(settings), N, D), N, D)


def test_a_sampled_dot_head_conforms_but_for_its_loss() -> None:
    def make() -> DotHead:
        projection = Projection(D, (), True, torch_generator(0, "t"))
        return DotHead(Uniform(N, 16), LOSSES["sampled-softmax"], projection, temperature=0.5)

    check_head(make, {"item": (N, D)}, N, D, exact_loss=False)


@pytest.mark.parametrize("settings", [TREES[0], TREES[3]], ids=["balanced", "huffman-5"])
def test_heads_conform_without_a_compiler(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("xclass.heads.tree.tree", "xclass.heads.tree.path_loss", "xclass.heads.tree.beam_search"):
        monkeypatch.setattr(importlib.import_module(name), "compiles", lambda: False)
    check_head(lambda: own(settings), table_shapes(HeadConfig.model_validate(settings), N, D), N, D)
