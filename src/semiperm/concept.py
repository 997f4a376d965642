"""The concept: what is erased, as data."""

import hashlib
import itertools
import unicodedata
from collections.abc import Callable
from functools import lru_cache
from typing import Literal

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from semiperm.paths import file_name

Kind = Literal["object", "style", "explicit", "memorised"]

# characters of a name in a file name; four bytes each leave room for suffixes in the 255 bytes of file systems
LONGEST = 50

# Ways to write one name; each row gives all the ways in which one thing may be written.
_WAYS: tuple[Callable[[str], tuple[str, ...]], ...] = (
    lambda name: (name, name.replace(" & ", " and "), name.replace(" and ", " & ").replace(" And ", " & ")),
    lambda name: (name, name.replace("\u2019", "'"), name.replace("'", "\u2019")),
    # "spiderman" is a name, "hotdog" another word than "hot dog".
    lambda name: (name, name.replace("-", " "), name.replace("-", "")) if "-" in name else (name,),
    lambda name: (
        (name, name.replace(" ", "-")) if name.count(" ") == 1 and name.replace(" ", "").isalpha() else (name,)
    ),
    lambda name: (name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name), without_accents(name)),
    lambda name: (name, name.lower(), name[:1].upper() + name[1:], _title(name), name.upper()),
)


@lru_cache(maxsize=2**16)
def spellings(name: str) -> tuple[str, ...]:
    """Return a name in every usual spelling, the given one first: case, "&", apostrophes, hyphens, accents.

    Accents are taken away, never added: nothing says where they belong.
    """
    found = [" ".join(name.split())]
    for ways in _WAYS:
        found = list(dict.fromkeys(itertools.chain.from_iterable(map(ways, found))))
    return tuple(found)


def without_accents(text: str) -> str:
    """Return a text with plain letters in place of letters with combining marks."""
    return "".join(mark for mark in unicodedata.normalize("NFKD", text) if not unicodedata.combining(mark))


def _title(name: str) -> str:
    # str.title() makes "Tom'S" of "tom's".
    return "".join(
        letter.upper() if place == 0 or name[place - 1] in " -" else letter for place, letter in enumerate(name.lower())
    )


class Concept(BaseModel):
    """A concept: its name, the phrases that ask for it, and what it becomes.

    Attributes:
        name: what people call it, for instance "cat" or "Van Gogh".
        targets: the phrases to erase; the name alone by default.
        surrogate: what the target becomes; empty by default, which erases it into nothing.
        kind: object, style, explicit or memorised; it decides the sentences that ask for the concept.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    targets: tuple[str, ...] = ()
    surrogate: str = ""
    kind: Kind = "object"

    @property
    def slug(self) -> str:
        """The name as a file name without suffix.

        Where the file name lacks characters of the name, a hash of the name follows, so that "C++" and "C#" differ.
        """
        whole = "-".join(self.name.lower().split())
        short = file_name(self.name)[:LONGEST].strip(".-")
        if short == whole:
            return short
        digest = hashlib.sha256(whole.encode(errors="backslashreplace")).hexdigest()[:8]
        return f"{short or 'membrane'}-{digest}"

    @field_validator("name")
    @classmethod
    def _has_a_name(cls, name: str) -> str:
        if not name.strip():
            raise ValueError("a concept needs a name: the empty prompt cannot be erased")
        return name.strip()

    @model_validator(mode="after")
    def _targets_default_to_the_name(self) -> "Concept":
        targets = tuple(target.strip() for target in self.targets if target.strip()) or (self.name,)
        object.__setattr__(self, "targets", targets)
        return self
