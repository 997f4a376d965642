"""The self-check that every membrane's card carries."""

from collections.abc import Mapping

import torch

from semiperm.membrane import Membrane
from semiperm.methods.sentences import target_prompts
from semiperm.methods.spm.anchors import Anchors
from semiperm.methods.trajectories import Counted
from semiperm.models.model import DiffusionModel
from semiperm.stack import Stack

# share of the anchors that are nearest neighbours of the target
NEAR = 0.25


def in_words(effect: Mapping[str, float]) -> str:
    """Return the figures of a self-check as one sentence."""
    return (
        f"target moved {effect['target_moved']:.2f}, anchors {effect['anchors_moved']:.2f} "
        "(1 is the distance from the target to its surrogate)"
    )


def self_check(
    model: DiffusionModel,
    membrane: Membrane,
    held: Anchors,
    nothing: str,
    seed: int,
    predict: Counted,
    count: int = 8,
) -> dict[str, float]:
    """Measure how far the predictions for the target and for anchors move, always open.

    The states are noise at timesteps spread over the schedule. Both figures are relative to the bare model's distance
    between the target and what it should become: 0 is no change, 1 as far as the surrogate; near (1 + eta) is what
    the objective asks of the target.
    """
    generator = torch.Generator().manual_seed(seed + 1)
    pairs = target_prompts(membrane.card.concept, nothing)[:1]
    target, instead = model.encode([pairs[0][0]] * count), model.encode([pairs[0][1]] * count)
    near = held.features.select(held.draw(count, NEAR, generator))
    t = model.schedule(count + 1).timesteps[:count].to(model.device)
    x = torch.randn((count, *model.latent_shape()), generator=generator).to(model.device, model.dtype)
    with torch.no_grad():
        bare = [predict(x, t, features) for features in (target, instead, near)]
        stack = Stack(model.denoiser)
        stack.add("membrane", membrane)
        with stack:
            stack.set_permeability(torch.ones(1, 1))
            guarded = [predict(x, t, features) for features in (target, near)]
    distance = max(float((bare[0] - bare[1]).norm()), 1e-9)
    moved = float((guarded[0] - bare[0]).norm())
    return {
        "target_moved": round(moved / distance, 4),
        "anchors_moved": round(float((guarded[1] - bare[2]).norm()) / distance, 4),
    }
