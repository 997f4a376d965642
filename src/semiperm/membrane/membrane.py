"""The membrane: a low-rank adapter for one concept, and the card that says what it is."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import BaseModel, field_validator
from torch import Tensor, nn

from semiperm.concept import Concept
from semiperm.models.base import fingerprint

# R rank, I inputs, O outputs, kh kw kernel


class CoverageError(ValueError):
    """A membrane and a model disagree about the layers.

    Attributes:
        missing: layers of the model that the membrane lacks.
        foreign: layers of the membrane that the model lacks.
        misshapen: layers of both whose sizes differ.
    """

    def __init__(
        self, message: str, *, missing: Sequence[str] = (), foreign: Sequence[str] = (), misshapen: Sequence[str] = ()
    ) -> None:
        super().__init__(message)
        self.missing, self.foreign, self.misshapen = tuple(missing), tuple(foreign), tuple(misshapen)


class Card(BaseModel, extra="forbid", frozen=True):
    """What a membrane says of itself; all of it survives JSON.

    Attributes:
        concept: what is erased.
        base_model: the checkpoint it was made on.
        architecture: modelspec name of the architecture, without "/lora".
        fingerprint: hash of the base's layer names and sizes.
        layers: how many layers it covers; 0 on a card that belongs to no membrane yet.
        rank: rank of every pair.
        recipe: how it was made.
        gate: what the transport needs to open it, if it was fitted.
        versions: packages that took part in the making.
        seed: seed of the making.
        date: day of the making, ISO 8601.
        licence: SPDX name.
        effect: measured effect by name.
    """

    concept: Concept
    base_model: str = ""
    architecture: str = ""
    fingerprint: str = ""
    layers: int = 0
    rank: int = 1
    recipe: dict[str, Any] = {}
    gate: dict[str, Any] | None = None
    versions: dict[str, str] = {}
    seed: int | None = None
    date: str = ""
    licence: str = ""
    effect: dict[str, float] = {}

    @field_validator("recipe", "gate", "effect", mode="before")
    @classmethod
    def _is_json(cls, value: object) -> object:
        # said when the card is written, not hours later when the file is; tuples become the lists that they will be
        try:
            return json.loads(json.dumps(value, allow_nan=False))
        except TypeError as error:
            raise ValueError(f"must be made of JSON values: {error}") from None


@dataclass(frozen=True, eq=False)
class Membrane:
    """One concept's pair (down, up) for every erasable layer, and its card.

    A linear layer has down (R, I) and up (O, R); a convolution has down (R, I, kh, kw) and up (O, R, 1, 1). The scale
    is always 1. See eq. 1 of [[arXiv:2312.16145] One-dimensional Adapter to Rule Them All](https://arxiv.org/abs/2312.16145).

    Raises:
        ValueError: the pairs do not fit each other, or are not what the card promises.
    """

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
            told = " and ".join(f"{rank} (in {path})" for rank, path in ranks.items())
            raise ValueError(f"every layer must have the same rank, but there are {told}")
        facts = {"layers": len(self.down), "rank": next(iter(ranks))}
        if self.card.layers == 0:
            object.__setattr__(self, "card", self.card.model_copy(update=facts))
        for name, fact in facts.items():
            if (promised := getattr(self.card, name)) != fact:
                raise ValueError(f"the card promises {name} = {promised}, but the weights have {fact}")

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
            # this a makes the bound 1 / sqrt(fan in), whatever the rank
            nn.init.kaiming_uniform_(down[path], a=5**0.5, generator=generator)
            up[path] = torch.zeros(outputs, rank, *(1 for _ in kernel))
        facts = {"layers": len(down), "rank": rank, "fingerprint": fingerprint(layers)}
        return cls(card.model_copy(update=facts), down, up)

    @classmethod
    def joined(cls, membranes: Sequence[Self], card: Card) -> Self:
        """Return one membrane whose action is the exact sum of the given ones', its rank the sum of their ranks.

        Raises:
            CoverageError: they cover different layers, or layers of different sizes.
        """
        if not membranes:
            raise ValueError("there is no membrane to join")
        first = membranes[0]
        for other in membranes[1:]:
            problems = {
                "missing": [path for path in first.down if path not in other.down],
                "foreign": [path for path in other.down if path not in first.down],
                "misshapen": [
                    path
                    for path in first.down
                    if path in other.down
                    and (
                        first.down[path].shape[1:] != other.down[path].shape[1:]
                        or first.up[path].shape[0] != other.up[path].shape[0]
                    )
                ],
            }
            if any(problems.values()):
                raise CoverageError(
                    f"cannot join {first._title} with {other._title}: {_told(problems, first='first', other='second')}",
                    **problems,
                )
        down = {path: torch.cat([membrane.down[path] for membrane in membranes]) for path in first.down}
        up = {path: torch.cat([membrane.up[path] for membrane in membranes], dim=1) for path in first.down}
        facts = {
            "layers": len(down),
            "rank": sum(membrane.rank for membrane in membranes),
            "fingerprint": first.card.fingerprint,
        }
        return cls(card.model_copy(update=facts), down, up)

    @staticmethod
    def from_pretrained(source: str | Path, *, revision: str | None = None, filename: str | None = None) -> "Membrane":
        """Read the membrane in a file, a folder or a repository on the Hub (`user/repo`).

        What exists on disk goes before the Hub, unless a revision is asked for. Only a safetensors file is fetched and
        read; one that was fetched before is found again while the Hub cannot be reached.

        Args:
            revision: branch, tag or commit of the repository.
            filename: which one, where there are several.

        Raises:
            HubError: there is no such file, or there are several, or the Hub cannot be asked.
            MembraneFileError: the file is not a sound membrane.
        """
        # importing the Hub's client takes seconds that a local file need not wait for
        from semiperm.membrane import files, hub

        return files.load(hub.find(source, revision=revision, filename=filename))

    def push_to_hub(self, repo: str, *, grid: Path | None = None, private: bool = False) -> str:
        """Write the membrane, a page about it and a picture to a repository on the Hub, and return its address.

        All of it is one commit; a membrane of the same name that is there is replaced. A repository that does not
        exist is made. The page says the licence that is on the card.

        Args:
            grid: PNG of pictures before and after.
            private: let only those see it who may; refused if the repository exists and is public.

        Raises:
            HubError: the Hub cannot be reached, or does not let you; the message says what to do.
        """
        from semiperm.membrane import hub

        return hub.push(self, repo, grid=grid, private=private)

    @property
    def rank(self) -> int:
        return self.card.rank

    @property
    def size(self) -> int:
        """How many numbers it is made of."""
        return sum(tensor.numel() for side in (self.down, self.up) for tensor in side.values())

    @property
    def _title(self) -> str:
        made_for = self.card.base_model or self.card.architecture
        return f"the membrane for {self.card.concept.name!r}" + (f" (made for {made_for})" if made_for else "")

    def with_card(self, **changes: Any) -> Self:
        """Return the same weights under a card with some fields changed."""
        return type(self)(Card.model_validate(self.card.model_dump() | changes), self.down, self.up)

    def scaled(self, factor: float) -> Self:
        """Return the membrane that acts `factor` times as strongly."""
        return type(self)(self.card, self.down, {path: up * factor for path, up in self.up.items()})

    def to(self, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Self:
        """Return the membrane in another precision or place; what is there already is shared, not copied."""

        def moved(side: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {path: tensor.to(device=device, dtype=dtype) for path, tensor in side.items()}

        return type(self)(self.card, moved(self.down), moved(self.up))

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
            told = _told(problems, first="model", other="membrane")
            raise CoverageError(
                f"{self._title} does not fit this model: {told}. A membrane can only be carried to checkpoints of the "
                "architecture that it was made for.",
                **problems,
            )
        return type(self)(self.card, {path: down[path] for path in layers}, {path: up[path] for path in layers})


def sizes(path: str, layer: nn.Module) -> tuple[int, int, tuple[int, ...]]:
    """Return inputs, outputs and kernel of a layer; the kernel is () for a linear layer.

    Raises:
        CoverageError: the layer is neither an `nn.Linear` nor an `nn.Conv2d`.
    """
    # from the declared sizes, since a quantised weight has a shape of its own
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features, ()
    if isinstance(layer, nn.Conv2d):
        return layer.in_channels, layer.out_channels, tuple(layer.kernel_size)
    raise CoverageError(
        f"layer {path} is a {type(layer).__name__}; membranes sit on linear layers and 2-D convolutions only",
        misshapen=[path],
    )


def listed(names: Iterable[str], limit: int = 6) -> str:
    """Return the first names for a message, and how many more there are."""
    found = list(names)
    rest = len(found) - limit
    return ", ".join(found[:limit]) + (f" and {rest} more" if rest > 0 else "")


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


def _told(problems: Mapping[str, Sequence[str]], *, first: str, other: str) -> str:
    parts = {
        "missing": f"only the {first} has",
        "foreign": f"only the {other} has",
        "misshapen": "of different sizes are",
    }
    return "; ".join(f"{parts[kind]} {listed(paths)}" for kind, paths in problems.items() if paths)
