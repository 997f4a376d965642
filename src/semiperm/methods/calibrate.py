"""Fitting a gate: which prompts ask for a concept, learnt from the text encoder alone."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from semiperm.concept import Concept
from semiperm.errors import MethodError
from semiperm.files.foreign import completed
from semiperm.files.safetensors import load_adapter
from semiperm.gate import Near, ProbeGate, fit_probe, last_token, placed, spans_in
from semiperm.membrane import Membrane
from semiperm.methods.neighbours import candidates, kept_phrases, neighbours, spoken
from semiperm.methods.sentences import STYLES, compose, composed_in_style, names, plural, sentences
from semiperm.models.model import DiffusionModel
from semiperm.models.text import TextFeatures

OTHERS = 800
MIXED = 100
BESIDE = 20


def fit_gate(concept: Concept, model: DiffusionModel, seed: int = 0, more: Sequence[str] = ()) -> ProbeGate:
    """Fit the gate of a concept on a model's text encoder.

    Neighbours that share a word with the concept, and `more`, the user's own anchors, stay closed in every sentence
    that is tried. Where the probe cannot tell them from the concept, its margin is negative and only the concept's
    names open the gate.

    Raises:
        MethodError: the tokenizer splits the concept's phrase differently in every sentence, or one of `more` asks for
            the concept itself.
    """
    kept = kept_phrases(concept, more)
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
            own += composed_in_style(phrase, things, MIXED, seed + 1)
        asking += own
        phrase_of += [phrase] * len(own)
    target = model.encode(asking)
    # A title has no synonyms, but titles of other works resemble it.
    between = 0.9 if concept.kind == "memorised" else 0.7
    own = _own_tokens(target, phrase_of, model)
    if len(own) < 2:
        raise MethodError(
            f"The text encoder does not keep the tokens of {concept.targets[0]!r} together in a sentence: give another "
            "phrase."
        )
    around = model.encode(others)
    near = _near(concept, neighbours(concept, more), kept, things, model, seed + 2)
    return fit_probe(torch.stack(own), target, around, near=near, between=between, phrases=names(concept), kept=kept)


def with_gate(membrane: Membrane, model: DiffusionModel) -> Membrane:
    """Return the membrane with a gate for the model's text encoder, for files that came without one."""
    return membrane.with_card(gate=fit_gate(membrane.card.concept, model))


def adopted(adapter: Membrane | str | Path, concept: Concept, model: DiffusionModel, *, drop: bool = False) -> Membrane:
    """Return an erasing adapter of any origin as the membrane of a concept, with a card and a fitted gate.

    Args:
        adapter: a file, see `semiperm.files.safetensors.load_adapter`, or a membrane. It may cover a part of the
            model's erasable layers; the others get pairs of zeros.
        drop: leave out what a file has for other layers and for text encoders, instead of refusing it.

    Raises:
        CoverageError: the adapter has layers that the model lacks, or other sizes.
        FileNotFoundError: there is no such file.
        MembraneFileError: the file is not a LoRA for this model, or would lose layers.
    """
    membrane = adapter if isinstance(adapter, Membrane) else load_adapter(adapter, model, drop=drop)
    layers = model.erasable_layers()
    down, up = completed(layers, {path: (membrane.down[path], membrane.up[path]) for path in membrane.down})
    facts = {"layers": len(down), "base_model": model.name, "architecture": model.architecture}
    card = membrane.card.model_copy(update={**facts, "fingerprint": model.fingerprint()})
    fitted = Membrane(card, down, up).fitted_to(layers)
    return fitted.with_card(concepts=(concept,), gate=fit_gate(concept, model))


def _near(
    concept: Concept, phrases: Sequence[str], kept: Sequence[str], things: list[str], model: DiffusionModel, seed: int
) -> Near | None:
    """Return neighbours of a concept in sentences that do not ask for it, in the plural too."""
    asking: list[str] = []
    phrase_of: list[str] = []
    for phrase in dict.fromkeys([*phrases, *map(plural, phrases)]):
        own = [phrase, *spoken(concept, phrase)]
        own += compose(things, [], BESIDE, seed, always=phrase)
        asking += own
        phrase_of += [phrase] * len(own)
    if not asking:
        return None
    text = model.encode(asking)
    assert text.ids is not None
    (unread,) = spans_in(text.ids, [kept], model)
    # What the gate does not read need not be told from the concept.
    read = [row for row, spans in enumerate(unread) if not spans]
    own_tokens = _own_tokens(text.select(read), [phrase_of[row] for row in read], model)
    return Near(text, torch.stack(own_tokens) if own_tokens else None, unread)


def _own_tokens(features: TextFeatures, phrases: Sequence[str], model: DiffusionModel) -> list[Tensor]:
    """Return the state of each phrase's last token in its prompt, where the tokenizer keeps the phrase together."""
    distinct = list(dict.fromkeys(phrases))
    tokens = model.tokens(placed(distinct)) if distinct else ()
    assert features.ids is not None
    ids_of = dict(zip(distinct, zip(tokens[::2], tokens[1::2], strict=True), strict=True))
    states = []
    for row, (ids, phrase) in enumerate(zip(features.ids, phrases, strict=True)):
        ends = [last_token(ids, spelling) for spelling in ids_of[phrase]]
        end = next((end for end in ends if end is not None), None)
        if end is not None:
            states.append(features.hidden_BTC[row, end - 1 + features.start])
    return states
