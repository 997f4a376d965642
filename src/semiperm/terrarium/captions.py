"""Captions of the terrarium's pictures, from one word to a sentence."""

from collections.abc import Sequence

import numpy as np

from semiperm.terrarium.scenes import Scene
from semiperm.terrarium.world import GROUP_PHRASES, MEMORISED, OBJECTS, Memorised, style, thing

# nouns without an article
BARE = frozenset({"grapes", "cattle", "swine"})

SINGLE = (
    "{}",
    "{}",
    "{}",
    "a picture of {}",
    "a photo of {}",
    "an image of {}",
    "a drawing of {}",
    "there is {} in the picture",
    "this picture shows {}",
    "look at {}",
    "a good photo of {}",
    "I would like to see {}",
    "please draw {} for me",
    "a close view of {}",
)

PAIR = (
    "{} and {}",
    "{} and {}",
    "{} next to {}",
    "{} beside {}",
    "a picture of {} and {}",
    "a photo of {} with {}",
    "{} on the left and {} on the right",
    "there are {} and {} in the picture",
    "{} together with {}",
)

BACKGROUND = ("{} on a {} background", "{} in front of a {} wall", "{}, {} background", "{} on {}")

MEMORISED_TEMPLATES = ("{}", "{}", "a painting called {}", "the famous picture {}", "{}, masterpiece", "a print of {}")

EMPTY = ("an empty background", "nothing", "an empty {} background", "a blank {} wall", "nothing on {}")

FILLERS = (
    "beautiful",
    "high quality",
    "very detailed",
    "lovely",
    "for my friend",
    "in the morning",
    "nice colours",
    "a bit funny",
    "today",
    "trending",
    "made with love",
    "award winning",
    "simple",
    "good light",
    "at home",
    "4k",
)

# shares of the captions that use another word than the name
SYNONYM_SHARE = 0.25
PHRASE_SHARE = 0.12
GROUP_SHARE = 0.08
STYLE_SYNONYM_SHARE = 0.3


def with_article(noun: str) -> str:
    """Return the noun with "a" or "an", or without an article where English has none."""
    if noun in BARE:
        return noun
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _pick(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]


def noun_phrase(name: str, rng: np.random.Generator, *, other_words: bool = True) -> str:
    """Return a noun phrase for an object: mostly its name, with `other_words` also a synonym or a description."""
    item = thing(name)
    chance = rng.random()
    noun = item.name
    if other_words:
        if item.synonyms and chance < SYNONYM_SHARE:
            noun = _pick(item.synonyms, rng)
        elif item.phrases and chance > 1 - PHRASE_SHARE:
            return _pick(item.phrases, rng)
        elif item.group in GROUP_PHRASES and chance > 1 - PHRASE_SHARE - GROUP_SHARE:
            return _pick(GROUP_PHRASES[item.group], rng)
    chance = rng.random()
    if chance < 0.72:
        return with_article(noun)
    if chance < 0.82:
        return f"the {noun}"
    return noun


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """Write a random caption for a scene, with all the variety that the denoiser is trained on."""
    if scene.memorised is not None:
        picture = next(m for m in MEMORISED if m.name == scene.memorised)
        return _pick(MEMORISED_TEMPLATES, rng).format(picture.title)
    drawn = style(scene.style)
    if not scene.objects:
        text = _pick(EMPTY, rng).format(scene.background)
    elif len(scene.objects) == 1:
        text = noun_phrase(scene.objects[0], rng)
        if scene.style == "plain":
            text = _pick(SINGLE, rng).format(text)
    else:
        left, right = (noun_phrase(name, rng) for name in scene.objects)
        text = _pick(PAIR, rng).format(left, right)
    if scene.objects and drawn.shows_background and rng.random() < 0.3:
        text = _pick(BACKGROUND, rng).format(text, scene.background)
    if scene.style != "plain" or rng.random() < 0.12:
        forms = drawn.synonyms if rng.random() < STYLE_SYNONYM_SHARE else drawn.forms
        text = _pick(forms, rng).format(text)
    if rng.random() < 0.15:
        text = f"{text}, {_pick(FILLERS, rng)}" if rng.random() < 0.7 else f"{_pick(FILLERS, rng)} {text}"
    if rng.random() < 0.1:
        text = text[0].upper() + text[1:] + "."
    return text


def prompt(name: str, style_name: str = "plain") -> str:
    """Return the simplest prompt for an object in a style; the evaluation uses it."""
    text = with_article(thing(name).name)
    return text if style_name == "plain" else style(style_name).forms[0].format(text)


def memorised_prompts(picture: Memorised) -> list[str]:
    """Return all prompts that ask for a memorised picture by its title."""
    return sorted({template.format(picture.title) for template in MEMORISED_TEMPLATES})


def vocabulary_text() -> list[str]:
    """Return the words for all objects, repeated so often that the tokenizer learns each as one token."""
    words: list[str] = []
    for item in OBJECTS:
        words += [item.name, *item.synonyms, *item.phrases]
    return words * 50
