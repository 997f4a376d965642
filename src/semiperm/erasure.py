"""Erasures: what a method returns, a file holds, a protocol measures and an attack attacks.

There are three kinds. A membrane (`semiperm.membrane`) is an adapter with a gate; a weight delta changes named weights;
a sampler acts at inference, in guidance, embeddings or attention.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import BaseModel, field_validator
from torch import Tensor, nn

from semiperm.concept import Concept
from semiperm.errors import BaseModelError, CoverageError, listed
from semiperm.gate import ProbeGate
from semiperm.models.clip_text import name_among
from semiperm.models.layers import is_plain
from semiperm.models.model import DiffusionModel
from semiperm.stack import bare_parameters

Kind = Literal["membrane", "delta", "sampler"]


class Card(BaseModel, extra="forbid", frozen=True, allow_inf_nan=False):
    """What an erasure says of itself; all of it survives JSON.

    Attributes:
        concepts: what is erased.
        kind: membrane, delta or sampler.
        base_model: name of the checkpoint that it was made on.
        architecture: modelspec name of the architecture, without "/lora".
        fingerprint: hash of the base's layer names and sizes.
        method: name of the method that made it; empty if unknown.
        settings: the method's settings.
        layers: number of layers that a membrane covers; 0 on a card that belongs to no membrane yet.
        rank: rank of every pair of a membrane.
        gate: the fitted gate of a membrane.
        versions: versions of the packages that took part.
        seed: seed of everything that was drawn.
        date: ISO 8601.
        licence: SPDX name.
        effect: measured effect by name.
    """

    concepts: tuple[Concept, ...]
    kind: Kind = "membrane"
    base_model: str = ""
    architecture: str = ""
    fingerprint: str = ""
    method: str = ""
    settings: dict[str, Any] = {}
    layers: int = 0
    rank: int = 1
    gate: ProbeGate | None = None
    versions: dict[str, str] = {}
    seed: int | None = None
    date: str = ""
    licence: str = ""
    effect: dict[str, float] = {}

    @field_validator("concepts")
    @classmethod
    def _has_a_concept(cls, concepts: tuple[Concept, ...]) -> tuple[Concept, ...]:
        if not concepts:
            raise ValueError("a card names at least one concept")
        return concepts

    @field_validator("settings", "effect", mode="before")
    @classmethod
    def _is_json(cls, value: object) -> object:
        # Check when the card is made, not hours later when the file is written; tuples become the lists they will be.
        try:
            return json.loads(json.dumps(value, allow_nan=False))
        except TypeError as error:
            raise ValueError(f"must be made of JSON values: {error}") from None

    @property
    def concept(self) -> Concept:
        """The first concept; a membrane has no other."""
        return self.concepts[0]

    @property
    def title(self) -> str:
        """What the erasure is called in messages and lists: the names of its concepts."""
        return listed([concept.name for concept in self.concepts], 3)


class Erasure(ABC):
    """Something that keeps a model from drawing concepts, put on and taken off without a trace.

    Attributes:
        kind: membrane, delta or sampler.
        card: what it says of itself.
    """

    kind: ClassVar[Kind]
    card: Card

    @abstractmethod
    def on(self, model: DiffusionModel) -> AbstractContextManager[Any]:
        """Return a context in which the model is erased; it yields what to call like the pipeline.

        Afterwards the model is what it was before, bit for bit.
        """

    @abstractmethod
    def opens(self, model: DiffusionModel, prompts: Sequence[str]) -> Tensor | None:
        """Return the permeability for each prompt: (B,), or None for erasures that always act.

        It is exactly 0 where the output is the bare model's by construction.
        """


class Sampler(Erasure):
    """An erasure that acts while pictures are sampled, and changes no weight."""

    kind = "sampler"

    def opens(self, model: DiffusionModel, prompts: Sequence[str]) -> Tensor | None:
        return None


@dataclass(frozen=True, eq=False)
class WeightDelta(Erasure):
    """Differences of named weights of a pipeline's networks.

    Attributes:
        deltas: what is added to each weight, by "<part of the pipeline>.<name in its state dict>", for instance
            "unet.conv_in.weight".
        base_digest: hash of the named base weights, see `base_digest`; empty to allow any base of the same sizes.
    """

    kind: ClassVar[Kind] = "delta"

    card: Card
    deltas: Mapping[str, Tensor]
    base_digest: str

    def for_any_base(self) -> Self:
        """Return the delta without the check of the base weights."""
        return replace(self, base_digest="")

    @contextmanager
    def on(self, model: DiffusionModel) -> Iterator[Any]:
        """Add the differences for the duration of the context.

        Raises:
            CoverageError: the model lacks a weight, or has it in another size.
            BaseModelError: the base weights are not the ones that the delta was made for, or cannot be changed exactly.
        """
        weights = named_weights(model, self.deltas)
        if misshapen := [name for name, delta in self.deltas.items() if weights[name].shape != delta.shape]:
            raise CoverageError(
                f"The weight delta for {self.card.title!r} does not fit this model: the sizes differ of "
                f"{listed(misshapen)}.",
                misshapen=misshapen,
            )
        if self.base_digest and base_digest(weights) != self.base_digest:
            raise BaseModelError(
                f"The weight delta for {self.card.title!r} was made for the weights of "
                f"{self.card.base_model or 'another model'}, and {model.name} has others; use for_any_base() "
                "to apply it all the same."
            )
        before = {name: weight.data for name, weight in weights.items()}
        try:
            for name, weight in weights.items():
                change = self.deltas[name].to(weight.device, torch.float32)
                weight.data = (before[name].float() + change).to(weight.dtype)
            yield model.pipeline
        finally:
            for name, weight in weights.items():
                weight.data = before[name]

    def opens(self, model: DiffusionModel, prompts: Sequence[str]) -> Tensor | None:
        return None


def named_weights(model: DiffusionModel, names: Mapping[str, Tensor] | Sequence[str]) -> dict[str, nn.Parameter]:
    """Return the weights of a pipeline's networks by "<part>.<name>", with `text_model.` or without.

    Raises:
        CoverageError: the pipeline has no such weight.
        BaseModelError: a weight is quantised or offloaded, so that it cannot be changed and restored exactly.
    """
    parts = {name.partition(".")[0] for name in names}
    modules = {part: getattr(model.pipeline, part, None) for part in parts}
    known = {
        f"{part}.{path}": weight
        for part, module in modules.items()
        if isinstance(module, nn.Module)
        for path, weight in bare_parameters(module).items()
    }
    found: dict[str, nn.Parameter] = {}
    own_names: dict[str, str] = {}
    for name in names:
        own = name_among(name, known)
        if own is None:
            raise CoverageError(f"{model.name} has no weight {name}.", foreign=[name])
        if own in own_names:
            raise CoverageError(f"{own_names[own]} and {name} are the same weight of {model.name}.", foreign=[name])
        own_names[own], weight = name, known[own]
        if weight.is_meta or not is_plain(weight):
            raise BaseModelError(f"The weight {name} of {model.name} is quantised or offloaded and cannot be changed.")
        found[name] = weight
    return found


def base_digest(weights: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of named weights, their names and types included."""
    found = hashlib.sha256()
    for name in sorted(weights):
        weight = weights[name].detach().cpu().contiguous()
        found.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        found.update(weight.flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
