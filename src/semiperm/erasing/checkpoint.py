"""Checkpoints of a training run: one safetensors file that holds all that the next step depends on."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from semiperm.erasing.run import Counted, Progressing
from semiperm.erasing.trajectories import States
from semiperm.membrane.membrane import Card

MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class CheckpointError(ValueError):
    """A checkpoint cannot be gone on with; the message says why."""


def beside(out: Path) -> Path:
    """Return where the checkpoint of a membrane's file lies."""
    return out.with_name(out.name.removesuffix(".safetensors") + ".checkpoint.safetensors")


def existing(where: Path | None) -> Path:
    """Return the checkpoint's path, or say that there is none."""
    if where is None:
        raise CheckpointError("to resume, say where the membrane's file will be: its checkpoint lies beside it")
    if not where.is_file():
        raise CheckpointError(f"there is nothing to resume: {where} does not exist")
    return where


def save(
    path: Path,
    card: Card,
    weights: list[Tensor],
    optimizer: torch.optim.Optimizer,
    now: Progressing,
    predict: Counted,
) -> None:
    """Write a checkpoint, whole or not at all."""
    tensors = {f"weight.{number}": weight.detach() for number, weight in enumerate(weights)}
    for number, weight in enumerate(weights):
        for name in MOMENTS:
            if name in optimizer.state.get(weight, {}):
                tensors[f"{name}.{number}"] = optimizer.state[weight][name]
    tensors["generator"] = now.generator.get_state()
    if now.states is not None:
        tensors["states.x"], tensors["states.t"] = now.states.x_SCHW, now.states.t_S
        tensors["states.prompt"] = now.states.prompt_S
    facts = {
        "step": now.step,
        "evaluations": predict.evaluations,
        "losses": now.losses,
        "recipe": card.recipe,
        "concept": card.concept.model_dump(mode="json"),
        "fingerprint": card.fingerprint,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    save_file({name: value.cpu().contiguous() for name, value in tensors.items()}, partial, {"run": json.dumps(facts)})
    partial.replace(path)


def load(
    path: Path,
    card: Card,
    weights: list[Tensor],
    optimizer: torch.optim.Optimizer,
    now: Progressing,
    predict: Counted,
) -> None:
    """Restore weights, optimiser, draws and states in place.

    Raises:
        CheckpointError: the file is damaged, or belongs to another concept, recipe or architecture.
    """
    try:
        with safe_open(path, "pt") as file:
            facts = json.loads((file.metadata() or {}).get("run", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from None
    if not isinstance(facts, dict):
        raise CheckpointError(f"{path} is no checkpoint of semiperm")
    wanted = {"recipe": card.recipe, "concept": card.concept.model_dump(mode="json"), "fingerprint": card.fingerprint}
    for name, value in wanted.items():
        if facts.get(name) != value:
            raise CheckpointError(f"{path} belongs to another {name}: it has {facts.get(name)}, this run {value}")
    with torch.no_grad():
        for number, weight in enumerate(weights):
            weight.copy_(tensors[f"weight.{number}"])
            moments = {name: tensors[f"{name}.{number}"] for name in MOMENTS if f"{name}.{number}" in tensors}
            if moments:
                optimizer.state[weight] = {
                    name: value if name == "step" else value.to(weight) for name, value in moments.items()
                }
    now.generator.set_state(tensors["generator"])
    now.step, now.losses = facts["step"], [(a, b) for a, b in facts["losses"]]
    predict.evaluations = facts["evaluations"]
    if "states.x" in tensors:
        device = weights[0].device
        now.states = States(tensors["states.x"].to(device), tensors["states.t"], tensors["states.prompt"])
