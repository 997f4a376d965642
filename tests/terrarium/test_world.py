"""The world has enough objects, styles and words, and no word of one object names another."""

import re
from collections.abc import Iterable

import pytest

from semiperm.terrarium import world
from semiperm.terrarium.relatives import RELATIVES
from semiperm.terrarium.transforms import TRANSFORMS


def words(texts: Iterable[str]) -> set[str]:
    return set(re.findall(r"\w+", " ".join(texts).lower()))


def test_it_is_large_enough() -> None:
    assert len(world.OBJECTS) >= 48
    assert len(world.STYLES) >= 6
    assert len(world.BACKGROUNDS) == 8
    assert len(world.MEMORISED) == 4


def test_it_has_near_neighbours() -> None:
    by_group: dict[str, set[str]] = {}
    for item in world.OBJECTS:
        by_group.setdefault(item.group, set()).add(item.name)
    assert {"cat", "dog", "fox", "tiger", "lion"} <= by_group["animal"]
    assert {"car", "bus"} <= by_group["vehicle"]
    assert {"apple", "strawberry"} <= by_group["fruit"]


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


def test_synonyms_are_many() -> None:
    assert sum(bool(item.synonyms) for item in world.OBJECTS) >= 12
    assert all(style.synonyms for style in world.STYLES)


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
