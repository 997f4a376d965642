"""What is to be erased: data only."""

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

Kind = Literal["object", "style", "explicit", "memorised"]


def file_name(text: str) -> str:
    """Return a text as a file's name without suffix, on any system and in any folder; empty if nothing is left."""
    return re.sub(r"[^\w.-]+", "-", text.lower()).strip(".-")


class Concept(BaseModel):
    """A concept: its name, the phrases that ask for it, and what it becomes.

    Attributes:
        name: what people call it, for instance "cat" or "Van Gogh".
        targets: every phrase that shall be erased; the name alone if not given.
        surrogate: what the target becomes; the empty prompt by default.
        kind: what sort of thing it is, which decides the sentences it is put into.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    targets: tuple[str, ...] = ()
    surrogate: str = ""
    kind: Kind = "object"

    @property
    def slug(self) -> str:
        """The name as a file's, without suffix."""
        return file_name(self.name) or "membrane"

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
