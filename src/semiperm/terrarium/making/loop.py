"""Training the terrarium's networks on the common loop: batches, schedule, averaged weights, several processes."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from semiperm.methods.training import Progress, Run, Training, descend

CHECKPOINT_SECONDS = 120.0

OnProgress = Callable[[Progress], None]


def choose(seed: int, step: int, batch: int, count: int) -> np.ndarray:
    """Return the rows of a step's batch; they depend on seed and step only, so a resumed run is identical."""
    return np.random.default_rng([seed, step]).integers(count, size=batch)


def rate(step: int, steps: int, warm_up: int = 100, cool_down: float = 0.3) -> float:
    """Return the factor of the learning rate: linear warm-up, plateau, linear decay over the last `cool_down` share."""
    rise = min(1.0, (step + 1) / warm_up)
    fall = (steps - step) / max(1.0, cool_down * steps)
    return max(0.01, min(rise, fall, 1.0))


def share() -> tuple[int, int]:
    """Return the rank of this process and the number of processes that train together."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def average_gradients(model: nn.Module) -> None:
    """Replace all gradients by their means over the processes that train together."""
    _, together = share()
    if together == 1:
        return
    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= together
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def fit(
    name: str,
    model: nn.Module,
    loss: Callable[[int], Tensor],
    *,
    folder: Path,
    steps: int,
    learning_rate: float,
    seed: int,
    warm_up: int = 100,
    cool_down: float = 0.3,
    weight_decay: float = 0.01,
    ema: float | None = None,
    progress: OnProgress | None = None,
) -> nn.Module:
    """Train `model` on `loss(step)`; resume from the checkpoint in `folder`, written every two minutes, if any.

    Args:
        ema: decay of averaged weights.
        progress: called after each step, in the first process only.

    Returns:
        The module with the averaged weights if `ema` is given, otherwise `model`.
    """
    rank, together = share()
    weights = list(model.parameters())
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(ema)) if ema else None
    saved = time.monotonic()

    def gradients(step: int) -> dict[str, float]:
        # The draws of a step depend on seed and step only, so a resumed run is identical.
        torch.manual_seed((seed * 1_000_003 + step) * together + rank)
        value = loss(step)
        value.backward()
        average_gradients(model)
        nn.utils.clip_grad_norm_(weights, 1.0)
        return {"loss": float(value.detach())}

    def due(done: int) -> bool:
        nonlocal saved
        if rank > 0 or (done < steps and time.monotonic() - saved < CHECKPOINT_SECONDS):
            return False
        saved = time.monotonic()
        return True

    checkpoint = folder / f"{name}.checkpoint.safetensors"
    model.train()
    training = Training(
        name=name,
        weights=weights,
        optimizer=torch.optim.AdamW(weights, learning_rate, weight_decay=weight_decay, betas=(0.9, 0.99)),
        gradients=gradients,
        steps=steps,
        learning_rate=lambda step: learning_rate * rate(step, steps, warm_up, cool_down),
        state=_Modules(model, average),
        owner={"part": name, "seed": seed, "steps": steps, "learning rate": learning_rate},
        due=due,
        after_step=(lambda: average.update_parameters(model)) if average is not None else (lambda: None),
    )
    descend(
        training,
        Run(checkpoint=checkpoint, resume=checkpoint.exists(), progress=progress if rank == 0 else None),
    )
    trained = average.module if average is not None else model
    return trained.eval()


class _Modules:
    """What a step depends on beside the weights: the buffers of the model, and the averaged weights."""

    def __init__(self, model: nn.Module, average: AveragedModel | None) -> None:
        self._live = {f"model.{name}": value for name, value in model.named_buffers()}
        if average is not None:
            self._live |= {f"average.{name}": value for name, value in average.state_dict(keep_vars=True).items()}

    def tensors(self) -> dict[str, Tensor]:
        return dict(self._live)

    def facts(self) -> dict[str, Any]:
        return {}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        for name, value in self._live.items():
            value.copy_(tensors[name])
