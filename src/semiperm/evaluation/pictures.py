"""Making pictures on fixed seeds, so that two models can be compared picture by picture."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

STEPS = 25
GUIDANCE = 5.0
BATCH = 8


def generate(
    pipeline: Any,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    batch: int = BATCH,
    **more: Any,
) -> np.ndarray:
    """Return one picture for each prompt and its seed: (N, H, W, 3) uint8.

    `pipeline` is a diffusers pipeline or a Guard; every picture has a generator of its own, so it does not depend on
    the others of its batch.
    """
    if len(prompts) != len(seeds):
        raise ValueError(f"there are {len(prompts)} prompts, but {len(seeds)} seeds")
    quiet(pipeline)
    made: list[np.ndarray] = []
    for start in range(0, len(prompts), batch):
        some = list(prompts[start : start + batch])
        generators = [torch.Generator().manual_seed(seed) for seed in seeds[start : start + batch]]
        images = pipeline(
            prompt=some, generator=generators, num_inference_steps=steps, guidance_scale=guidance, **more
        ).images
        made += [np.asarray(image.convert("RGB")) for image in images]
    return np.stack(made)


def quiet(pipeline: Any) -> None:
    """Draw no progress bar for every batch."""
    getattr(pipeline, "pipeline", pipeline).set_progress_bar_config(disable=True)
