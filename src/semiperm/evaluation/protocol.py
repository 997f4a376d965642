"""What a protocol is: the arms that it compares, the rows that it measures on each, and the metrics."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from semiperm.concept import Concept, Kind
from semiperm.erasure import Erasure
from semiperm.errors import ProtocolError
from semiperm.evaluation.context import Context
from semiperm.evaluation.subject import Subject
from semiperm.models.model import DiffusionModel


@dataclass(frozen=True)
class ArmPlan:
    """One way of erasing, to be measured.

    Attributes:
        name: name of the arm; also that of its folder of pictures.
        erasures: put on the model together; none measures the bare model.
        gate: "fitted", "paper" or "always".
        model: the model to put them on, instead of the task's.
    """

    name: str
    erasures: tuple[Erasure, ...] = ()
    gate: str = "fitted"
    model: DiffusionModel | None = None

    @property
    def concepts(self) -> list[Concept]:
        """What the erasures of this arm erase."""
        return [concept for erasure in self.erasures for concept in erasure.card.concepts]


def as_given(context: Context) -> list[ArmPlan]:
    """Return the arm of most protocols: all given erasures on the given model; none if there are none."""
    return [ArmPlan("guarded", context.erasures, context.gate)] if context.erasures else []


@dataclass(frozen=True)
class Protocol:
    """A declaration of what is measured, and what it shows and costs.

    Attributes:
        name: the key in `protocols.PROTOCOLS`.
        version: changes when figures of the protocol are no longer comparable with older ones.
        shows: the claim that a good result proves, in half a sentence.
        cost: rough number of pictures or minutes.
        metrics: names of `semiperm.evaluation.figures.FIGURES`.
        rows: returns the rows of an arm, which may depend on what the arm wears: an attack's prompts do.
        arms: returns the arms to compare; an empty list measures the bare model.
        published: name of the published table to show beside the report, in `semiperm.reports.published`.
        kind: the kind of a target that is given by its name alone.
        files: options of the open world that the protocol cannot do without: "prompts", "reference".
        makes: whether it makes the erasures that it compares, each by a method and settings of its own.
        proofs: pictures that are taken from the bare model and generated again to prove that they are equal.
    """

    name: str
    version: int
    shows: str
    cost: str
    metrics: tuple[str, ...]
    rows: Callable[[Context, ArmPlan], Sequence[Subject]]
    arms: Callable[[Context], Sequence[ArmPlan]] = field(default=as_given)
    published: str = ""
    kind: Kind = "object"
    files: tuple[str, ...] = ()
    makes: bool = False
    proofs: int = 4


def the_target(context: Context) -> Concept:
    """Return the one concept of a task that compares ways to erase it.

    Raises:
        ProtocolError: there is none, or there are several.
    """
    if len(context.targets) != 1:
        raise ProtocolError(
            f"this protocol makes erasures of one concept and compares them, but there are {len(context.targets)}: "
            "name one with --target, or give one erasure"
        )
    return context.targets[0]
