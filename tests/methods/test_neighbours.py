"""Phrases that share words with a concept: they are anchors and stay closed, unless they name the concept."""

import pytest

from semiperm.concept import Concept
from semiperm.errors import MethodError
from semiperm.methods.neighbours import candidates, kept_phrases, neighbours, spoken
from semiperm.methods.sentences import everyday


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("hot dog", {"dog"}),
        ("toy car", {"toy", "car"}),
        ("toy cars", {"toy", "car"}),
        ("Grumpy Cat", {"cat"}),
        ("cat", set()),
        # "Gogh" and "Rubik" are nothing that can be drawn alone.
        ("Van Gogh", set()),
        ("the dog", set()),
    ],
)
def test_the_nouns_of_a_compound_are_its_neighbours(name: str, parts: set[str]) -> None:
    concept = Concept(name=name)
    assert parts <= set(neighbours(concept)) and parts <= set(candidates(concept))
    assert {"hot", "gogh", "van", "grumpy", "the"}.isdisjoint(neighbours(concept))


@pytest.mark.parametrize("name", ["cat", "Cat", "hot dog", "the red barn", "tabby-cat"])
def test_nothing_that_names_the_concept_is_an_anchor_by_itself(name: str) -> None:
    whole = f" {name.lower().removeprefix('the ').replace('-', ' ')} "
    for text in candidates(Concept(name=name)):
        assert whole not in f" {text.lower().replace('-', ' ')} "


def test_everything_else_of_everyday_is_an_anchor() -> None:
    found = set(candidates(Concept(name="cat")))
    assert {text for text in everyday() if "cat" not in text} <= found


def test_the_users_anchors_are_never_dropped() -> None:
    more = ["hot dog", "toy dog", "a dog of bronze", "zeppelin"]
    concept = Concept(name="dog")
    assert set(more) <= set(candidates(concept, more)) and set(more) <= set(neighbours(concept, more))


@pytest.mark.parametrize(
    ("name", "anchor", "kept"),
    [
        ("dog", "hot dog", ["hot dog", "hot dogs"]),
        ("dog", "a hot dog on a plate", ["hot dog", "hot dogs"]),
        ("dog", "a plate with a hot dog, and a cat", ["hot dog", "hot dogs"]),
        ("car", "toy cars", ["toy cars"]),
        ("star", "star fish", ["star fish"]),
        ("dog", "hot-dog", ["hot-dog", "hot-dogs"]),
        ("dog", "a cat", []),
        ("dog", "hotdog", []),
    ],
)
def test_a_longer_phrase_with_the_name_in_it_is_kept(name: str, anchor: str, kept: list[str]) -> None:
    assert kept_phrases(Concept(name=name), [anchor]) == kept


def test_styles_have_no_plurals() -> None:
    assert kept_phrases(Concept(name="cubism", kind="style"), ["analytic cubism"]) == ["analytic cubism"]


@pytest.mark.parametrize(
    ("name", "anchor"),
    [
        ("dog", "dog"),
        ("dog", "a dog"),
        ("dog", "Dogs"),
        ("dog", "a dog beside a cat"),
        ("cat", "Look, cat!"),
        ("Tom and Jerry", "Tom & Jerry"),
        ("Spider-Man", "spider man"),
        ("Beyoncé", "Beyonce"),
    ],
)
def test_an_anchor_that_asks_for_the_concept_is_refused(name: str, anchor: str) -> None:
    with pytest.raises(MethodError, match="cannot be erased and kept"):
        kept_phrases(Concept(name=name), [anchor])


@pytest.mark.parametrize(("name", "phrase"), [("cat", "hot dog"), ("dog", "hot dog"), ("car", "toy cars")])
def test_sentences_about_a_neighbour_do_not_ask_for_the_concept(name: str, phrase: str) -> None:
    found = spoken(Concept(name=name), phrase)
    assert len(found) > 20
    for text in found:
        assert phrase in text
        assert name not in text.replace(phrase, "").replace("cartoon", "").replace("card", "").split()
