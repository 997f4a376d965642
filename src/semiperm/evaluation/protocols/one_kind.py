"""Rows about concepts of one kind: the targets, others of their kind, and other kinds beside them."""

from collections.abc import Callable, Sequence

from semiperm.concept import Concept, Kind
from semiperm.evaluation.context import Context
from semiperm.evaluation.protocol import ArmPlan
from semiperm.evaluation.subject import Subject


def rows_of_kind(context: Context, kind: Kind, targets: Sequence[Concept]) -> list[Subject]:
    """Return a row for each target, each other concept of the kind, and some concepts of other kinds.

    Raises:
        ProtocolError: the world does not know a target.
    """
    world, seeds = context.world, context.seeds
    world.check(targets)
    return [
        *(world.target(concept, seeds) for concept in targets),
        *world.same_kind(kind, targets, seeds),
        *world.other_kinds(kind, targets, seeds),
    ]


def about(kind: Kind) -> Callable[[Context, ArmPlan], list[Subject]]:
    """Return the rows function of a protocol about one kind; it is the same for all arms."""

    def rows(context: Context, arm: ArmPlan) -> list[Subject]:
        return rows_of_kind(context, kind, context.world.of_kind(kind, context.targets))

    return rows
