"""A task with its names resolved into live objects."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from semiperm.concept import Concept
from semiperm.erasure import Erasure
from semiperm.evaluation import worlds
from semiperm.evaluation.making import Make, maker
from semiperm.evaluation.task import Task
from semiperm.evaluation.worlds.interface import World
from semiperm.files.safetensors import load
from semiperm.methods.training import Progress
from semiperm.models.load import load_model
from semiperm.models.model import DiffusionModel


@dataclass(frozen=True)
class Context:
    """What protocols see of a run.

    Attributes:
        task: the task, for its numbers.
        world: asks for concepts and judges pictures.
        model: the model that the erasures are put on.
        make: makes the erasures that a protocol needs beside the given ones.
        erasures: those that were given, or made by `with_erasures`.
        targets: the concepts that count as erased: the erasures', or the task's if there are no erasures.
        models: further models.
    """

    task: Task
    world: World
    model: DiffusionModel
    make: Make
    erasures: tuple[Erasure, ...] = ()
    targets: tuple[Concept, ...] = ()
    models: tuple[DiffusionModel, ...] = ()

    @property
    def gate(self) -> str:
        return self.task.gate

    @property
    def seeds(self) -> int:
        """Pictures a prompt."""
        return self.task.seeds or self.world.seeds

    @property
    def method(self) -> str:
        """The method that protocols make erasures with."""
        return self.task.method or "spm"


def world_of(task: Task) -> World:
    """Return the world that a task is measured in.

    Raises:
        ProtocolError: there is no such world, or it has no such option.
    """
    return worlds.find(task.world or worlds.world_of(task.model), task.options)


def resolve(
    task: Task,
    folder: Path,
    *,
    progress: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Context:
    """Load what a task names.

    Args:
        folder: where erasures that the run makes are kept.
        progress, stop: as for `semiperm.erase`, for erasures that the run makes.

    Raises:
        ModelLoadError: a model cannot be loaded.
        MembraneFileError: a file is not an erasure.
        ProtocolError: there is no such world, or it has no such option.
    """
    world = world_of(task)
    model = load_model(task.model)
    make = maker(model, folder, progress=progress, stop=stop)
    layers = model.erasable_layers()
    erasures = tuple(load(path, layers=layers) for path in task.erasures)
    targets = tuple(concept for erasure in erasures for concept in erasure.card.concepts) or task.targets
    return Context(task, world, model, make, erasures, targets, tuple(load_model(name) for name in task.models))


def with_erasures(context: Context) -> Context:
    """Return the context with erasures of its targets by the task's method, unless some were given.

    Raises:
        MethodError, SettingsError: an erasure cannot be made.
    """
    task = context.task
    if context.erasures or not task.method:
        return context
    made = tuple(context.make(concept, task.method, task.settings) for concept in context.targets)
    return replace(context, erasures=made)
