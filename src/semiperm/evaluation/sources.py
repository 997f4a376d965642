"""Whatever yields pictures from prompts: a bare pipeline, a guard, or a folder of pictures that another method made."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from semiperm.evaluation.pictures import generate
from semiperm.evaluation.store import Shot, Store
from semiperm.guarded import Guard
from semiperm.membrane.membrane import Membrane
from semiperm.models.base import DiffusionModel

SAMPLED = 64


class Source(Protocol):
    """What a run asks of anything that it measures."""

    name: str

    def settings(self) -> dict[str, Any]:
        """Return all that decides its pictures besides the shots: pictures with the same settings are the same."""
        ...

    def opened(self, prompts: Sequence[str]) -> list[dict[str, float]]:
        """Return how far each membrane opens for each prompt; where all are closed the picture is the bare model's."""
        ...

    def make(self, shots: Sequence[Shot]) -> np.ndarray:
        """Return pictures (N, H, W, 3) uint8 of shots that agree in guidance and in having a negative prompt."""
        ...


class BareSource:
    """A model without membranes; its settings are read once."""

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
    """A bare source's model that wears membranes, which are put on for each batch and taken off again."""

    def __init__(self, bare: BareSource, guard: Guard, transport: str) -> None:
        self.name = "guarded"
        self.bare, self.guard, self.transport = bare, guard, transport
        self.membranes = {name: membrane_digest(guard.stack.membrane(name)) for name in guard.names}

    def settings(self) -> dict[str, Any]:
        return {**self.bare.settings(), "transport": self.transport, "membranes": self.membranes}

    def opened(self, prompts: Sequence[str]) -> list[dict[str, float]]:
        return self.guard.permeability(prompts).rows()

    def make(self, shots: Sequence[Shot]) -> np.ndarray:
        with self.guard:
            return photograph(self.guard, shots, self.bare.steps, self.bare.guidance)


class FolderSource:
    """Pictures that lie in a folder with a manifest, made by any method.

    Raises:
        StoreError: the manifest is malformed.
        FileNotFoundError: the folder has no manifest.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / "manifest.jsonl").exists():
            raise FileNotFoundError(
                f"{folder} has no manifest.jsonl: one line of JSON a picture with file, prompt and seed is needed"
            )
        self.name = folder.name
        self.folder = folder
        self.store = Store(folder)

    def settings(self) -> dict[str, Any]:
        manifest = (self.folder / "manifest.jsonl").read_bytes()
        return {"folder": str(self.folder), "manifest": hashlib.sha256(manifest).hexdigest()}

    def opened(self, prompts: Sequence[str]) -> list[dict[str, float]]:
        # unknown, so that no picture is taken for the bare model's
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
    """Return a short hash of a pipeline's weights, of 64 numbers of every tensor: another fine-tune has another."""
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


def membrane_digest(membrane: Membrane) -> str:
    """Return a short hash of a membrane's weights and of what opens it."""
    found = hashlib.sha256(repr((membrane.card.gate, membrane.card.concept)).encode())
    for side in (membrane.down, membrane.up):
        for path in sorted(side):
            found.update(path.encode())
            found.update(side[path].detach().float().cpu().numpy().tobytes())
    return found.hexdigest()[:16]


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    # as JSON, which is how settings are kept and compared
    return json.loads(json.dumps({name: v for name, v in config.items() if not name.startswith("_")}, default=str))
