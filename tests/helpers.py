"""Random membranes for tests."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from semiperm.concept import Concept
from semiperm.erasure import Card
from semiperm.membrane import Membrane


def card(name: str = "cat", **facts: Any) -> Card:
    return Card.model_validate({"concepts": (Concept(name=name),), **facts})


def random_membrane(
    layers: Mapping[str, nn.Module], *, rank: int = 1, seed: int = 0, size: float = 0.3, name: str = "cat"
) -> Membrane:
    """A membrane that does something everywhere."""
    generator = torch.Generator().manual_seed(seed)
    zero = Membrane.zero(layers, card(name), rank, generator)
    up = {path: size * torch.randn(up.shape, generator=generator) for path, up in zero.up.items()}
    return Membrane(zero.card, zero.down, up)


def scaled(membrane: Membrane, factor: float) -> Membrane:
    """A membrane that changes every layer `factor` times as much."""
    return Membrane(membrane.card, membrane.down, {path: factor * up for path, up in membrane.up.items()})


def same_bits(a: Membrane, b: Membrane) -> bool:
    """Whether two membranes have the same layers in the same order with the same bits."""
    return list(a.down) == list(b.down) and all(
        x[path].dtype == y[path].dtype and torch.equal(x[path], y[path])
        for x, y in ((a.down, b.down), (a.up, b.up))
        for path in a.down
    )


def inputs(batch: int = 2, seed: int = 0, width: int = 16) -> tuple[Tensor, int, Tensor]:
    """What a tiny UNet is called with: latents, a timestep, text features."""
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(batch, 4, 8, 8, generator=generator),
        301,
        torch.randn(batch, 5, width, generator=generator),
    )
