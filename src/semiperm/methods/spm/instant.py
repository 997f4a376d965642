"""The instant membrane: the closed form applied to every key and value projection of a model's cross-attention."""

from typing import cast

import torch
from torch import Tensor, nn

from semiperm.concept import Concept
from semiperm.erasure import Card
from semiperm.gate import last_token
from semiperm.membrane import Membrane
from semiperm.methods.sentences import target_prompts
from semiperm.methods.spm.anchors import Anchors
from semiperm.methods.spm.closed_form import firmest, solve
from semiperm.methods.spm.settings import SpmSettings
from semiperm.models.layers import linear_weight
from semiperm.models.model import DiffusionModel


def reads_text(path: str) -> bool:
    """Return whether a layer is a key or value projection of cross-attention."""
    return path.endswith(("attn2.to_k", "attn2.to_v"))


def text_pairs(concept: Concept, model: DiffusionModel, nothing: str = "") -> tuple[Tensor, Tensor]:
    """Return the states that keys and values read of the target, from its first token on, and of its surrogate.

    Both are (N, C). In a causal text encoder, states before the target's first token do not depend on it. The two
    sentences are aligned at their ends, so that the text behind the target is paired with itself and the end of the
    text with the end of the text, however many words each has.
    """
    pairs = target_prompts(concept, nothing)
    target = model.encode([prompt for prompt, _ in pairs])
    surrogate = model.encode([instead for _, instead in pairs])
    phrases = model.tokens(concept.targets)
    assert target.ids is not None and surrogate.ids is not None
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


def instant(concept: Concept, model: DiffusionModel, anchors: Anchors, settings: SpmSettings) -> Membrane:
    """Make a membrane for the text side in closed form; all other layers start as the identity."""
    layers = model.erasable_layers()
    generator = torch.Generator().manual_seed(settings.seed)
    rank = settings.rank_for(concept)
    membrane = Membrane.zero(layers, Card(concepts=(concept,)), rank, generator)
    text_side = {path: layer for path, layer in layers.items() if reads_text(path)}
    if not text_side:
        # With joint attention no layer reads the text as the encoder gave it.
        return membrane
    target_NC, surrogate_NC = text_pairs(concept, model, settings.nothing)
    anchors_NC = torch.cat(model.keys_read(anchors.features))
    features = tuple(part.float().cpu() for part in (target_NC, surrogate_NC, anchors_NC))
    eta, ridge = settings.instant_eta, settings.instant_ridge
    weight = firmest(*features, eta=eta, anchor_weight=settings.instant_anchor_weight, ridge=ridge)
    layer_weights = [linear_weight(cast(nn.Linear, layer), model.dtype) for layer in text_side.values()]
    pairs = solve(layer_weights, *features, eta=eta, anchor_weight=weight, ridge=ridge, rank=rank)
    down, up = dict(membrane.down), dict(membrane.up)
    for path, pair in zip(text_side, pairs, strict=True):
        up[path], down[path] = pair
    return Membrane(membrane.card, down, up)
