"""Fitting a gate: which prompts ask for a concept, learnt from the text encoder alone."""

from pathlib import Path

import torch
from torch import Tensor

from semiperm.concept import Concept
from semiperm.errors import MethodError
from semiperm.files.foreign import completed
from semiperm.files.safetensors import load_adapter
from semiperm.gate import ProbeGate, fit_probe, last_token, spellings
from semiperm.membrane import Membrane
from semiperm.methods.sentences import STYLES, candidates, compose, composed_in_style, names, sentences
from semiperm.models.model import DiffusionModel
from semiperm.models.text import TextFeatures

OTHERS = 800
MIXED = 100


def fit_gate(concept: Concept, model: DiffusionModel, seed: int = 0) -> ProbeGate:
    """Fit the gate of a concept on a model's text encoder.

    Raises:
        MethodError: the tokenizer splits the concept's phrase differently in every sentence.
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
            own += composed_in_style(phrase, things, MIXED, seed + 1)
        asking += own
        phrase_of += [phrase] * len(own)
    target = model.encode(asking)
    # A title has no synonyms, but titles of other works resemble it.
    between = 0.9 if concept.kind == "memorised" else 0.7
    own_NC = _own_tokens(target, phrase_of, model)
    return fit_probe(own_NC, target, model.encode(others), between=between, phrases=names(concept))


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


def _own_tokens(features: TextFeatures, phrases: list[str], model: DiffusionModel) -> Tensor:
    distinct = list(dict.fromkeys(phrases))
    tokens = model.tokens(spellings(distinct))
    assert features.ids is not None
    ids_of = dict(zip(distinct, zip(tokens[::2], tokens[1::2], strict=True), strict=True))
    states = []
    for row, (ids, phrase) in enumerate(zip(features.ids, phrases, strict=True)):
        ends = [last_token(ids, spelling) for spelling in ids_of[phrase]]
        end = next((end for end in ends if end is not None), None)
        if end is not None:
            states.append(features.hidden_BTC[row, end - 1 + features.start])
    if len(states) < 2:
        raise MethodError(
            f"The text encoder does not keep the tokens of {distinct[0]!r} together in a sentence: give another phrase."
        )
    return torch.stack(states)
