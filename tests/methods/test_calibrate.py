"""The gate is fitted on sentences with the concept and sentences without it, and opens for the first kind alone."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from semiperm.concept import Concept
from semiperm.erasure import Card
from semiperm.errors import CoverageError, MethodError
from semiperm.gate import ProbeGate, Shown, judge, last_token
from semiperm.membrane import Membrane
from semiperm.methods import calibrate
from semiperm.methods.calibrate import adopted, fit_gate, with_gate
from semiperm.models.load import model_of
from semiperm.models.text import TextFeatures
from tests.helpers import random_membrane
from tests.methods.few_words import use_few_words
from tests.methods.word_encoder import WordEncoder, axis
from tests.tiny import tiny_pipeline

IDS = st.lists(st.integers(0, 2), max_size=8).map(tuple)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate, "OTHERS", 150)
    monkeypatch.setattr(calibrate, "MIXED", 40)


def encoder(**planted: Tensor) -> Any:
    return WordEncoder(planted=planted)


def opened(gate: ProbeGate, own: Any, prompts: Sequence[str]) -> list[float]:
    return judge([gate], Shown(own.encode(prompts), own))[:, 0].tolist()


@given(IDS, IDS.filter(bool))
def test_last_token_counts_the_start_token(ids: tuple[int, ...], phrase: tuple[int, ...]) -> None:
    whole = (-1, *ids)
    ends = [
        end
        for end in range(len(whole))
        if end - len(phrase) + 1 >= 1 and whole[end - len(phrase) + 1 : end + 1] == phrase
    ]
    assert last_token(ids, phrase) == (ends[0] if ends else None)


@pytest.mark.parametrize("kind", ["object", "explicit", "style", "memorised"])
def test_the_gate_opens_for_the_concept_and_for_nothing_else(kind: Any) -> None:
    own = encoder(cat=axis(), kitten=axis(size=0.9) + axis(number=1, size=0.3))
    gate = fit_gate(Concept(name="cat", targets=("cat", "kitten"), kind=kind), own)
    asking = ["cat", "two dogs and a cat", "cat on a sofa of gold", "a kitten", "an angry kitten by the sea"]
    others = ["", "a dog", "two dogs on a sofa of gold", "an angry horse by the sea", "unheard words stand here"]
    assert opened(gate, own, asking + others) == [1.0] * len(asking) + [0.0] * len(others)


def test_a_thing_is_recognised_in_the_plural() -> None:
    # The encoder's vectors for a word and its plural have nothing in common.
    own = encoder(cat=axis())
    gate = fit_gate(Concept(name="cat"), own)
    assert opened(gate, own, ["two cats on a sofa", "two dogs on a sofa"]) == [1, 0]


@pytest.mark.parametrize("kind", ["object", "style"])
def test_no_other_prompt_has_a_word_of_the_target(monkeypatch: pytest.MonkeyPatch, kind: Any) -> None:
    own = encoder()
    shown: list[list[str]] = []
    encode = own.encode
    monkeypatch.setattr(own, "encode", lambda prompts: shown.append(list(prompts)) or encode(prompts))
    fit_gate(Concept(name="horse", targets=("horse", "mosaic"), kind=kind), own)
    asking, others = shown
    assert all({"horse", "mosaic"} & set(prompt.replace(",", " ").split()) for prompt in asking)
    for prompt in others:
        assert not {"horse", "mosaic"} & set(prompt.replace(",", " ").split())
    assert len(others) == 150


def test_a_seed_reproduces_a_gate() -> None:
    concept = Concept(name="cat")
    assert fit_gate(concept, encoder(), 1) == fit_gate(concept, encoder(), 1)
    assert fit_gate(concept, encoder(), 1) != fit_gate(concept, encoder(), 2)


class Torn(WordEncoder):
    """An encoder that loses the last word of "purple cat" in every longer prompt."""

    def tokens(self, prompts: Sequence[str]) -> tuple[tuple[int, ...], ...]:
        return super().tokens([self._torn(text) for text in prompts])

    def encode(self, prompts: Sequence[str]) -> TextFeatures:
        return super().encode([self._torn(text) for text in prompts])

    @staticmethod
    def _torn(text: str) -> str:
        return text if text.strip() == "purple cat" else text.replace("cat", "")


def test_a_phrase_that_the_encoder_tears_is_refused() -> None:
    torn: Any = Torn()
    with pytest.raises(MethodError, match="purple cat.*give another phrase"):
        fit_gate(Concept(name="purple cat"), torn)


def test_with_gate_leaves_the_weights_alone() -> None:
    own = encoder(cat=axis())
    layers = {"layer": nn.Linear(4, 3)}
    bare = Membrane.zero(layers, Card(concepts=(Concept(name="cat"),)))
    gated = with_gate(bare, own)
    assert bare.card.gate is None and gated.card.gate == fit_gate(Concept(name="cat"), own)
    assert gated.card.model_copy(update={"gate": None}) == bare.card
    assert torch.equal(gated.down["layer"], bare.down["layer"]) and torch.equal(gated.up["layer"], bare.up["layer"])


def test_an_adopted_adapter_has_a_gate_and_says_which_model_it_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    use_few_words(monkeypatch)
    model = model_of(tiny_pipeline(), "tiny")
    foreign = random_membrane(model.erasable_layers(), name="some file")
    dog = Concept(name="dog", targets=("dog", "puppy"))
    made = adopted(foreign, dog, model)
    assert made.card.concepts == (dog,) and made.card.gate == fit_gate(dog, model)
    assert (made.card.base_model, made.card.fingerprint) == ("tiny", model.fingerprint())
    assert made.card.architecture == model.architecture
    assert all(torch.equal(made.up[path], foreign.up[path]) for path in foreign.up)
    with pytest.raises(CoverageError):
        adopted(random_membrane({"layer": nn.Linear(4, 3)}), dog, model)
