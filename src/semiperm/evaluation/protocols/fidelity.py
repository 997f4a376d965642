"""How well a model draws its world: what it is asked for should be found in the pictures of the bare model."""

import numpy as np

from semiperm.concept import Concept
from semiperm.evaluation.context import Context
from semiperm.evaluation.protocol import ArmPlan, Protocol
from semiperm.evaluation.subject import Subject
from semiperm.evaluation.worlds.interface import World
from semiperm.pictures import Shot

# groups of rows; `semiperm.evaluation.bars` has the bar of each
PLAIN = "object named, plain style"
STYLED = "object named, all styles"
STYLE = "style named"
TWO = "both objects of two"
SYNONYM = "object named by synonym"
MEMORISED = "memorised: mean absolute error"
COUPLES = 52


def rows(context: Context, arm: ArmPlan) -> list[Subject]:
    """Return a row for each object, style, couple of objects, synonym and memorised picture that the world knows."""
    world, seeds = context.world, context.seeds
    return [
        *_objects(world, seeds),
        *_styled(world, seeds),
        *_couples(world, seeds),
        *_synonyms(world, seeds),
        *_memorised(world, seeds),
    ]


def _shots(prompt: str, number: int, seeds: int, share: int = 1) -> tuple[Shot, ...]:
    return tuple(Shot(prompt, 1000 * number + seed) for seed in range(max(1, seeds // share)))


def _objects(world: World, seeds: int) -> list[Subject]:
    return [
        Subject(name, PLAIN, "kept", _shots(world.prompt(name), number, seeds), label=name)
        for number, name in enumerate(world.names("object"))
    ]


def _styled(world: World, seeds: int) -> list[Subject]:
    objects = world.names("object")
    found = []
    for place, look in enumerate(world.names("style")):
        per_object = [
            (name, _shots(world.prompt(name, look), place * len(objects) + number, seeds, 4))
            for number, name in enumerate(objects)
        ]
        shots = tuple(shot for _, some in per_object for shot in some)
        labels = tuple((name,) for name, some in per_object for _ in some)
        # Both rows show the same pictures: one asks for the objects, the other for the style.
        found.append(Subject(f"objects, {look}", STYLED, "kept", shots, labels=labels))
        found.append(Subject(f"style, {look}", STYLE, "kept", shots, label=look))
    return sorted(found, key=lambda subject: subject.group == STYLE)


def _couples(world: World, seeds: int) -> list[Subject]:
    rng = np.random.default_rng(0)
    objects = world.names("object")
    found: dict[str, Subject] = {}
    for number in range(COUPLES):
        first, second = (objects[i] for i in rng.choice(len(objects), 2, replace=False))
        shots = _shots(f"{world.noun(first)} and {world.noun(second)}", number, seeds, 4)
        name = f"{first} & {second}"
        if name in found:
            shots = (*found[name].shots, *shots)
        found[name] = Subject(name, TWO, "kept", shots, labels=((first, second),) * len(shots))
    return list(found.values())


def _synonyms(world: World, seeds: int) -> list[Subject]:
    pairs = [(name, prompt) for name in world.names("object") for prompt in world.synonyms(Concept(name=name))]
    return [
        Subject(f"{prompt} ({name})", SYNONYM, "kept", _shots(prompt, number, seeds, 2), label=name)
        for number, (name, prompt) in enumerate(pairs)
    ]


def _memorised(world: World, seeds: int) -> list[Subject]:
    found = []
    number = 0
    for title in world.names("memorised"):
        concept = Concept(name=title, kind="memorised")
        shots: list[Shot] = []
        for prompt in world.by_name(concept):
            shots += _shots(prompt, number, seeds, 4)
            number += 1
        label = world.label(concept)
        found.append(Subject(title, MEMORISED, "kept", tuple(shots), label=label, original=world.original(concept)))
    return found


PROTOCOL = Protocol(
    name="fidelity",
    version=1,
    shows="the bare model draws what its world knows",
    cost="terrarium: about 15 minutes on 2 cores",
    metrics=("found", "deviation"),
    rows=rows,
)
