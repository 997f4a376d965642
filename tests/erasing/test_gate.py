"""The gate is fitted on sentences of the concept against sentences without it, and opens for no others."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from semiperm.concept import Concept
from semiperm.erasing import gate
from semiperm.membrane.membrane import Card, Membrane
from semiperm.membrane.transport import calibrated
from tests.erasing.helpers import WordEncoder, axis

IDS = st.lists(st.integers(0, 2), max_size=8).map(tuple)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "OTHERS", 150)
    monkeypatch.setattr(gate, "MIXED", 40)


def model(**planted: torch.Tensor) -> Any:
    encoder = WordEncoder(planted=planted)
    return SimpleNamespace(encode=encoder.encode, encoder=encoder)


@given(IDS, IDS)
def test_last_token_counts_the_start_token(ids: tuple[int, ...], phrase: tuple[int, ...]) -> None:
    whole = (-1, *ids)
    ends = [
        end
        for end in range(len(whole))
        if end - len(phrase) + 1 >= 1 and whole[end - len(phrase) + 1 : end + 1] == phrase and phrase
    ]
    if phrase:
        assert gate.last_token(ids, phrase) == (ends[0] if ends else None)


def test_composed_sentences_are_seeded_and_hold_what_they_must() -> None:
    things, styles = ["horse", "apple", "robot"], ["mosaic"]
    written = gate.compose(things, styles, 60, seed=3, always="zebra")
    assert len(written) == 60
    assert all("zebra" in text for text in written)
    assert not any("{" in text for text in written)
    assert written == gate.compose(things, styles, 60, seed=3, always="zebra")
    assert written != gate.compose(things, styles, 60, seed=4, always="zebra")
    without = gate.compose(things, styles, 60, seed=3)
    assert not any("zebra" in text for text in without)
    assert any("mosaic" in text for text in without)
    assert not any("mosaic" in text for text in gate.compose(things, [], 60, seed=3))


@pytest.mark.parametrize("kind", ["object", "explicit", "style", "memorised"])
def test_the_gate_opens_for_the_concept_and_for_nothing_else(kind: Any) -> None:
    own = model(cat=axis(), kitten=axis(size=0.9) + axis(number=1, size=0.3))
    concept = Concept(name="cat", targets=("cat", "kitten"), kind=kind)
    card = Card(concept=concept, gate=gate.fit(concept, own))
    asking = ["cat", "two dogs and a cat", "cat on a sofa of gold", "a kitten", "an angry kitten by the sea"]
    others = ["", "a dog", "two dogs on a sofa of gold", "an angry horse by the sea", "unheard words stand here"]
    found = calibrated(card, own.encode(asking + others), own.encode)
    assert found.tolist() == [1.0] * len(asking) + [0.0] * len(others)


def test_a_thing_is_recognised_in_the_plural() -> None:
    # the encoder knows no relation between a word and its plural
    own = model(cat=axis())
    card = Card(concept=Concept(name="cat"), gate=gate.fit(Concept(name="cat"), own))
    found = calibrated(card, own.encode(["two cats on a sofa", "two dogs on a sofa"]), own.encode)
    assert found.tolist() == [1, 0]


@pytest.mark.parametrize("kind", ["object", "style"])
def test_no_other_prompt_has_a_word_of_the_target(monkeypatch: pytest.MonkeyPatch, kind: Any) -> None:
    own = model()
    shown: list[list[str]] = []

    def encode(prompts: Any) -> Any:
        shown.append(list(prompts))
        return own.encoder.encode(prompts)

    own.encode = encode
    gate.fit(Concept(name="horse", targets=("horse", "mosaic"), kind=kind), own)
    for prompt in shown[-1]:
        assert not {"horse", "mosaic"} & set(prompt.replace(",", " ").split())
    assert len(shown[-1]) == 150


def test_a_seed_reproduces_a_gate() -> None:
    concept = Concept(name="cat")
    assert gate.fit(concept, model(), 1) == gate.fit(concept, model(), 1)


def test_a_phrase_that_the_encoder_tears_is_refused() -> None:
    own = model()

    def encode(prompts: Any) -> Any:
        # the phrase's last word is lost in every longer prompt
        return own.encoder.encode(
            [text if text.strip() == "purple cat" else text.replace("cat", "") for text in prompts]
        )

    torn = SimpleNamespace(encode=encode)
    with pytest.raises(ValueError, match="purple cat"):
        gate.fit(Concept(name="purple cat"), torn)  # type: ignore[arg-type]


def test_with_gate_leaves_the_weights_alone() -> None:
    own = model(cat=axis())
    layers = {"layer": torch.nn.Linear(4, 3)}
    bare = Membrane.zero(layers, Card(concept=Concept(name="cat")))
    gated = gate.with_gate(bare, own)
    assert gated.card.gate == gate.fit(Concept(name="cat"), own)
    assert torch.equal(gated.down["layer"], bare.down["layer"]) and torch.equal(gated.up["layer"], bare.up["layer"])
