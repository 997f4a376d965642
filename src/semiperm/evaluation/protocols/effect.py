"""What erasures do to their targets and to everything else, opened by the prompt and always open."""

from collections.abc import Sequence

import numpy as np
from torch.nn.functional import normalize

from semiperm.concept import Concept
from semiperm.evaluation.context import Context
from semiperm.evaluation.protocol import ArmPlan, Protocol
from semiperm.evaluation.subject import NOT_ASKED, OTHER_KINDS, PARAPHRASE, SAME_KIND, TARGET, Subject
from semiperm.evaluation.worlds.interface import World, asked_as
from semiperm.models.model import DiffusionModel
from semiperm.pictures import Shot, spread

NEIGHBOURS = 4
ORDINARY = 1000
STYLE_SEEDS = 4
PAINTED = 4
# Rows of a second object beside a target have a group of their own: the erasures act on these pictures.
BESIDE = "beside a target"
OPENED, ALWAYS = "opened by the prompt", "always open"


def rows(context: Context, arm: ArmPlan) -> list[Subject]:
    """Return the targets by name, in other words and beside another object; all other objects and styles; and ordinary
    prompts, which must not open anything, where there is something to open."""
    world, targets, seeds = context.world, context.targets, context.seeds
    world.check(targets)
    kinds = {asked_as(concept.kind) for concept in targets}
    found = [row for concept in targets for row in _asking(world, concept, targets, seeds)]
    objects = SAME_KIND if "object" in kinds else OTHER_KINDS
    near: dict[str, None] = {}
    for concept in targets:
        near |= dict.fromkeys(neighbours(context.model, world, concept, targets))
    others = _other_objects(world, targets)
    found += _row("nearest neighbours", objects, [pair for pair in others if pair[0] in near])
    found += _row("other objects", objects, [pair for pair in others if pair[0] not in near])
    styles = SAME_KIND if "style" in kinds else OTHER_KINDS
    found += _row("other styles", styles, _other_styles(world, targets))
    if arm.erasures:
        prompts = tuple(world.ordinary(ORDINARY, targets))
        found.append(Subject("ordinary prompts", NOT_ASKED, "kept", prompts=prompts))
    return found


def arms(context: Context) -> list[ArmPlan]:
    """Return the erasures as the gate opens them, and always open."""
    if not context.erasures:
        return []
    return [ArmPlan(OPENED, context.erasures, context.gate), ArmPlan(ALWAYS, context.erasures, "always")]


def neighbours(model: DiffusionModel, world: World, concept: Concept, targets: Sequence[Concept] = ()) -> list[str]:
    """Return the objects whose names the text encoder places nearest to an object's, targets left out."""
    if asked_as(concept.kind) != "object":
        return []
    erased = {target.name for target in targets}
    names = [name for name in world.names("object") if name != concept.name and name not in erased]
    features = model.encode([world.noun(name) for name in [concept.name, *names]])
    assert features.pooled_BC is not None
    vectors = normalize(features.pooled_BC.float(), dim=-1)
    alike = (vectors[1:] @ vectors[0]).tolist()
    return [name for _, name in sorted(zip(alike, names, strict=True), reverse=True)[:NEIGHBOURS]]


def _asking(world: World, concept: Concept, targets: Sequence[Concept], seeds: int) -> list[Subject]:
    name, label = concept.name, world.label(concept)
    by_name = spread(world.by_name(concept), seeds, 7000)
    found = [Subject(f"{name}: by name", TARGET, "gone", by_name, label=label, text=name)]
    if other := world.other_words(concept):
        shots = spread(other, seeds, 8000)
        found.append(Subject(f"{name}: in other words", PARAPHRASE, "gone", shots, label=label, text=name))
    if pairs := _pairs(world, concept, targets, seeds):
        # Both rows show the same pictures: the target should be gone from them, and the other object kept.
        shots = tuple(shot for _, shot in pairs)
        found.append(Subject(f"{name}: beside another", PARAPHRASE, "gone", shots, label=label))
        labels = tuple((other,) for other, _ in pairs)
        found.append(Subject(f"beside {name}", BESIDE, "kept", shots, labels=labels))
    return found


def _pairs(world: World, concept: Concept, targets: Sequence[Concept], seeds: int) -> list[tuple[str, Shot]]:
    """Return prompts for the target and another object, each with that object's name."""
    if asked_as(concept.kind) != "object":
        return []
    erased = {target.name for target in targets}
    rng = np.random.default_rng(5)
    others = [name for name in world.names("object") if name != concept.name]
    found: list[tuple[str, Shot]] = []
    for seed in range(seeds):
        other = others[int(rng.integers(len(others)))]
        pair = (concept.name, other) if seed % 2 else (other, concept.name)
        if other not in erased:
            found.append((other, Shot(" and ".join(map(world.noun, pair)), 30_000 + seed)))
    return found


def _other_objects(world: World, targets: Sequence[Concept]) -> list[tuple[str, Shot]]:
    erased = {target.name for target in targets}
    names = enumerate(world.names("object"))
    return [(name, Shot(world.prompt(name), 9000 + 100 * number)) for number, name in names if name not in erased]


def _other_styles(world: World, targets: Sequence[Concept]) -> list[tuple[str, Shot]]:
    erased = {target.name for target in targets}
    painted = world.unrelated(targets)[:PAINTED]
    return [
        (look, Shot(world.prompt(painted[seed % len(painted)], look), 20_000 + 100 * number + seed))
        for number, look in enumerate(world.names("style"))
        for seed in range(STYLE_SEEDS)
        if look not in erased and look != world.plain
    ]


def _row(name: str, group: str, pairs: Sequence[tuple[str, Shot]]) -> list[Subject]:
    if not pairs:
        return []
    shots, labels = tuple(shot for _, shot in pairs), tuple((label,) for label, _ in pairs)
    return [Subject(name, group, "kept", shots, labels=labels)]


PROTOCOL = Protocol(
    name="effect",
    version=1,
    shows="the target is gone however it is asked for, all else is drawn as before, and ordinary prompts open nothing",
    cost="terrarium: about 2 minutes on 2 cores",
    metrics=("found", "opens", "alteration"),
    rows=rows,
    arms=arms,
    proofs=16,
)
