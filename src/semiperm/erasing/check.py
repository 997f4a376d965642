"""The self-check that every membrane's card carries."""

from collections.abc import Mapping

import torch

from semiperm.erasing.anchors import Anchors
from semiperm.erasing.prompts import target_prompts
from semiperm.erasing.recipe import Recipe
from semiperm.erasing.run import Counted
from semiperm.membrane.membrane import Membrane
from semiperm.membrane.stack import Stack
from semiperm.models.base import DiffusionModel


def in_words(effect: Mapping[str, float]) -> str:
    """Return a self-check's figures as a person reads them."""
    return (
        f"target moved {effect['target_moved']:.2f}, anchors {effect['anchors_moved']:.2f} "
        "(1 is from the target to what it becomes)"
    )


def self_check(
    model: DiffusionModel, membrane: Membrane, held: Anchors, recipe: Recipe, predict: Counted, count: int = 8
) -> dict[str, float]:
    """Measure how far the predictions for the target and for anchors move, always open.

    The states are noise at timesteps spread over the schedule. Both figures are relative to the bare model's distance
    between the target and what it should become: 0 is no change, 1 as far as the surrogate; near (1 + eta) is what
    the objective asks of the target.
    """
    generator = torch.Generator().manual_seed(recipe.seed + 1)
    pairs = target_prompts(membrane.card.concept, recipe.nothing)[:1]
    target, instead = model.encode([pairs[0][0]] * count), model.encode([pairs[0][1]] * count)
    near = held.features.select(held.draw(count, recipe.neighbours, generator))
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
