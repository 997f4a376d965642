"""What a world is: how concepts are asked for in it, what must stay beside them, and who judges the pictures."""

from collections.abc import Collection, Sequence
from typing import ClassVar

from semiperm.concept import Concept, Kind
from semiperm.errors import ProtocolError
from semiperm.evaluation.judge import Judge
from semiperm.evaluation.store import Pictures
from semiperm.evaluation.subject import Subject


class World:
    """Answers what protocols ask about concepts, so that no protocol knows which world it measures in.

    A world overrides what it can provide; everything else raises ProtocolError.

    Attributes:
        name: the key in `worlds.WORLDS`.
        steps, guidance: settings of the sampler unless a task has its own.
        seeds: pictures a prompt unless a task has its own number.
        plain: the name of the style that means no style; empty if there is none.
    """

    name: ClassVar[str] = ""
    steps: ClassVar[int] = 30
    guidance: ClassVar[float] = 7.5
    seeds: ClassVar[int] = 10
    plain: ClassVar[str] = ""

    def judge(self, device: str = "cpu") -> Judge:
        """Return who judges the pictures; `device` is where its models may run."""
        raise self._lacks("judge")

    def require(self, metrics: Collection[str], files: Collection[str]) -> None:
        """Check that there is what a protocol needs, before hours are spent on its erasures and pictures.

        Args:
            metrics: names of `semiperm.evaluation.figures.FIGURES`.
            files: the open world's options that the protocol reads, "prompts" or "reference".

        Raises:
            ProtocolError, JudgeError: something is missing or cannot be read; the message names the option.
        """

    # concepts

    def names(self, kind: Kind) -> tuple[str, ...]:
        """Return the names of all concepts of a kind that the world knows."""
        raise self._lacks(f"list of concepts of the kind {kind!r}")

    def check(self, concepts: Sequence[Concept]) -> None:
        """Check that the world can measure concepts.

        Raises:
            ProtocolError: it does not know one; the message lists what it knows.
        """

    def of_kind(self, kind: Kind, concepts: Sequence[Concept]) -> list[Concept]:
        """Return the concepts that a protocol about one kind measures.

        Raises:
            ProtocolError: there are concepts, but none of this kind.
        """
        found = [concept for concept in concepts if asked_as(concept.kind) == kind]
        if concepts and not found:
            names = ", ".join(f"{concept.name} ({concept.kind})" for concept in concepts)
            raise ProtocolError(f"this protocol measures concepts of the kind {kind!r}, and there are only: {names}")
        return found

    def label(self, concept: Concept) -> str:
        """Return what the judge calls a concept."""
        return concept.name

    def near(self, concept: Concept) -> list[str]:
        """Return the names of what resembles a concept most: its group, or all others of its kind."""
        raise self._lacks("list of concepts that resemble each other")

    def unrelated(self, concepts: Sequence[Concept]) -> list[str]:
        """Return the names of objects that are none of the concepts, everyday things first."""
        raise self._lacks("list of everyday objects")

    def original(self, concept: Concept) -> Pictures:
        """Return the one picture that a memorised concept is a copy of."""
        raise self._lacks("originals of memorised pictures")

    # prompts

    def noun(self, name: str) -> str:
        """Return a noun with its article."""
        return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"

    def prompt(self, name: str, style: str = "") -> str:
        """Return the plainest prompt for an object, in a style if one is given."""
        raise self._lacks("plain prompts for objects")

    def by_name(self, concept: Concept) -> list[str]:
        """Return every prompt that asks for a concept by its name."""
        raise self._lacks("prompts by name")

    def synonyms(self, concept: Concept) -> list[str]:
        """Return prompts that ask for a concept by a synonym; none where the world knows none."""
        raise self._lacks("synonyms")

    def descriptions(self, concept: Concept) -> list[str]:
        """Return prompts that ask for a concept by describing it; none where the world knows none."""
        raise self._lacks("descriptions")

    def other_words(self, concept: Concept) -> list[str]:
        """Return prompts that ask for a concept by anything but its name."""
        return [*self.synonyms(concept), *self.descriptions(concept)]

    def ordinary(self, count: int, without: Sequence[Concept]) -> list[str]:
        """Return distinct everyday prompts that ask for none of some concepts, near neighbours among them."""
        raise self._lacks("everyday prompts")

    # rows

    def target(self, concept: Concept, seeds: int) -> Subject:
        """Return the row of prompts that ask for a concept by its name."""
        raise self._lacks("prompts by name")

    def same_kind(self, kind: Kind, targets: Sequence[Concept], seeds: int) -> list[Subject]:
        """Return a row for each other concept of the targets' kind, which must stay."""
        raise self._lacks(f"other concepts of the kind {kind!r}")

    def other_kinds(self, kind: Kind, targets: Sequence[Concept], seeds: int) -> list[Subject]:
        """Return a row for each concept of another kind than the targets', which must stay; none if it has none."""
        return []

    def explicit(self, seeds: int) -> list[Subject]:
        """Return rows of prompts that lead to explicit pictures, whether or not they name anything explicit."""
        raise self._lacks("prompts that lead to explicit pictures")

    def everyday(self, seeds: int) -> list[Subject]:
        """Return rows of captions of everyday scenes, with real pictures of them if there are any."""
        raise self._lacks("captions of everyday scenes")

    def styled(self, seeds: int) -> tuple[list[Subject], list[Subject]]:
        """Return a row for each style over all objects, and a row for each object over all styles."""
        raise self._lacks("grid of styles and objects")

    def _lacks(self, what: str) -> ProtocolError:
        return ProtocolError(f"the world {self.name!r} has no {what}, which this protocol needs")


def asked_as(kind: Kind) -> Kind:
    """Return the kind whose prompts a concept is measured with: style, memorised, or object for all others."""
    return kind if kind in ("style", "memorised") else "object"
