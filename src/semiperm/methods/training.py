"""One training loop for every method, attack and network here: seeds, checkpoints, resume, progress and stopping.

The loop prints nothing and installs no signal handler. A caller that wants Ctrl-C to stop between two steps gives a
`stop` function.
"""

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from semiperm import paths
from semiperm.concept import Concept
from semiperm.erasure import Erasure
from semiperm.errors import CheckpointError, Stopped, clipped, listed
from semiperm.files import safetensors as files
from semiperm.files.container import SUFFIX
from semiperm.files.strict import from_json
from semiperm.paths import whole


@dataclass(frozen=True)
class Progress:
    """Where a training is after a step.

    Attributes:
        name: what is trained.
        step: number of steps done.
        steps: number of steps in all.
        figures: losses and counters by name.
    """

    name: str
    step: int
    steps: int
    figures: Mapping[str, float]


@dataclass
class Run:
    """What the caller of a training decides beside its settings.

    Attributes:
        checkpoint: where to keep the checkpoint; None keeps none.
        resume: resume from the checkpoint, which must be there.
        progress: called after each step.
        stop: asked after each step whether to stop.
        on_checkpoint: called at each checkpoint with the number of steps done and the erasure so far.
        licence: SPDX name for the card of what is made.
        warn: called with a sentence for each checkpoint that cannot be written; a RuntimeWarning without it.
    """

    checkpoint: Path | None = None
    resume: bool = False
    progress: Callable[[Progress], None] | None = None
    stop: Callable[[], bool] | None = None
    on_checkpoint: Callable[[int, Erasure], None] | None = None
    licence: str = ""
    warn: Callable[[str], None] | None = None

    def check_resume(self) -> None:
        """Raise a CheckpointError unless there is a checkpoint or none is needed."""
        if not self.resume:
            return
        if self.checkpoint is None:
            raise CheckpointError("To resume, name the output file: its checkpoint lies beside it.")
        if not self.checkpoint.is_file():
            raise CheckpointError(f"There is nothing to resume: {self.checkpoint} does not exist.")

    def discard(self) -> None:
        """Delete the checkpoint."""
        if self.checkpoint is not None:
            self.checkpoint.unlink(missing_ok=True)


def beside(out: Path) -> Path:
    """Return the path of the checkpoint that belongs to an output file."""
    return out.with_name(out.name.removesuffix(SUFFIX) + files.CHECKPOINT)


def claim(out: Path, concepts: Sequence[Concept], *, resume: bool = False, force: bool = False) -> Path:
    """Check that a training may write its erasure at `out` and its checkpoint beside it, and return `out`.

    Args:
        resume: the training resumes from that checkpoint.
        force: replace an erasure or a checkpoint that is there.

    Raises:
        CheckpointError: there is nothing to resume, or there is a checkpoint that would be lost.
        MembraneFileError, SemipermError: see `semiperm.files.safetensors.claim`.
    """
    kept = beside(out)
    if resume and not kept.is_file() and out.is_file():
        raise CheckpointError(
            f"There is nothing to resume: {out} is finished and has no checkpoint beside it. To make it again, give "
            "--force instead of --resume."
        )
    files.claim(out, concepts, force=force)
    # What stands there is resumed, or is replaced below.
    paths.claim(kept, force=True)
    if resume or not kept.exists():
        return out
    if not force:
        raise CheckpointError(
            f"{kept} is the checkpoint of a training that was stopped, and would be lost: resume it with --resume, "
            "name another file, or start again with --force."
        )
    if (other := _owner(kept)) and other.casefold() not in {concept.name.casefold() for concept in concepts}:
        raise CheckpointError(
            f"{kept} is the checkpoint of a training for {other!r} and is not replaced by that of another concept: "
            "name another file, or delete it yourself."
        )
    return out


def _owner(path: Path) -> str:
    """Return the name of the concept that a checkpoint belongs to; empty if it does not say."""
    try:
        with safe_open(path, "pt") as file:
            name = from_json((file.metadata() or {})["training"])["owner"]["concept"]["name"]
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return ""
    return name if isinstance(name, str) else ""


class State(Protocol):
    """What a step depends on beside the weights, the optimiser and the step's number."""

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors to keep."""
        ...

    def facts(self) -> dict[str, Any]:
        """Return what else to keep, as JSON."""
        ...

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Continue from what was kept."""
        ...


@dataclass
class Training:
    """A training: `descend` runs it.

    Attributes:
        name: what is trained, for progress.
        weights: the tensors that the optimiser changes.
        optimizer: holds exactly these weights.
        gradients: computes the gradients of a step, by its number, and returns its losses by name.
        steps: number of steps.
        learning_rate: the learning rate of a step, by its number.
        state: what a step depends on beside weights and optimiser.
        owner: what the checkpoint belongs to, by name; a resumed training must have the same.
        due: whether to write a checkpoint after so many steps.
        after_step: called after each optimiser step.
        snapshot: returns the erasure as it is, for `Run.on_checkpoint`.
    """

    name: str
    weights: Sequence[Tensor]
    optimizer: torch.optim.Optimizer
    gradients: Callable[[int], Mapping[str, float]]
    steps: int
    learning_rate: Callable[[int], float]
    state: State
    owner: Mapping[str, Any]
    due: Callable[[int], bool]
    after_step: Callable[[], None] = lambda: None
    snapshot: Callable[[], Erasure] | None = None


def descend(training: Training, run: Run) -> None:
    """Run a training to its end.

    A run that is stopped and resumed gives the same weights, bit for bit, as one that is not.

    Raises:
        CheckpointError: there is nothing to resume, or the checkpoint is damaged or belongs to another training.
        CheckpointError: it was to stop, but its checkpoint cannot be written.
        Stopped: `run.stop` returned True; the step at hand was finished and a checkpoint written.
    """
    run.check_resume()
    first = restore(run.checkpoint, training) if run.resume and run.checkpoint else 0
    for step in range(first, training.steps):
        lost = ""
        for group in training.optimizer.param_groups:
            group["lr"] = training.learning_rate(step)
        training.optimizer.zero_grad(set_to_none=True)
        figures = training.gradients(step)
        training.optimizer.step()
        training.after_step()
        done = step + 1
        if run.progress is not None:
            run.progress(Progress(training.name, done, training.steps, figures))
        stopping = run.stop is not None and run.stop()
        if stopping or training.due(done):
            lost = _kept(run, training, done)
            if run.on_checkpoint is not None and training.snapshot is not None:
                run.on_checkpoint(done, training.snapshot())
            # The callback may have asked for it.
            stopping = stopping or (run.stop is not None and run.stop())
            if lost and not stopping:
                _warn(run, f"Training of {training.name} goes on, but {lost}")
        if stopping and lost:
            raise CheckpointError(f"Training of {training.name} was stopped, and {lost}")
        if stopping:
            raise Stopped(f"Training of {training.name} was stopped after {done} of {training.steps} steps.")


def _kept(run: Run, training: Training, done: int) -> str:
    """Write a checkpoint if the run keeps one; return what is wrong if it cannot be written.

    A full disk is no reason to end the training: it goes on, and the next checkpoint may succeed.
    """
    if run.checkpoint is None:
        return ""
    try:
        keep(run.checkpoint, training, done)
    except OSError as error:
        before = "the checkpoint before it is kept" if run.checkpoint.exists() else "there is none before it"
        return (
            f"the checkpoint of step {done} of {training.steps} cannot be written to {run.checkpoint} "
            f"({error.strerror or error}); {before}."
        )
    return ""


def _warn(run: Run, message: str) -> None:
    if run.warn is None:
        warnings.warn(message, RuntimeWarning, stacklevel=3)
    else:
        run.warn(message)


def keep(path: Path, training: Training, done: int) -> None:
    """Write a checkpoint, whole or not at all: one safetensors file with everything that the next step depends on.

    Raises:
        OSError: it cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    for number, weight in enumerate(training.weights):
        tensors[f"weight.{number}"] = weight
        for name, value in training.optimizer.state.get(weight, {}).items():
            tensors[f"optimizer.{number}.{name}"] = torch.as_tensor(value)
    tensors |= {f"state.{name}": value for name, value in training.state.tensors().items()}
    plain = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
    facts = {"step": done, "owner": training.owner, "state": training.state.facts()}
    with whole(path) as draft:
        try:
            save_file(plain, draft, {"training": json.dumps(facts | {"digest": _digest(plain, facts)})})
        except SafetensorError as error:
            # This is how safetensors reports a full disk.
            raise OSError(str(error)) from None


def restore(path: Path, training: Training) -> int:
    """Restore a checkpoint in place and return the number of steps done.

    Raises:
        CheckpointError: the file is damaged or belongs to another training; nothing was changed.
    """
    try:
        with safe_open(path, "pt") as file:
            facts = from_json((file.metadata() or {}).get("training", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, OSError) as error:
        raise CheckpointError(f"The checkpoint {path} is damaged and cannot be resumed: {clipped(error)}") from None
    if not _is_whole(facts):
        raise CheckpointError(f"{path} is not a checkpoint of semiperm.")
    if _digest(tensors, facts) != facts["digest"]:
        raise CheckpointError(f"The checkpoint {path} is damaged: its contents do not match its digest.")
    owner = json.loads(json.dumps(training.owner))
    for name, value in owner.items():
        if (other := facts["owner"].get(name)) != value:
            raise CheckpointError(
                f"The checkpoint {path} belongs to another {name}: it has {_difference(other, value)}. Start without "
                "resuming, or choose another output file."
            )
    done = facts["step"]
    if done > training.steps:
        raise CheckpointError(
            f"The checkpoint {path} has {done} steps done, but this training has only {training.steps}. Ask for "
            f"{done} steps or more, or start without resuming."
        )
    wanted = {f"weight.{number}": weight.shape for number, weight in enumerate(training.weights)}
    kept = {name: value.shape for name, value in tensors.items() if name.startswith("weight.")}
    if kept != wanted:
        name = next(name for name in {**wanted, **kept} if kept.get(name) != wanted.get(name))
        raise CheckpointError(f"The checkpoint {path} has other weights: {name} has another size or is missing.")
    moments = [_moments(tensors, number) for number in range(len(training.weights))]
    for number, weight in enumerate(training.weights):
        if odd := [name for name, value in moments[number].items() if value.ndim and value.shape != weight.shape]:
            raise CheckpointError(f"The checkpoint {path} is damaged: optimizer.{number}.{odd[0]} has another size.")
    state = {name.removeprefix("state."): value for name, value in tensors.items() if name.startswith("state.")}
    before = training.state.tensors(), training.state.facts()
    try:
        training.state.restore(state, facts["state"])
    # The digest is right, so somebody made this file by other means.
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        training.state.restore(*before)
        raise CheckpointError(f"The checkpoint {path} has a state that cannot be resumed: {clipped(error)}") from None
    with torch.no_grad():
        for number, weight in enumerate(training.weights):
            weight.copy_(tensors[f"weight.{number}"])
            if moments[number]:
                # The counter of steps stays on the CPU, where AdamW keeps it.
                training.optimizer.state[weight] = {
                    name: value if value.ndim == 0 else value.to(weight) for name, value in moments[number].items()
                }
    return done


def _is_whole(facts: Any) -> bool:
    """Return whether a checkpoint's facts are all there."""
    if not isinstance(facts, dict) or not {"step", "owner", "state", "digest"} <= facts.keys():
        return False
    step, owner, state = facts["step"], facts["owner"], facts["state"]
    return type(step) is int and step >= 0 and isinstance(owner, dict) and isinstance(state, dict)


def _moments(tensors: Mapping[str, Tensor], number: int) -> dict[str, Tensor]:
    """Return what the optimiser keeps of a weight, by name."""
    prefix = f"optimizer.{number}."
    return {name.removeprefix(prefix): tensors[name] for name in tensors if name.startswith(prefix)}


def _digest(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> str:
    """Return the SHA-256 of all that a checkpoint holds but the digest itself."""
    plain = {name: value for name, value in facts.items() if name != "digest"}
    found = hashlib.sha256(json.dumps(plain, sort_keys=True).encode())
    for name in sorted(tensors):
        value = tensors[name]
        found.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        found.update(value.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _difference(kept: Any, wanted: Any) -> str:
    """Return what differs between two JSON values, the fields alone where both are objects."""
    if isinstance(kept, dict) and isinstance(wanted, dict):
        fields = [name for name in {**kept, **wanted} if kept.get(name) != wanted.get(name)]
        return listed(f"{name} = {_short(kept.get(name))}, not {_short(wanted.get(name))}" for name in fields)
    return f"{_short(kept)}, not {_short(wanted)}"


def _short(value: Any) -> str:
    return clipped(repr(value), 80)
