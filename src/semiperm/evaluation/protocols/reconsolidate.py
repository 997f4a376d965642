"""A concept turned into another: the surrogate appears where the target was asked for."""

from dataclasses import replace

from semiperm.errors import ProtocolError
from semiperm.evaluation.context import Context
from semiperm.evaluation.protocol import ArmPlan, Protocol
from semiperm.evaluation.protocols.one_kind import about
from semiperm.evaluation.subject import Subject


def rows(context: Context, arm: ArmPlan) -> list[Subject]:
    """Return the rows of `objects`, for concepts that have a surrogate.

    Raises:
        ProtocolError: a concept has none.
    """
    without = [concept.name for concept in context.targets if not concept.surrogate]
    if without:
        raise ProtocolError(f"{without[0]!r} was erased without a surrogate: make its erasure with --surrogate")
    return [
        replace(subject, surrogate=subject.surrogate.removeprefix("a ").removeprefix("an "))
        for subject in about("object")(context, arm)
    ]


PROTOCOL = Protocol(
    name="reconsolidate",
    version=1,
    shows="the surrogate appears where the target was asked for, and other concepts are drawn as before",
    cost="terrarium: about 3 minutes on 2 cores; open: as `objects`",
    metrics=("found", "became", "clip", "clip errors", "alteration"),
    rows=rows,
)
