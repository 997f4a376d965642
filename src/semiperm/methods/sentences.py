"""Sentences about concepts: the prompts that ask for a concept, and those that must not."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import inflect
import numpy as np

from semiperm.concept import Concept, Kind

ARTICLES = frozenset({"a", "an", "the", "some"})
STYLES = frozenset(
    {"sketch", "pencil drawing", "pixel art", "pointillism", "mosaic", "neon", "vintage", "impressionism", "cubism"}
    | {"portrait painting", "anime", "graffiti", "origami", "oil painting", "watercolour", "cartoon", "comic"}
    | {"abstract art", "statue", "sculpture", "poster", "logo", "pattern", "texture", "photograph"}
)

CARRIERS = ("cat", "car", "house", "tree", "apple", "person", "fish", "boat")

_THING = (
    "{}",
    "a {}",
    "the {}",
    "a photo of a {}",
    "a picture of the {}",
    "an image of {}",
    "a drawing of a {}",
    "there is a {} here",
    "a {} on a blue background",
    "a beautiful {} in the morning",
    "I want to see a {}",
    "a {} and a {carrier}",
    "a {carrier} and a {}",
    "a {carrier} next to a {}",
)
_STYLE = (
    "{}",
    "{} style",
    "a {} picture",
    "{carrier}, {}",
    "a {carrier} in the style of {}",
    "a {} picture of a {carrier}",
    "{} of a {carrier}",
    "a {carrier} as {}",
)
_WORK = (
    "{}",
    "{} painting",
    "a picture of {}",
    "a painting called {}",
    "the famous {}",
    "a print of {}",
    "{}, masterpiece",
)
TEMPLATES: dict[Kind, tuple[str, ...]] = {"object": _THING, "explicit": _THING, "style": _STYLE, "memorised": _WORK}


def said(phrase: str, template: str, carrier: str = "") -> str:
    """Put a phrase into a template with the right indefinite articles; an article is not repeated."""
    if phrase.split(" ")[0].lower() in ARTICLES:
        template = template.replace("a {}", "{}").replace("the {}", "{}")
    elif phrase and _article(phrase) == "an":
        template = template.replace("a {}", "an {}")
    if carrier and _article(carrier) == "an":
        template = template.replace("a {carrier}", "an {carrier}")
    return template.replace("{carrier}", carrier).replace("{}", phrase)


@lru_cache(maxsize=1)
def _english() -> Any:
    return inflect.engine()


@lru_cache(maxsize=4096)
def _article(phrase: str) -> str:
    try:
        return str(_english().a(phrase)).split(" ")[0].lower()
    except Exception:
        # inflect only takes words with letters
        return "a"


@lru_cache(maxsize=1)
def everyday() -> tuple[str, ...]:
    """Return the built-in everyday concepts, one or two words each."""
    return tuple(Path(__file__).with_name("everyday.txt").read_text(encoding="utf-8").splitlines())


def sentences(phrase: str, kind: Kind) -> list[str]:
    """Return a phrase in every template of its kind, beside or on every carrier but itself."""
    return [sentence for sentence, _ in _placed(phrase, kind, set(phrase.lower().split()))]


def _placed(phrase: str, kind: Kind, own: set[str]) -> list[tuple[str, tuple[str, str]]]:
    """Return sentences, each with its template and its carrier, which is empty where the template takes none."""
    found: dict[str, tuple[str, str]] = {}
    for template in TEMPLATES[kind]:
        for carrier in CARRIERS if "{carrier}" in template else ("",):
            if carrier not in own:
                found.setdefault(said(phrase, template, carrier), (template, carrier))
    return list(found.items())


def plural(phrase: str) -> str:
    """Return the English plural of a phrase's last word; a plural stays as it is."""
    many = str(_english().plural_noun(phrase))
    if many.endswith("ss") and many == f"{phrase}s":
        # inflect forms no plural of a plural ("dogss") and none of a proper name in -s ("Elviss").
        return f"{phrase}es" if phrase.split()[-1].istitle() else phrase
    # It also takes "bus" for the plural of "bu".
    is_plural = _english().singular_noun(phrase) and many != f"{phrase}es"
    return phrase if is_plural else many


def singular(word: str) -> str:
    """Return the English singular of a noun; a singular stays as it is."""
    return str(_english().singular_noun(word) or word) if word.isalpha() else word


def names(concept: Concept) -> list[str]:
    """Return the phrases that name a concept: its targets and, of things, their plurals."""
    countable = concept.kind in ("object", "explicit")
    return list(dict.fromkeys([*concept.targets, *(plural(phrase) for phrase in concept.targets if countable)]))


def target_prompts(concept: Concept, nothing: str = "") -> list[tuple[str, str]]:
    """Return (prompt that asks for the concept, prompt that the picture shall follow instead).

    The second has the surrogate in the concept's place. Without a surrogate it is what stood beside the concept, such
    as a style's content, and `nothing` where nothing did. Sentences in which the concept would stand beside itself are
    left out. A thing is asked for alone as often as beside something else, so that sentences of the first kind come
    more than once.
    """
    own = {word for phrase in concept.targets for word in phrase.lower().split()}
    is_style = concept.kind == "style"
    becomes = concept.surrogate or ("" if is_style else nothing)
    alone: dict[tuple[str, str], None] = {}
    beside: dict[tuple[str, str], None] = {}
    for phrase in concept.targets:
        for sentence, (template, carrier) in _placed(phrase, concept.kind, own):
            if carrier:
                beside[sentence, _instead(concept.surrogate, template, carrier)] = None
            else:
                alone[sentence, becomes] = None
    times = 1 if is_style else max(1, round(len(beside) / len(alone)))
    return [*alone] * times + [*beside]


def _instead(becomes: str, template: str, carrier: str) -> str:
    return said(becomes, template, carrier) if becomes else said(carrier, "a {}")


_SCENES = (
    "{a}",
    "a painting of {a}",
    "a photo of {a}",
    "the famous {a}",
    "{a} and {b}",
    "{a} next to {b}",
    "{a} beside {b}",
    "a picture of {a} and {b}",
    "{a} with {b}",
    "{a} on the left and {b} on the right",
    "{a} together with {b}",
)
_STYLED = ("{scene}, {style}", "a {style} of {scene}", "{scene} in the style of {style}", "{scene} as {style}")
_TAILS = (
    "",
    "",
    "",
    " on a blue background",
    ", high quality",
    " in front of a wall",
    " in the morning",
    ", beautiful",
)


def compose(things: list[str], styles: list[str], count: int, seed: int, always: str | None = None) -> list[str]:
    """Return `count` random sentences of one or two things, some in a style; every sentence has `always`."""
    rng = np.random.default_rng(seed)

    def pick(options: tuple[str, ...] | list[str]) -> str:
        return options[int(rng.integers(len(options)))]

    written = []
    for _ in range(count):
        a, b = said(pick(things), "a {}"), said(pick(things), "a {}")
        if always is not None:
            first = said(always, "a {}")
            a, b = (first, b) if rng.random() < 0.5 else (a, first)
        form = pick(_SCENES)
        if always is not None and "{b}" not in form:
            a = said(always, "a {}")
        text = form.format(a=a, b=b)
        if styles and rng.random() < 0.4:
            text = pick(_STYLED).format(scene=text, style=pick(styles))
        written.append(text + pick(_TAILS))
    return written


def composed_in_style(phrase: str, things: list[str], count: int, seed: int) -> list[str]:
    """Return `count` random sentences of one or two things, all in the style that `phrase` names."""
    scenes = compose(things, [], count, seed)
    return [_STYLED[number % len(_STYLED)].format(scene=text, style=phrase) for number, text in enumerate(scenes)]
