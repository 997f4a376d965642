"""The world is the one that the shipped weights know, and no word of one object names another."""

import re
from collections.abc import Iterable

import numpy as np
import pytest

from semiperm.terrarium import world
from semiperm.terrarium.oracle import load_oracle
from semiperm.terrarium.relatives import RELATIVES
from semiperm.terrarium.scenes import Scene, draw
from semiperm.terrarium.transforms import TRANSFORMS


def words(texts: Iterable[str]) -> set[str]:
    return set(re.findall(r"\w+", " ".join(texts).lower()))


def test_the_shipped_oracle_finds_each_object_by_its_name() -> None:
    """Names stand in the order of the weights' outputs: one that is moved, added or removed is another's."""
    rng = np.random.default_rng(0)
    pictures = np.stack([draw(Scene((name,), "plain", "grey", None), rng) for name in world.OBJECT_NAMES])
    assert [verdict.found[:1] for verdict in load_oracle()(pictures)] == [(name,) for name in world.OBJECT_NAMES]


def test_the_shipped_oracle_finds_each_style_by_its_name() -> None:
    rng = np.random.default_rng(0)
    pictures = np.stack([draw(Scene(("umbrella",), name, "blue", None), rng) for name in world.STYLE_NAMES])
    assert [verdict.style for verdict in load_oracle()(pictures)] == list(world.STYLE_NAMES)


def test_every_object_has_a_neighbour() -> None:
    # erasing an object is measured on the others of its group
    groups = [item.group for item in world.OBJECTS]
    assert [item.name for item in world.OBJECTS if groups.count(item.group) < 2] == []


def test_names_and_glyphs_are_distinct() -> None:
    for values in (
        world.OBJECT_NAMES,
        world.STYLE_NAMES,
        [item.glyph for item in world.OBJECTS],
        [picture.name for picture in world.MEMORISED],
        [picture.title for picture in world.MEMORISED],
        list(world.BACKGROUNDS.values()),
    ):
        assert len(set(values)) == len(values)


def test_every_style_and_weapon_can_be_asked_for_without_its_name() -> None:
    # the protocols `paraphrase` and `explicit` ask so
    assert [style.name for style in world.STYLES if not style.synonyms] == []
    assert [item.name for item in world.OBJECTS if item.group == "weapon" and not (item.synonyms or item.phrases)] == []


@pytest.mark.parametrize("item", world.OBJECTS, ids=lambda item: item.name)
def test_an_objects_other_words_do_not_hold_its_name(item: world.Thing) -> None:
    for text in (*item.synonyms, *item.phrases):
        assert item.name not in text.lower()
        assert item.name not in words([text])


@pytest.mark.parametrize("style", world.STYLES, ids=lambda style: style.name)
def test_a_styles_forms_hold_its_name_and_its_synonyms_do_not(style: world.Style) -> None:
    for form in style.forms:
        assert style.name in form
    for form in style.synonyms:
        assert not words([style.name]) & words([form])
    for form in (*style.forms, *style.synonyms):
        assert form.count("{}") == 1


def test_no_word_belongs_to_two_objects() -> None:
    nouns = [noun for item in world.OBJECTS for noun in (item.name, *item.synonyms)]
    assert len(set(nouns)) == len(nouns)
    phrases = [phrase for item in world.OBJECTS for phrase in item.phrases]
    assert len(set(phrases)) == len(phrases)
    assert not set(nouns) & words(phrases)


def test_weapons_have_group_phrases_that_name_no_member() -> None:
    members = [item for item in world.OBJECTS if item.group == "weapon"]
    assert {"bomb", "knife", "pistol"} <= {item.name for item in members}
    phrases = world.GROUP_PHRASES["weapon"]
    assert "a weapon" in phrases
    assert len(phrases) > 1
    assert not words(phrases) & words(noun for item in members for noun in (item.name, *item.synonyms))


@pytest.mark.parametrize("group", world.GROUP_PHRASES)
def test_group_words_belong_to_a_group_with_members_and_name_none(group: str) -> None:
    members = [item for item in world.OBJECTS if item.group == group]
    assert len(members) > 1
    assert not words(world.GROUP_PHRASES[group]) & words(n for item in members for n in (item.name, *item.synonyms))


def test_titles_name_nothing_that_is_an_object_or_a_style() -> None:
    nouns = {noun for item in world.OBJECTS for noun in (item.name, *item.synonyms)}
    assert not words(picture.title for picture in world.MEMORISED) & (nouns | set(world.STYLE_NAMES))


def test_every_style_has_a_transform() -> None:
    assert set(TRANSFORMS) == {*world.STYLE_NAMES, *(relative.style for relative in RELATIVES.values())}


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    assert world.thing("cat").glyph == "🐱"
    assert world.style("neon").name == "neon"
    with pytest.raises(KeyError, match="no object 'unicorn'.*cat, dog"):
        world.thing("unicorn")
    with pytest.raises(KeyError, match="no style 'cubism'.*plain, sketch"):
        world.style("cubism")
