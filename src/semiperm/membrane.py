"""The membrane: a low-rank adapter for one concept with a gate."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from semiperm.erasure import Card, Erasure, Kind
from semiperm.errors import CoverageError, listed
from semiperm.guarded import Guard, fitted, judge_prompts
from semiperm.models.layers import fingerprint, sizes
from semiperm.models.model import DiffusionModel

# R rank, I inputs, O outputs, kh kw kernel, B prompts


@dataclass(frozen=True, eq=False)
class Membrane(Erasure):
    """One concept's pair (down, up) for every erasable layer, and its card.

    A linear layer has down (R, I) and up (O, R); a convolution has down (R, I, kh, kw) and up (O, R, 1, 1). The scale
    is always 1. See eq. 1 of [[arXiv:2312.16145] One-dimensional Adapter to Rule Them All](https://arxiv.org/abs/2312.16145).

    Raises:
        ValueError: the pairs do not fit each other, or differ from the card.
    """

    kind: ClassVar[Kind] = "membrane"

    card: Card
    down: dict[str, Tensor]
    up: dict[str, Tensor]

    def __post_init__(self) -> None:
        if not self.down:
            raise ValueError("a membrane needs at least one layer")
        if odd := sorted(self.down.keys() ^ self.up.keys()):
            raise ValueError(f"down and up must cover the same layers, but only one of them has {listed(odd)}")
        ranks: dict[int, str] = {}
        for path in self.down:
            ranks.setdefault(_rank_of_pair(path, self.down[path], self.up[path]), path)
        if len(ranks) > 1:
            found = " and ".join(f"{rank} (in {path})" for rank, path in ranks.items())
            raise ValueError(f"every layer must have the same rank, but there are {found}")
        facts = {"layers": len(self.down), "rank": next(iter(ranks))}
        if self.card.layers == 0:
            object.__setattr__(self, "card", self.card.model_copy(update=facts))
        for name, fact in facts.items():
            if (stated := getattr(self.card, name)) != fact:
                raise ValueError(f"the card promises {name} = {stated}, but the weights have {fact}")

    @classmethod
    def zero(
        cls, layers: Mapping[str, nn.Module], card: Card, rank: int = 1, generator: torch.Generator | None = None
    ) -> Self:
        """Return the membrane that changes nothing yet: up = 0, down Kaiming-uniform with a = sqrt(5), in fp32.

        The card's `layers`, `rank` and `fingerprint` are filled in from the layers.
        """
        if rank < 1:
            raise ValueError(f"the rank must be at least 1, not {rank}")
        down: dict[str, Tensor] = {}
        up: dict[str, Tensor] = {}
        for path, layer in layers.items():
            inputs, outputs, kernel = sizes(path, layer)
            down[path] = torch.empty(rank, inputs, *kernel)
            # With this a the bound is 1 / sqrt(fan in), whatever the rank.
            nn.init.kaiming_uniform_(down[path], a=5**0.5, generator=generator)
            up[path] = torch.zeros(outputs, rank, *(1 for _ in kernel))
        facts = {"layers": len(down), "rank": rank, "fingerprint": fingerprint(layers)}
        return cls(card.model_copy(update=facts), down, up)

    @property
    def rank(self) -> int:
        return self.card.rank

    @property
    def size(self) -> int:
        """Number of parameters."""
        return sum(tensor.numel() for side in (self.down, self.up) for tensor in side.values())

    @property
    def _title(self) -> str:
        made_for = self.card.base_model or self.card.architecture
        return f"the membrane for {self.card.title!r}" + (f" (made for {made_for})" if made_for else "")

    def with_card(self, **changes: Any) -> Self:
        """Return the same weights under a card with some fields changed."""
        return type(self)(Card.model_validate(self.card.model_dump() | changes), self.down, self.up)

    def to(self, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Self:
        """Return the membrane in another precision or on another device; tensors that are there already are shared."""

        def moved(side: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {path: tensor.to(device=device, dtype=dtype) for path, tensor in side.items()}

        return type(self)(self.card, moved(self.down), moved(self.up))

    @contextmanager
    def on(self, model: DiffusionModel) -> Iterator[Guard]:
        """Wear the membrane alone; yields the guard."""
        with Guard(model, [self]) as guarded:
            yield guarded

    def opens(self, model: DiffusionModel, prompts: Sequence[str]) -> Tensor | None:
        """Return how far the membrane's own gate opens for each prompt: (B,)."""
        return judge_prompts([fitted(self.card)], model, list(prompts))[:, 0]

    def delta(self, path: str) -> Tensor:
        """Return what the membrane, fully open, adds to the weight of one layer: (O, I) or (O, I, kh, kw)."""
        down, up = self.down[path], self.up[path]
        return (up.flatten(1) @ down.flatten(1)).unflatten(1, down.shape[1:])

    def check_covers(self, layers: Mapping[str, nn.Module]) -> None:
        """Raise a CoverageError that names the layers unless the membrane covers exactly these."""
        self.fitted_to(layers)

    def fitted_to(self, layers: Mapping[str, nn.Module]) -> Self:
        """Return the membrane in the shapes of these layers; 1x1 convolutions and linear layers convert without loss.

        Raises:
            CoverageError: layers are missing, foreign or of other sizes.
        """
        problems = {
            "missing": [path for path in layers if path not in self.down],
            "foreign": [path for path in self.down if path not in layers],
            "misshapen": [],
        }
        down: dict[str, Tensor] = {}
        up: dict[str, Tensor] = {}
        for path in layers.keys() & self.down.keys():
            inputs, outputs, kernel = sizes(path, layers[path])
            down[path], up[path] = _respelled(self.down[path], len(kernel)), _respelled(self.up[path], len(kernel))
            if down[path].shape[1:] != (inputs, *kernel) or up[path].shape[0] != outputs:
                problems["misshapen"].append(path)
        problems["misshapen"].sort()
        if any(problems.values()):
            parts = {
                "missing": "only the model has",
                "foreign": "only the membrane has",
                "misshapen": "of different sizes are",
            }
            found = "; ".join(f"{parts[kind]} {listed(paths)}" for kind, paths in problems.items() if paths)
            raise CoverageError(
                f"{self._title} does not fit this model: {found}. A membrane can only be carried to checkpoints of the "
                "architecture that it was made for.",
                **problems,
            )
        return type(self)(self.card, {path: down[path] for path in layers}, {path: up[path] for path in layers})


def _rank_of_pair(path: str, down: Tensor, up: Tensor) -> int:
    fits = (
        down.is_floating_point()
        and up.is_floating_point()
        and down.ndim == up.ndim
        and down.ndim in (2, 4)
        and down.shape[0] == up.shape[1]
        and all(edge == 1 for edge in up.shape[2:])
        and 0 not in (*down.shape, *up.shape)
    )
    if not fits:
        raise ValueError(
            f"layer {path}: down {tuple(down.shape)} {down.dtype} and up {tuple(up.shape)} {up.dtype} are not a pair "
            "of one rank"
        )
    return down.shape[0]


def _respelled(tensor: Tensor, kernel_axes: int) -> Tensor:
    if kernel_axes == 2 and tensor.ndim == 2:
        return tensor[:, :, None, None]
    if kernel_axes == 0 and tensor.ndim == 4 and tensor.shape[2:] == (1, 1):
        return tensor[:, :, 0, 0]
    return tensor
