"""Neighbours in name: phrases that share words with a concept and do not name it, such as a dog for "hot dog"."""

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from semiperm.concept import Concept, spellings, without_accents
from semiperm.errors import MethodError
from semiperm.gate import Span, spans_of
from semiperm.methods import sentences
from semiperm.methods.sentences import ARTICLES, STYLES, names, plural, singular

# Words at which a noun phrase ends; the rest of a prompt stands beside it.
_ENDS = ARTICLES | frozenset(
    {"of", "in", "on", "at", "by", "with", "without", "and", "or", "but", "to", "from", "for", "as", "over", "under"}
    | {"behind", "beside", "near", "next", "between", "into", "onto", "around", "above", "below", "against", "through"}
    | {"is", "are", "was", "were", "has", "have", "that", "which", "who", "this", "these", "those", "no", "any"}
    | {"my", "your", "his", "her", "its", "our", "their", "every", "each", "all", "both", "another", "many", "several"}
    | {"one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "few"}
)
_PIECE = re.compile(r"[^\s\-,;:!?\"()]+|[,;:!?\"()]")
_MARK = frozenset(',;:!?"()')


@lru_cache(maxsize=1)
def _nouns() -> frozenset[str]:
    return frozenset(Path(__file__).with_name("nouns.txt").read_text(encoding="utf-8").splitlines())


def words(text: str) -> list[str]:
    """Return the words and punctuation marks of a text as they are compared: lower case, plain letters, no hyphens."""
    return [piece for piece, _ in _pieces(text)]


def own_words(concept: Concept) -> set[str]:
    """Return the words that ask for the concept, without articles."""
    return {word for phrase in concept.targets for word in words(phrase)} - ARTICLES - _MARK


def candidates(concept: Concept, more: Sequence[str] = ()) -> list[str]:
    """Return what an anchor can be: everyday concepts that do not name the target, parts of its name, and `more`."""
    own = own_words(concept)

    def is_other(text: str) -> bool:
        # "vintage" is the style of "a vintage photo", but "a dog" is no "hot dog".
        is_itself = concept.kind == "style" and text in STYLES and set(words(text)) <= own
        return not is_itself and not _named(concept, text)

    return list(dict.fromkeys([*filter(is_other, [*sentences.everyday(), *_parts(concept)]), *more]))


def neighbours(concept: Concept, more: Sequence[str] = ()) -> list[str]:
    """Return the candidates that must be told from the concept: those that share a word with it, and `more`."""
    own = own_words(concept)
    return [text for text in candidates(concept, more) if text in more or own & _singular_too(text)]


def kept_phrases(concept: Concept, more: Sequence[str]) -> list[str]:
    """Return the longer phrases in `more` that contain a name of the concept, with the plurals of things.

    "hot dog" contains "dog" and is kept; so is the same phrase in "a hot dog on a plate".

    Raises:
        MethodError: one of `more` asks for the concept itself.
    """
    kept: dict[str, None] = {}
    for text in more:
        pieces = _pieces(text)
        for start, end in _named(concept, text):
            first, last = start, end
            while first > 0 and pieces[first - 1][0] not in _ENDS | _MARK:
                first -= 1
            while last < len(pieces) and pieces[last][0] not in _ENDS | _MARK:
                last += 1
            if (first, last) == (start, end):
                raise MethodError(
                    f"The anchor {text!r} asks for {concept.name!r} itself, which cannot be erased and kept: leave it "
                    "out of more_anchors, or give the longer name of what shall be kept."
                )
            phrase = text[pieces[first][1][0] : pieces[last - 1][1][1]]
            kept[phrase] = None
            if concept.kind in ("object", "explicit"):
                kept[plural(phrase)] = None
    return list(kept)


def spoken(concept: Concept, phrase: str) -> list[str]:
    """Return sentences about a neighbour, or another phrase, that do not ask for the concept beside it."""
    kind = "style" if phrase in STYLES else "object"
    return [text for text in sentences.sentences(phrase, kind) if not _named(concept, text.replace(phrase, "", 1))]


def _parts(concept: Concept) -> list[str]:
    """Return the single nouns of the concept's names of several words."""
    # Only nouns: "hot" is nothing that can be drawn, and "Gogh" is Van Gogh.
    known = _nouns() | set(sentences.everyday())
    split = [words(phrase) for phrase in concept.targets]
    single = [word for many in split if len(set(many) - ARTICLES) > 1 for word in many]
    return [noun for word in single for noun in (word, singular(word)) if noun in known]


def _named(concept: Concept, text: str) -> list[Span]:
    """Return which pieces of a text are a name of the concept."""
    whole = words(text)
    return sorted({span for name in _whole_names(tuple(names(concept))) for span in spans_of(name, whole)})


@lru_cache(maxsize=16)
def _whole_names(phrases: tuple[str, ...]) -> frozenset[tuple[str, ...]]:
    split = {tuple(words(spelling)) for phrase in phrases for spelling in spellings(phrase)}
    return frozenset(map(_without_article, split))


def _without_article(pieces: tuple[str, ...]) -> tuple[str, ...]:
    return pieces[1:] if len(pieces) > 1 and pieces[0] in ARTICLES else pieces


def _singular_too(text: str) -> set[str]:
    own = set(words(text))
    return own | {plural(word) for word in own}


def _pieces(text: str) -> list[tuple[str, Span]]:
    """Return the words and punctuation marks of a text as they are compared, with their places in it."""
    return [(_plain(found.group()), found.span()) for found in _PIECE.finditer(text)]


def _plain(word: str) -> str:
    plain = without_accents(word).lower().replace("\u2019", "'").strip(".")
    return "and" if plain == "&" else plain or word
