"""The loop that every part of the terrarium is trained with: exact to resume, small enough to read."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from rich.console import Console
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from semiperm.atomic import whole

CHECKPOINT_SECONDS = 120.0
REPORT_EVERY = 50


def choose(seed: int, step: int, batch: int, count: int) -> np.ndarray:
    """Return the rows of a step's batch: a function of seed and step alone, so that resuming is exact."""
    return np.random.default_rng([seed, step]).integers(count, size=batch)


def rate(step: int, steps: int, warm_up: int = 100, cool_down: float = 0.3) -> float:
    """Return the learning rate's factor: a short rise, a plateau and a linear fall over the last `cool_down` share."""
    rise = min(1.0, (step + 1) / warm_up)
    fall = (steps - step) / max(1.0, cool_down * steps)
    return max(0.01, min(rise, fall, 1.0))


def share() -> tuple[int, int]:
    """Return this process's rank and how many train together."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def average_gradients(model: nn.Module) -> None:
    """Replace every gradient by its mean over the processes that train together."""
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
) -> nn.Module:
    """Train `model` on `loss(step)`, writing `folder/name.pt` every two minutes and going on from it when it is there.

    Returns the averaged weights' module if `ema` is given, the model itself otherwise.
    """
    rank, together = share()
    console = Console(quiet=rank > 0)
    checkpoint = folder / f"{name}.pt"
    optimizer = torch.optim.AdamW(model.parameters(), learning_rate, weight_decay=weight_decay, betas=(0.9, 0.99))
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(ema)) if ema else None
    first = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if average is not None:
            average.load_state_dict(state["average"])
        first = state["step"]
        console.print(f"{name}: going on from step {first}")

    def save(step: int) -> None:
        if rank:
            return
        state = {"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
        if average is not None:
            state["average"] = average.state_dict()
        with whole(checkpoint) as draft:
            torch.save(state, draft)

    model.train()
    began = saved = time.monotonic()
    recent: list[float] = []
    for step in range(first, steps):
        torch.manual_seed((seed * 1_000_003 + step) * together + rank)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * rate(step, steps, warm_up, cool_down)
        optimizer.zero_grad(set_to_none=True)
        value = loss(step)
        value.backward()
        average_gradients(model)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if average is not None:
            average.update_parameters(model)
        recent.append(float(value.detach()))
        if (step + 1) % REPORT_EVERY == 0:
            each = (time.monotonic() - began) / (step + 1 - first)
            left = each * (steps - step - 1) / 60
            console.print(
                f"{name}: step {step + 1}/{steps} loss {np.mean(recent):.4f} {each:.3f} s/step {left:.1f} min left"
            )
            recent.clear()
        if time.monotonic() - saved > CHECKPOINT_SECONDS:
            save(step + 1)
            saved = time.monotonic()
    if first < steps:
        save(steps)
    trained = average.module if average is not None else model
    return trained.eval()


def pixels(pictures: np.ndarray) -> Tensor:
    """Turn (B, H, W, 3) uint8 into (B, 3, H, W) float in -1..1."""
    return torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)
