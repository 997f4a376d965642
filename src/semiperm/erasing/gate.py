"""Fitting the gate of the calibrated transport: which prompts ask for a concept, learnt from text features alone."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from semiperm.concept import Concept
from semiperm.erasing.anchors import STYLES, candidates
from semiperm.erasing.prompts import names, said, sentences
from semiperm.membrane.membrane import Membrane
from semiperm.membrane.transport import fit_gate, last_token, spellings
from semiperm.models.base import DiffusionModel, TextFeatures

OTHERS = 800
MIXED = 100

_SCENES = (
    "{a}",
    "a painting of {a}",
    "a photo of {a}",
    "the famous {a}",
    "{a} and {b}",
    "{a} next to {b}",
    "{a} beside {b}",
    "a picture of {a} and {b}",
    "{a} with {b}",
    "{a} on the left and {b} on the right",
    "{a} together with {b}",
)
_STYLED = ("{scene}, {style}", "a {style} of {scene}", "{scene} in the style of {style}", "{scene} as {style}")
_TAILS = (
    "",
    "",
    "",
    " on a blue background",
    ", high quality",
    " in front of a wall",
    " in the morning",
    ", beautiful",
)


def compose(things: list[str], styles: list[str], count: int, seed: int, always: str | None = None) -> list[str]:
    """Return `count` random sentences of one or two things, some in a style; `always` is in every sentence."""
    rng = np.random.default_rng(seed)

    def pick(options: tuple[str, ...] | list[str]) -> str:
        return options[int(rng.integers(len(options)))]

    written = []
    for _ in range(count):
        a, b = said(pick(things), "a {}"), said(pick(things), "a {}")
        if always is not None:
            first = said(always, "a {}")
            a, b = (first, b) if rng.random() < 0.5 else (a, first)
        form = pick(_SCENES)
        if always is not None and "{b}" not in form:
            a = said(always, "a {}")
        text = form.format(a=a, b=b)
        if styles and rng.random() < 0.4:
            text = pick(_STYLED).format(scene=text, style=pick(styles))
        written.append(text + pick(_TAILS))
    return written


def fit(concept: Concept, model: DiffusionModel, seed: int = 0) -> dict[str, Any]:
    """Fit the gate of a concept on a model's text encoder; the result is JSON for the card.

    Raises:
        ValueError: the text encoder cuts the concept's phrase out of its own sentences.
    """
    free = candidates(concept)
    things = [text for text in free if text not in STYLES]
    styles = [text for text in free if text in STYLES]
    others = compose(things, styles, OTHERS, seed)
    asking: list[str] = []
    phrase_of: list[str] = []
    for phrase in concept.targets:
        own = sentences(phrase, concept.kind)
        if concept.kind != "memorised" and concept.kind != "style":
            own += compose(things, styles, MIXED, seed + 1, always=phrase)
        elif concept.kind == "style":
            own += _in_style(phrase, things, seed)
        asking += own
        phrase_of += [phrase] * len(own)
    target = model.encode(asking)
    # a title has no synonyms, but the titles of other works resemble it
    between = 0.9 if concept.kind == "memorised" else 0.7
    gate = fit_gate(_own_tokens(target, phrase_of, model), target, model.encode(others), between)
    return {**gate, "phrases": names(concept)}


def with_gate(membrane: Membrane, model: DiffusionModel) -> Membrane:
    """Return the membrane with a gate for the model's text encoder, for files that came without one."""
    return membrane.with_card(gate=fit(membrane.card.concept, model))


def adopted(membrane: Membrane, concept: Concept, model: DiffusionModel) -> Membrane:
    """Return any erasing adapter of a model as a membrane for a concept: with a card, and a gate for its phrases.

    Raises:
        CoverageError: the adapter covers other layers than a membrane of this model.
    """
    fitted = membrane.fitted_to(model.erasable_layers())
    facts = {"base_model": model.name, "architecture": model.architecture, "fingerprint": model.fingerprint()}
    return fitted.with_card(concept=concept.model_dump(), gate=fit(concept, model), **facts)


def _in_style(phrase: str, things: list[str], seed: int) -> list[str]:
    scenes = compose(things, [], MIXED, seed + 1)
    return [_STYLED[number % len(_STYLED)].format(scene=text, style=phrase) for number, text in enumerate(scenes)]


def _own_tokens(features: TextFeatures, phrases: list[str], model: DiffusionModel) -> Tensor:
    distinct = list(dict.fromkeys(phrases))
    encoded = model.encode(spellings(distinct))
    assert encoded.ids is not None and features.ids is not None
    ids_of = dict(zip(distinct, zip(encoded.ids[::2], encoded.ids[1::2], strict=True), strict=True))
    states = []
    for row, (ids, phrase) in enumerate(zip(features.ids, phrases, strict=True)):
        ends = [last_token(ids, spelling) for spelling in ids_of[phrase]]
        end = next((end for end in ends if end is not None), None)
        if end is not None:
            states.append(features.hidden_BTC[row, end - 1 + features.start])
    if len(states) < 2:
        raise ValueError(f"the text encoder does not keep the tokens of {distinct[0]!r} together: give another phrase")
    return torch.stack(states)
