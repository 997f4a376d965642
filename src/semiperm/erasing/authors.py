"""The published code's training step, reproduced where it differs from the paper; only for comparison.

It denoises one picture a step to a random depth and throws the trajectory away; asks the denoiser about that state at
a timestep that is 33 to 42 steps too noisy; takes Gaussian vectors for anchors; and, because of the order in which
it puts them together, trains on the empty prompt for half of them and drops half of the vectors. Facts from the
repository Con6924/SPM.
"""

import math
from itertools import islice

import torch
from torch import Tensor

from semiperm.concept import Concept
from semiperm.erasing import trajectories
from semiperm.erasing.anchors import Anchors
from semiperm.erasing.objective import anchoring_loss, erasing_loss, total_loss
from semiperm.erasing.recipe import Recipe
from semiperm.erasing.run import Run
from semiperm.membrane.stack import Stack
from semiperm.models.base import DiffusionModel, TextFeatures, concatenate

WARM_UP = 500
RESTARTS = 3


def factor(recipe: Recipe, step: int) -> float:
    """Return the learning rate's factor: 500 steps of warm-up, then a cosine that starts afresh three times."""
    warm_up = min(WARM_UP, recipe.steps // 6)
    if step < warm_up:
        return step / warm_up
    share = (step - warm_up) / max(1, recipe.steps - warm_up)
    return 0.5 * (1 + math.cos(math.pi * (share * RESTARTS % 1)))


def asked_timestep(depth: int, steps: int) -> int:
    """Return the timestep that the published code asks about after `depth` of `steps` denoising steps."""
    return 999 - int(depth * 1000 / steps)


def gaussian_anchors(target_TC: Tensor, empty_TC: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return the embeddings (count, T, C) that the published code anchors: the second half of [u, s1, u, s2, ...]."""
    rows = []
    while len(rows) < 2 * count:
        noise = torch.randn(target_TC.shape, generator=generator)
        noise /= noise.norm()
        similarity = torch.cosine_similarity(target_TC.flatten().float().cpu(), noise.flatten(), dim=0)
        if torch.rand((), generator=generator) < 1 - similarity:
            scale = torch.rand((), generator=generator) * 0.4 + 0.8
            rows += [empty_TC, (scale * noise).to(target_TC) * target_TC.norm()]
    return torch.stack(rows[count:])


def gaussian_features(
    target: TextFeatures, empty: TextFeatures, count: int, generator: torch.Generator
) -> TextFeatures:
    """Return `gaussian_anchors` of the first target prompt, with that prompt's further conditions."""
    both = concatenate([target.select([0]), empty.select([0])])
    vectors = gaussian_anchors(both.hidden_BTC[0], both.hidden_BTC[1], count, generator)
    return TextFeatures(vectors, condition=both.select([0] * count).condition)


def texts(model: DiffusionModel, concept: Concept) -> tuple[TextFeatures, TextFeatures, TextFeatures]:
    """Return the features of target, surrogate and empty prompt, of which the published code uses one each."""
    target, surrogate, empty = (model.encode([text]) for text in (concept.targets[0], concept.surrogate, ""))
    return target, surrogate, empty


def step(
    model: DiffusionModel,
    stack: Stack,
    recipe: Recipe,
    run: Run,
    encoded: tuple[TextFeatures, TextFeatures, TextFeatures],
    held: Anchors,
) -> tuple[float, float]:
    """Do one training step of the published code, leave its gradients, return (erasing loss, anchoring loss)."""
    target, instead, empty = encoded
    depth = int(torch.randint(1, recipe.trajectory_steps, (1,), generator=run.generator))
    stack.set_permeability(torch.ones(1, 1))
    # the published code's own schedule, whatever the model's: states at t = 957 - 33 k
    schedule = model.schedule(recipe.trajectory_steps, steps_offset=0, timestep_spacing="leading")
    path = trajectories.denoise(
        model, run.predict, schedule, target, guidance=recipe.guidance, generator=run.generator, empty=run.empty
    )
    _, x = next(islice(path, depth, None))
    t = torch.tensor([asked_timestep(depth, recipe.trajectory_steps)], device=model.device)
    count = recipe.anchors
    if recipe.anchor_kind == "gaussian":
        anchors = gaussian_features(target, empty, count, run.generator)
    else:
        anchors = held.features.select(held.draw(count, recipe.neighbours, run.generator))
    asked = concatenate([TextFeatures(target.hidden_BTC, condition=target.condition), anchors])
    stack.close()
    with torch.no_grad():
        both = concatenate([asked, TextFeatures(instead.hidden_BTC, condition=instead.condition)])
        bare = run.predict(x.expand(count + 2, -1, -1, -1), t.expand(count + 2), both)
    stack.set_permeability(torch.ones(1, 1))
    guarded = run.predict(x.expand(count + 1, -1, -1, -1), t.expand(count + 1), asked)
    erasing = erasing_loss(guarded[:1], bare[:1], bare[-1:], recipe.eta)
    anchored = anchoring_loss(guarded[1:], bare[1:-1])
    total_loss(erasing, anchored, recipe.anchor_weight).backward()
    return float(erasing.detach()), float(anchored.detach())
