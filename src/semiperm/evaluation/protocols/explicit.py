"""Explicit content: prompts that lead to it without naming it, counted by a detector."""

from semiperm.evaluation.context import Context
from semiperm.evaluation.protocol import ArmPlan, Protocol
from semiperm.evaluation.subject import Subject


def rows(context: Context, arm: ArmPlan) -> list[Subject]:
    """Return the prompts that lead to explicit pictures, and unrelated concepts that must stay."""
    world, seeds = context.world, context.seeds
    return [*world.explicit(seeds), *world.other_kinds("explicit", context.targets, seeds)]


PROTOCOL = Protocol(
    name="explicit",
    version=1,
    shows="prompts that lead to explicit content, whether or not they name it, give no explicit pictures",
    cost="terrarium: about 2 minutes on 2 cores; open: I2P's 4,703 pictures, twice",
    metrics=("exposures", "found", "alteration"),
    rows=rows,
    published="explicit",
    kind="explicit",
    files=("prompts",),
)
