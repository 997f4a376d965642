"""What yields pictures from shots: a bare pipeline, a guard, or a folder of pictures that another tool made."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from semiperm.api import guard
from semiperm.erasure import Erasure
from semiperm.errors import StoreError
from semiperm.evaluation.store import MANIFEST, MAX_MANIFEST_BYTES, Store
from semiperm.models.model import DiffusionModel
from semiperm.paths import read
from semiperm.pictures import Shot, generate

SAMPLED = 64


class Source(Protocol):
    """What a run needs of everything that it measures."""

    name: str

    def settings(self) -> dict[str, Any]:
        """Return all that decides its pictures besides the shots: equal settings give equal pictures."""
        ...

    def opened(self, prompts: Sequence[str]) -> list[dict[str, float]]:
        """Return the permeability of each erasure for each prompt; where all are 0 the picture is the bare model's."""
        ...

    def make(self, shots: Sequence[Shot]) -> np.ndarray:
        """Return pictures (N, H, W, 3) uint8 of shots that agree in guidance and in having a negative prompt."""
        ...


class BareSource:
    """A model without erasures; its settings are computed once."""

    def __init__(self, model: DiffusionModel, steps: int, guidance: float) -> None:
        self.name = "bare"
        self.model = model
        self.steps, self.guidance = steps, guidance

    def settings(self) -> dict[str, Any]:
        return self._settings

    @cached_property
    def _settings(self) -> dict[str, Any]:
        return {
            "model": self.model.name,
            "weights": digest(self.model),
            "scheduler": type(self.model.pipeline.scheduler).__name__,
            "scheduler_config": _plain(self.model.pipeline.scheduler.config),
            "precision": str(self.model.dtype),
            "device": self.model.device.type,
            "steps": self.steps,
            "guidance": self.guidance,
            "versions": {name: version(name) for name in ("torch", "diffusers", "transformers")},
        }

    def opened(self, prompts: Sequence[str]) -> list[dict[str, float]]:
        return [{} for _ in prompts]

    def make(self, shots: Sequence[Shot]) -> np.ndarray:
        return photograph(self.model.pipeline, shots, self.steps, self.guidance)


class GuardSource:
    """A bare source's model wearing erasures, which are put on for each batch and taken off again.

    Attributes:
        erasures: names and hashes.
        gate: "fitted", "paper" or "always"; empty if none of the erasures has a gate.
    """

    def __init__(self, bare: BareSource, erasures: Sequence[Erasure], gate: str) -> None:
        self.name = "guarded"
        self.bare = bare
        self.guard = guard(bare.model, erasures, gate=gate)
        self.guard.eject()
        gated = [erasure for erasure in erasures if erasure.kind == "membrane"]
        # the guard's order: membranes, then the others
        ordered = [*gated, *(erasure for erasure in erasures if erasure.kind != "membrane")]
        self.erasures = dict(zip(self.guard.names, map(erasure_digest, ordered), strict=True))
        self.gate = gate if gated else ""

    def settings(self) -> dict[str, Any]:
        return {**self.bare.settings(), "gate": self.gate, "erasures": self.erasures}

    def opened(self, prompts: Sequence[str]) -> list[dict[str, float]]:
        # Judged with all erasures on, because some change what the text encoder gives the gates.
        with self.guard:
            found = self.guard.permeability(prompts)
        always = dict.fromkeys((name for name in self.guard.names if name not in found.names), 1.0)
        return [row | always for row in found.rows()]

    def make(self, shots: Sequence[Shot]) -> np.ndarray:
        with self.guard:
            return photograph(self.guard, shots, self.bare.steps, self.bare.guidance)


class FolderSource:
    """Pictures in a folder with a manifest, made by any tool.

    Raises:
        StoreError: the folder has no manifest, or the manifest is malformed.
    """

    def __init__(self, folder: Path) -> None:
        if not os.path.lexists(folder / MANIFEST):
            raise StoreError(
                f"{folder} has no {MANIFEST}: it needs one line of JSON a picture, with file, prompt and seed"
            )
        self.name = folder.name
        self.folder = folder
        self.store = Store(folder)

    def settings(self) -> dict[str, Any]:
        manifest = read(self.folder / MANIFEST, MAX_MANIFEST_BYTES)
        return {"folder": str(self.folder), "manifest": hashlib.sha256(manifest).hexdigest()}

    def opened(self, prompts: Sequence[str]) -> list[dict[str, float]]:
        # Unknown, so no picture is taken from the bare model.
        return [{"unknown": 1.0} for _ in prompts]

    def make(self, shots: Sequence[Shot]) -> np.ndarray:
        return np.stack([self.store.load(shot) for shot in shots])


def photograph(pipeline: Any, shots: Sequence[Shot], steps: int, guidance: float) -> np.ndarray:
    """Return the pictures of one batch of shots: (N, H, W, 3) uint8."""
    negatives = [shot.negative for shot in shots]
    own = shots[0].guidance
    return generate(
        pipeline,
        [shot.prompt for shot in shots],
        [shot.seed for shot in shots],
        steps=steps,
        guidance=guidance if own is None else own,
        batch=len(shots),
        negative_prompt=negatives if any(negatives) else None,
    )


def digest(model: DiffusionModel) -> str:
    """Return a short hash of 64 numbers of each tensor of a pipeline; another fine-tune has another hash."""
    found = hashlib.sha256()
    for part in ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3", "vae"):
        module = getattr(model.pipeline, part, None)
        if not isinstance(module, torch.nn.Module):
            continue
        for name, value in sorted(module.state_dict().items()):
            flat = value.detach().flatten()
            some = flat[:: max(1, len(flat) // SAMPLED)][:SAMPLED].float().cpu()
            found.update(f"{part}.{name}{tuple(value.shape)}".encode())
            found.update(some.numpy().tobytes())
    return found.hexdigest()[:16]


def erasure_digest(erasure: Erasure) -> str:
    """Return a short hash of an erasure's tensors and of all else that decides how it acts."""
    card = erasure.card
    acts = [erasure.kind, card.gate, card.concepts]
    if erasure.kind == "sampler":
        acts += [card.method, sorted(card.settings.items())]
    found = hashlib.sha256(repr(acts).encode())
    for attribute, held in sorted(vars(erasure).items()):
        if isinstance(held, Mapping):
            for name, value in sorted(held.items()):
                if isinstance(value, Tensor):
                    found.update(f"{attribute}.{name}".encode())
                    found.update(value.detach().float().cpu().numpy().tobytes())
    return found.hexdigest()[:16]


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    # as JSON, which is how settings are stored and compared
    return json.loads(json.dumps({name: v for name, v in config.items() if not name.startswith("_")}, default=str))
