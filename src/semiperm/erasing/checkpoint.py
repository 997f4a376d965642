"""Checkpoints of a training run: one safetensors file that holds all that the next step depends on."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from semiperm.atomic import whole
from semiperm.erasing.run import Run
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


def save(path: Path, card: Card, run: Run) -> None:
    """Write a checkpoint, whole or not at all."""
    tensors = {f"weight.{number}": weight.detach() for number, weight in enumerate(run.weights)}
    for number, weight in enumerate(run.weights):
        for name in MOMENTS:
            if name in run.optimizer.state.get(weight, {}):
                tensors[f"{name}.{number}"] = run.optimizer.state[weight][name]
    tensors["generator"] = run.generator.get_state()
    if run.states is not None:
        tensors["states.x"], tensors["states.t"] = run.states.x_SCHW, run.states.t_S
        tensors["states.prompt"] = run.states.prompt_S
    facts = {
        "step": run.step,
        "evaluations": run.predict.evaluations,
        "losses": run.losses,
        **_belongs(card),
    }
    with whole(path) as draft:
        save_file({name: v.cpu().contiguous() for name, v in tensors.items()}, draft, {"run": json.dumps(facts)})


def _belongs(card: Card) -> dict[str, Any]:
    return {
        "recipe": card.recipe,
        "concept": card.concept.model_dump(mode="json"),
        "base model": card.base_model,
        "fingerprint": card.fingerprint,
    }


def load(path: Path, card: Card, run: Run) -> None:
    """Restore weights, optimiser, draws and states in place.

    Raises:
        CheckpointError: the file is damaged, or belongs to another concept, recipe, model or architecture.
    """
    try:
        with safe_open(path, "pt") as file:
            facts = json.loads((file.metadata() or {}).get("run", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from None
    if not isinstance(facts, dict):
        raise CheckpointError(f"{path} is no checkpoint of semiperm")
    for name, value in _belongs(card).items():
        if facts.get(name) != value:
            raise CheckpointError(f"{path} belongs to another {name}: it has {facts.get(name)}, this run {value}")
    with torch.no_grad():
        for number, weight in enumerate(run.weights):
            weight.copy_(tensors[f"weight.{number}"])
            moments = {name: tensors[f"{name}.{number}"] for name in MOMENTS if f"{name}.{number}" in tensors}
            if moments:
                run.optimizer.state[weight] = {
                    name: value if name == "step" else value.to(weight) for name, value in moments.items()
                }
    run.generator.set_state(tensors["generator"])
    run.step, run.losses = facts["step"], [(a, b) for a, b in facts["losses"]]
    run.predict.evaluations = facts["evaluations"]
    if "states.x" in tensors:
        device = run.weights[0].device
        run.states = States(tensors["states.x"].to(device), tensors["states.t"], tensors["states.prompt"])
