"""What a protocol is: which pictures are asked for, and what is measured on them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from semiperm.concept import Concept, Kind
from semiperm.evaluation.store import Pictures, Shot
from semiperm.membrane.membrane import Membrane
from semiperm.models.base import DiffusionModel

Role = Literal["erased", "kept", "other domain", "asked otherwise", "not asked"]
Form = Literal["terrarium", "full"]


class ProtocolError(ValueError):
    """A protocol cannot be run with what it was given; the message says what is missing."""


@dataclass(frozen=True)
class Subject:
    """One row of a protocol's table: pictures about one thing.

    Attributes:
        name: what the row is called.
        role: erased; kept, of the target's own kind; of another domain; or the target in other words.
        shots: the pictures to make.
        label: what a classifier should see if nothing were erased; empty where no classifier can tell.
        text: what CLIP compares the pictures with; empty for their own prompts.
        surrogate: the text that the CLIP error rate puts against `text`.
        original: the picture that must not be copied, or None.
        reference: pictures that the distances are taken to instead of the bare model's, or None.
    """

    name: str
    role: Role
    shots: tuple[Shot, ...]
    label: str = ""
    text: str = ""
    surrogate: str = ""
    original: np.ndarray | None = None
    reference: Pictures | None = None


@dataclass(frozen=True)
class Variant:
    """Membranes on a model in one way; a protocol that compares ways has several.

    Attributes:
        spared: names of subjects that the job erases but this way does not, so that they count as kept.
    """

    name: str
    membranes: tuple[Membrane, ...]
    transport: str
    model: DiffusionModel | None = None
    spared: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Job:
    """What a protocol is asked to measure.

    Attributes:
        model: the model that the membranes are put on.
        membranes: at least one for the protocols that erase; none to measure the bare model.
        targets: the concepts that count as erased: the membranes', unless there are none.
        seeds: how often a prompt is asked; the protocol's own number by default.
        prompts: a CSV file with prompts, for the full forms that need one.
        reference: a folder of reference pictures, for distances to real ones.
        models: further models, for `transfer`.
        make: returns the membrane of a concept by a changed recipe, for the protocols that compare recipes.
    """

    model: DiffusionModel
    membranes: tuple[Membrane, ...]
    transport: str
    form: Form
    targets: tuple[Concept, ...]
    seeds: int | None = None
    prompts: Path | None = None
    reference: Path | None = None
    models: tuple[DiffusionModel, ...] = ()
    make: Callable[..., Membrane] | None = None


def as_given(job: Job) -> list[Variant]:
    """Return the one variant of most protocols: all membranes that were given, on the given model."""
    return [Variant("guarded", job.membranes, job.transport)]


@dataclass(frozen=True)
class Protocol:
    """A declaration: what is asked for, what is measured, what it shows and costs.

    Attributes:
        metrics: names of `semiperm.evaluation.figures.FIGURES`.
        subjects: returns the rows for a job.
        variants: returns the ways to put membranes on that are compared; one by default.
        reported: the name of the paper's table to show beside, see `semiperm.evaluation.reported`.
        kind: what a target is that comes by name alone.
        steps, guidance: the full form's settings, which are the paper's; the terrarium's own are 25 and 5.
    """

    name: str
    version: int
    shows: str
    cost: str
    metrics: tuple[str, ...]
    subjects: Callable[[Job], list[Subject]]
    variants: Callable[[Job], list[Variant]] = field(default=as_given)
    reported: str = ""
    kind: Kind = "object"
    steps: int = 30
    guidance: float = 7.5


def spread(prompts: Sequence[str], count: int, first_seed: int) -> tuple[Shot, ...]:
    """Return `count` shots that go through the prompts in turn, each with a seed of its own."""
    return tuple(Shot(prompts[number % len(prompts)], first_seed + number) for number in range(count))


def every(prompts: Sequence[str], seeds: int, first_seed: int) -> tuple[Shot, ...]:
    """Return every prompt with `seeds` seeds."""
    return tuple(Shot(prompt, first_seed + seed) for prompt in prompts for seed in range(seeds))
