"""Sentences about concepts: right articles, every template, and a second sentence without the concept."""

import re
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semiperm.concept import Concept, Kind
from semiperm.methods.sentences import (
    CARRIERS,
    TEMPLATES,
    compose,
    composed_in_style,
    everyday,
    names,
    plural,
    said,
    sentences,
    target_prompts,
)

KINDS = get_args(Kind)
# Invented words whose first letter alone decides the article.
WORD = st.from_regex(r"([bdgklmprtz]|[ai][bdgklmprtz])[aeiou]([bdgklmprtz][aeiou]){0,3}", fullmatch=True)


@pytest.mark.parametrize(
    ("phrase", "template", "carrier", "expected"),
    [
        ("cat", "a {}", "cat", "a cat"),
        ("apple", "a {}", "cat", "an apple"),
        ("apple", "a photo of a {}", "cat", "a photo of an apple"),
        ("Elephant", "a {}", "cat", "an Elephant"),
        ("the great wave", "a picture of the {}", "cat", "a picture of the great wave"),
        ("a red door", "there is a {} here", "cat", "there is a red door here"),
        ("an owl", "a {} and a tree", "cat", "an owl and a tree"),
        ("mosaic", "a {carrier} in the style of {}", "apple", "an apple in the style of mosaic"),
        ("oil painting", "a {} picture of a {carrier}", "dog", "an oil painting picture of a dog"),
        # The sound decides, not the letter.
        ("hour", "a {}", "cat", "an hour"),
        ("European castle", "a photo of a {}", "cat", "a photo of a European castle"),
        ("x-ray", "a {} of a {carrier}", "unicorn", "an x-ray of a unicorn"),
        ("{}", "a {}", "cat", "a {}"),
    ],
)
def test_said(phrase: str, template: str, carrier: str, expected: str) -> None:
    assert said(phrase, template, carrier) == expected


@pytest.mark.parametrize("kind", KINDS)
@given(words=st.lists(WORD, min_size=1, max_size=3), article=st.sampled_from(["", "a ", "an ", "the "]))
def test_every_sentence_has_the_phrase_with_one_right_article(kind: Kind, words: list[str], article: str) -> None:
    phrase = article + " ".join(words)
    for sentence in sentences(phrase, kind):
        assert phrase in sentence
        assert "{" not in sentence
        if not article and words[0] not in ("a", "an", "the", "some"):
            before = re.findall(rf"\b(an?) {re.escape(phrase)}", sentence)
            right = "an" if words[0][0] in "aeiou" else "a"
            assert all(found == right for found in before), sentence
        else:
            assert not re.search(rf"\b(a|an|the) {re.escape(phrase)}\b", sentence), sentence


@pytest.mark.parametrize("kind", KINDS)
def test_sentences_are_all_different_and_begin_with_the_bare_phrase(kind: Kind) -> None:
    found = sentences("zebra", kind)
    assert len(found) == len(set(found)) >= len(TEMPLATES[kind])
    assert found[0] == "zebra"
    if kind == "style":
        assert all(any(carrier in sentence for sentence in found) for carrier in CARRIERS)


@pytest.mark.parametrize("kind", ["object", "explicit", "memorised"])
@pytest.mark.parametrize(("surrogate", "nothing"), [("", "an empty room"), ("a dog", "an empty room"), ("", "")])
def test_the_surrogate_takes_the_place_of_a_thing_or_what_is_beside_it_stays_alone(
    kind: Kind, surrogate: str, nothing: str
) -> None:
    concept = Concept(name="zebra", targets=("zebra", "striped horse"), surrogate=surrogate, kind=kind)
    pairs = target_prompts(concept, nothing)
    for prompt, instead in pairs:
        beside = [carrier for carrier in CARRIERS if carrier in prompt.split()]
        if beside and surrogate:
            assert instead == prompt.replace("a zebra", surrogate).replace("a striped horse", surrogate)
        elif beside:
            assert instead in (f"a {beside[0]}", f"an {beside[0]}")
        else:
            assert instead == (surrogate or nothing)
    asked = [prompt for prompt, _ in pairs]
    assert sorted(set(asked)) == sorted(sentences("zebra", kind) + sentences("striped horse", kind))
    if kind != "memorised":
        for carrier in CARRIERS:
            assert sum(carrier in prompt.split() for prompt in asked) == 6
        within_others = sum(bool(set(CARRIERS) & set(prompt.split())) for prompt in asked)
        assert len(asked) - within_others == pytest.approx(within_others, rel=0.25)


def test_an_empty_surrogate_is_the_papers_empty_prompt_by_default() -> None:
    assert {instead for _, instead in target_prompts(Concept(name="Wave", kind="memorised"))} == {""}


def test_a_concept_is_not_put_beside_itself() -> None:
    for name, other in (("tree", "house"), ("a house", "tree")):
        pairs = target_prompts(Concept(name=name), "nobody")
        assert all(name not in instead for _, instead in pairs)
        assert all(sentence.count(name.removeprefix("a ")) == 1 for sentence in sentences(name, "object"))
        assert any(instead == f"a {other}" for _, instead in pairs)


def test_a_style_goes_and_its_content_stays() -> None:
    pairs = target_prompts(Concept(name="zebrism", kind="style"))
    assert len(pairs) == len(set(pairs))
    for prompt, instead in pairs:
        assert "zebrism" in prompt and "zebrism" not in instead
        content = [carrier for carrier in CARRIERS if carrier in prompt.replace(",", " ").split()]
        assert [carrier for carrier in CARRIERS if carrier in instead.replace(",", " ").split()] == content


def test_a_style_may_become_another() -> None:
    for prompt, instead in target_prompts(Concept(name="zebrism", surrogate="sketch", kind="style")):
        content = [carrier for carrier in CARRIERS if carrier in prompt.replace(",", " ").split()]
        assert instead == (prompt.replace("zebrism", "sketch") if content else "sketch")


def test_the_everyday_list_is_clean() -> None:
    words = everyday()
    assert len(words) > 300
    assert len(set(words)) == len(words)
    assert all(word == word.strip().lower() and word for word in words)


@pytest.mark.parametrize(
    ("one", "many"),
    [
        ("cat", "cats"),
        ("fox", "foxes"),
        ("bus", "buses"),
        ("strawberry", "strawberries"),
        ("monkey", "monkeys"),
        ("a red torch", "a red torches"),
        ("toy", "toys"),
        ("Elvis", "Elvises"),
        ("octopus", "octopuses"),
        ("dress", "dresses"),
        ("knife", "knives"),
        ("person", "people"),
        # A plural stays.
        ("dogs", "dogs"),
        ("boxes", "boxes"),
        ("people", "people"),
        ("mice", "mice"),
        ("scissors", "scissors"),
        ("sheep", "sheep"),
    ],
)
def test_plurals_are_english(one: str, many: str) -> None:
    assert plural(one) == many


def test_things_are_named_in_the_plural_too_and_pictures_are_not() -> None:
    assert names(Concept(name="cat", targets=("cat", "kitten"))) == ["cat", "kitten", "cats", "kittens"]
    assert names(Concept(name="mosaic", kind="style")) == ["mosaic"]
    assert names(Concept(name="The Great Tide", kind="memorised")) == ["The Great Tide"]


# random sentences


def test_composed_sentences_are_seeded_and_have_the_phrase_that_they_must_have() -> None:
    things, styles = ["horse", "apple", "robot"], ["mosaic"]
    written = compose(things, styles, 60, seed=3, always="zebra")
    assert len(written) == 60
    assert all("zebra" in text for text in written)
    assert not any("{" in text for text in written)
    assert written == compose(things, styles, 60, seed=3, always="zebra")
    assert written != compose(things, styles, 60, seed=4, always="zebra")
    without = compose(things, styles, 60, seed=3)
    assert not any("zebra" in text for text in without)
    assert any("mosaic" in text for text in without)
    assert not any("mosaic" in text for text in compose(things, [], 60, seed=3))


def test_sentences_in_a_style_all_have_the_style_and_a_thing() -> None:
    things = ["horse", "apple", "robot"]
    written = composed_in_style("zebrism", things, 24, seed=3)
    assert len(written) == 24 and written == composed_in_style("zebrism", things, 24, seed=3)
    assert written != composed_in_style("zebrism", things, 24, seed=4)
    assert all("zebrism" in text and any(thing in text for thing in things) for text in written)
    assert not any("{" in text for text in written)
