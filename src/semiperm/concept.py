"""The concept: what is erased, as data."""

import hashlib
from typing import Literal

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from semiperm.paths import file_name

Kind = Literal["object", "style", "explicit", "memorised"]

# characters of a name in a file name; four bytes each leave room for suffixes in the 255 bytes of file systems
LONGEST = 50


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
