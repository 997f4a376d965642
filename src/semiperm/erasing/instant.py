"""The instant membrane: the closed form, applied to every key and value projection of a model's cross-attention."""

from typing import cast

import torch
from torch import Tensor, nn

from semiperm.concept import Concept
from semiperm.erasing.anchors import Anchors
from semiperm.erasing.closed_form import firmest, solve
from semiperm.erasing.prompts import target_prompts
from semiperm.erasing.recipe import Recipe
from semiperm.membrane.membrane import Card, Membrane
from semiperm.membrane.transport import last_token
from semiperm.models.base import DiffusionModel, linear_weight


def reads_text(path: str) -> bool:
    """Tell whether a layer is a key or value projection of cross-attention."""
    return path.endswith(("attn2.to_k", "attn2.to_v"))


def text_pairs(concept: Concept, model: DiffusionModel, nothing: str = "") -> tuple[Tensor, Tensor]:
    """Return what keys and values read of the target, from its first token on, and of the surrogate beside it.

    Both are (N, C). What comes before the target's first token cannot know of it in a causal text encoder. The two
    sentences are laid beside each other at their ends, so that what follows the target meets itself and the end of the
    text meets the end of the text, however many words each has.
    """
    pairs = target_prompts(concept, nothing)
    target = model.encode([prompt for prompt, _ in pairs])
    surrogate = model.encode([instead for _, instead in pairs])
    phrases = model.encode(concept.targets).ids
    assert target.ids is not None and surrogate.ids is not None and phrases is not None
    read, read_instead = model.keys_read(target), model.keys_read(surrogate)
    found: list[Tensor] = []
    instead: list[Tensor] = []
    for row, (ids, other) in enumerate(zip(target.ids, surrogate.ids, strict=True)):
        starts = [end - len(phrase) for phrase in phrases if (end := last_token(ids, phrase)) is not None and phrase]
        own = torch.arange(min(starts, default=0) + target.start, len(read[row]))
        beside = (own + len(other) - len(ids)).clamp(target.start, len(read_instead[row]) - 1)
        found.append(read[row][own])
        instead.append(read_instead[row][beside])
    return torch.cat(found), torch.cat(instead)


def instant(concept: Concept, model: DiffusionModel, anchors: Anchors, recipe: Recipe) -> Membrane:
    """Make a membrane for the text side in closed form; all other layers start as the identity."""
    layers = model.erasable_layers()
    generator = torch.Generator().manual_seed(recipe.seed)
    rank = recipe.rank_for(concept)
    membrane = Membrane.zero(layers, Card(concept=concept), rank, generator)
    text_side = {path: layer for path, layer in layers.items() if reads_text(path)}
    if not text_side:
        # where text and picture are attended to together, no layer reads the text as the encoder gave it
        return membrane
    target_NC, surrogate_NC = text_pairs(concept, model, recipe.nothing)
    anchors_NC = torch.cat(model.keys_read(anchors.features))
    features = tuple(part.float().cpu() for part in (target_NC, surrogate_NC, anchors_NC))
    eta, ridge = recipe.instant_eta, recipe.instant_ridge
    weight = firmest(*features, eta=eta, anchor_weight=recipe.instant_anchor_weight, ridge=ridge)
    layer_weights = [linear_weight(cast(nn.Linear, layer), model.dtype) for layer in text_side.values()]
    pairs = solve(layer_weights, *features, eta=eta, anchor_weight=weight, ridge=ridge, rank=rank)
    down, up = dict(membrane.down), dict(membrane.up)
    for path, pair in zip(text_side, pairs, strict=True):
        up[path], down[path] = pair
    return Membrane(membrane.card, down, up)
