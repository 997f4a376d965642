"""Sentences about concepts: what is put before the model when a concept is erased, anchored or recognised."""

from semiperm.concept import Concept, Kind

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
    """Put a phrase into a template; "a" becomes "an" before a vowel, and an article is not said twice."""
    if phrase.split(" ")[0].lower() in ("a", "an", "the", "some"):
        template = template.replace("a {}", "{}").replace("the {}", "{}")
    elif phrase[:1].lower() in "aeiou":
        template = template.replace("a {}", "an {}")
    if carrier[:1] in "aeiou":
        template = template.replace("a {carrier}", "an {carrier}")
    return template.replace("{carrier}", carrier).replace("{}", phrase)


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
    """Return the English plural of a phrase's last word, by the rules and without the exceptions."""
    last = phrase.lower()
    if last.endswith(("s", "x", "z", "ch", "sh")):
        return f"{phrase}es"
    if last.endswith("y") and last[-2:-1] not in "aeiou":
        return f"{phrase[:-1]}ies"
    return f"{phrase}s"


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
