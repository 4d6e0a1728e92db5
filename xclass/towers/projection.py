"""The end of a tower: an optional residual MLP, then optional normalisation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from xclass.towers.unit import unit_rows


class Projection(nn.Module):
    """x → x + MLP(x), then x / |x| when ``normalize``.

    The MLP is Linear → ReLU for each width of ``hidden``, then Linear back to D. Its last layer starts at 0, so that
    training starts from x itself (and a closed-form start stays what it is). No ``hidden``: no MLP.

    Args:
        dim: D of input and output.
        hidden: widths of the hidden layers.
        normalize: unit length, so that the inner product is the cosine. A zero vector stays zero.
        generator: of the initial weights.
    """

    def __init__(self, dim: int, hidden: Sequence[int], normalize: bool, generator: torch.Generator) -> None:
        super().__init__()
        self.dim, self.normalize = dim, normalize
        self.mlp = _mlp(dim, hidden, generator) if hidden else None

    @property
    def is_identity(self) -> bool:
        """Whether a vector comes out as it went in."""
        return self.mlp is None and not self.normalize

    def forward(self, vectors: Tensor) -> Tensor:
        """(B, D) → (B, D)."""
        if self.mlp is not None:
            vectors = vectors + self.mlp(vectors)
        return unit_rows(vectors) if self.normalize else vectors


def _mlp(dim: int, hidden: Sequence[int], generator: torch.Generator) -> nn.Sequential:
    layers: list[nn.Module] = []
    width = dim
    for next_width in hidden:
        linear = nn.Linear(width, next_width)
        nn.init.kaiming_uniform_(linear.weight, nonlinearity="relu", generator=generator)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
        width = next_width
    last = nn.Linear(width, dim)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, last)
