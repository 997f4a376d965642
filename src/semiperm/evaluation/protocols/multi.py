"""Many erasures on one model: 1, 2, 4, ... of them together."""

from dataclasses import replace

from semiperm.concept import Concept, Kind
from semiperm.errors import ProtocolError
from semiperm.evaluation.context import Context
from semiperm.evaluation.protocol import ArmPlan, Protocol
from semiperm.evaluation.protocols.one_kind import rows_of_kind
from semiperm.evaluation.subject import SAME_KIND, TARGET, Subject
from semiperm.evaluation.worlds.interface import asked_as


def rows(context: Context, arm: ArmPlan) -> list[Subject]:
    """Return all targets and what must stay beside them; targets that this arm does not erase must stay too.

    Raises:
        ProtocolError: there are no targets.
    """
    if not context.targets:
        raise ProtocolError("this protocol compares numbers of erasures: give several with --membrane")
    erased = {concept.name for concept in context.targets}
    spared = erased - {concept.name for concept in arm.concepts} if arm.erasures else set()
    by_kind: dict[Kind, list[Concept]] = {}
    for concept in context.targets:
        by_kind.setdefault(asked_as(concept.kind), []).append(concept)
    found: dict[str, Subject] = {}
    for kind, targets in by_kind.items():
        for subject in rows_of_kind(context, kind, targets):
            if subject.group == TARGET or subject.name not in erased:
                found.setdefault(subject.name, subject)
    return [
        replace(subject, group=SAME_KIND, expected="kept") if subject.name in spared else subject
        for subject in found.values()
    ]


def arms(context: Context) -> list[ArmPlan]:
    """Return the first 1, 2, 4, ... erasures and all of them."""
    count = len(context.erasures)
    numbers = [2**power for power in range(count.bit_length()) if 2**power < count] + [count] * bool(count)
    return [ArmPlan(f"{number} together", context.erasures[:number], context.gate) for number in numbers]


PROTOCOL = Protocol(
    name="multi",
    version=3,
    shows="1, 2, 4, ... erasures together remove all of their targets, and all else is drawn as before",
    cost="terrarium: about 2 minutes a number of erasures; open: as `objects`, for each number",
    metrics=("found", "clip", "clip errors", "frechet", "kernel", "alteration"),
    rows=rows,
    arms=arms,
    published="multi",
)
