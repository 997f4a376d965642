"""Captions name the objects of a scene in their order, and its style, in many ways."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semiperm.terrarium import captions, world
from semiperm.terrarium.captions import caption, noun_phrase, with_article
from semiperm.terrarium.scenes import Scene, sample
from tests.terrarium.helpers import fits, says, ways_to_say

seeds = st.integers(0, 2**32 - 1)


def written(scene: Scene, seed: int) -> str:
    return caption(scene, np.random.default_rng(seed))


def positions(name: str, text: str) -> list[int]:
    found = (re.finditer(rf"(?<!\w){re.escape(way)}(?!\w)", text, re.IGNORECASE) for way in ways_to_say(name))
    return [match.start() for matches in found for match in matches]


@pytest.mark.parametrize(
    ("noun", "said"),
    [
        ("cat", "a cat"),
        ("apple", "an apple"),
        ("owl", "an owl"),
        ("automobile", "an automobile"),
        ("umbrella", "an umbrella"),
        ("house", "a house"),
        ("grapes", "grapes"),
        ("cattle", "cattle"),
        ("swine", "swine"),
    ],
)
def test_articles(noun: str, said: str) -> None:
    assert with_article(noun) == said


def test_no_noun_gets_a_wrong_article() -> None:
    for item in world.OBJECTS:
        for noun in (item.name, *item.synonyms):
            article = with_article(noun).removesuffix(noun).strip()
            assert article in ("", "an" if noun[0] in "aeiou" else "a")


@settings(deadline=None, max_examples=400)
@given(seeds)
def test_a_caption_says_what_its_scene_shows(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scene = sample(rng)
    text = caption(scene, rng)
    if scene.memorised is not None:
        title = next(picture.title for picture in world.MEMORISED if picture.name == scene.memorised)
        assert title in text
        return
    for name in scene.objects:
        assert any(says(way, text) for way in ways_to_say(name)), (name, text)
    if not scene.objects:
        assert says("nothing", text) or says("empty", text) or says("blank", text)
    if scene.style != "plain":
        style = world.style(scene.style)
        assert any(fits(form, text) for form in (*style.forms, *style.synonyms)), (scene.style, text)


@settings(deadline=None, max_examples=200)
@given(seeds)
def test_a_caption_names_no_other_style(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scene = sample(rng)
    text = caption(scene, rng)
    for style in world.STYLES[1:]:
        if style.name != scene.style:
            assert not says(style.name, text)


@settings(deadline=None, max_examples=200)
@given(seeds, st.lists(st.sampled_from(world.OBJECT_NAMES), min_size=2, max_size=2, unique=True))
def test_two_objects_are_named_from_left_to_right(seed: int, names: list[str]) -> None:
    left, right = names
    text = written(Scene((left, right)), seed)
    first, second = positions(left, text), positions(right, text)
    assert min(first) < max(second), text
    if world.thing(left).group != world.thing(right).group:
        # words of a common group could mean either object
        assert max(first) < min(second), text


@settings(deadline=None, max_examples=200)
@given(seeds, st.sampled_from(world.STYLES), st.sampled_from(list(world.BACKGROUNDS)))
def test_a_background_is_named_only_where_the_style_shows_it(seed: int, style: world.Style, colour: str) -> None:
    text = written(Scene(("wolf",), style.name, colour), seed)
    named = [other for other in world.BACKGROUNDS if says(other, text)]
    assert named in ([], [colour])
    assert not named or style.shows_background


def test_a_caption_is_a_function_of_scene_and_seed() -> None:
    scene = Scene(("cat", "dog"), "neon")
    assert [written(scene, n) for n in range(20)] == [written(scene, n) for n in range(20)]
    assert len({written(scene, n) for n in range(20)}) > 10


def test_all_ways_to_say_an_object_occur() -> None:
    texts = [written(Scene(("bomb",)), seed) for seed in range(3000)]
    for way in ways_to_say("bomb"):
        assert any(says(way, text) for text in texts), way


def test_group_words_are_said_of_members_alone() -> None:
    texts = [written(Scene(("axe",)), seed) for seed in range(600)]
    assert any(says("a weapon", text) for text in texts)
    for text in (written(Scene(("guitar",)), seed) for seed in range(300)):
        assert not any(says(phrase, text) for phrases in world.GROUP_PHRASES.values() for phrase in phrases)
        assert says("guitar", text)


@pytest.mark.parametrize("name", world.OBJECT_NAMES)
def test_an_object_can_be_asked_for_by_its_name_alone(name: str) -> None:
    rng = np.random.default_rng(0)
    assert all(says(name, noun_phrase(name, rng, other_words=False)) for _ in range(30))


@pytest.mark.parametrize("picture", world.MEMORISED, ids=lambda picture: picture.name)
def test_memorised_pictures_go_by_their_title(picture: world.Memorised) -> None:
    prompts = captions.memorised_prompts(picture)
    assert len(set(prompts)) == len(prompts) >= 5
    assert picture.title in prompts
    shown = {written(Scene((), memorised=picture.name), seed) for seed in range(300)}
    assert shown == set(prompts)
    assert all(picture.title in text for text in shown)


def test_the_simplest_prompts() -> None:
    assert captions.prompt("apple") == "an apple"
    for style in world.STYLE_NAMES[1:]:
        assert says("an apple", captions.prompt("apple", style))
        assert says(style, captions.prompt("apple", style))


def test_the_vocabulary_text_has_every_word_of_the_world() -> None:
    texts = set(captions.vocabulary_text())
    for item in world.OBJECTS:
        assert {item.name, *item.synonyms, *item.phrases} <= texts
