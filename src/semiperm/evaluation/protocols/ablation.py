"""What anchoring and the gate each contribute."""

from collections.abc import Callable

from semiperm.evaluation.context import Context
from semiperm.evaluation.protocol import ArmPlan, Protocol, the_target
from semiperm.evaluation.protocols.multi import rows


def parts(context: Context) -> list[ArmPlan]:
    """Return the four arms: with and without anchoring, always open or opened by the prompt."""
    concept, given = the_target(context), context.task.settings
    loose = context.make(concept, settings={**given, "anchor_weight": 0.0, "instant_anchor_weight": 0.0})
    held = context.make(concept, settings=given)
    return [
        ArmPlan("neither", (loose,), "always"),
        ArmPlan("anchoring", (held,), "always"),
        ArmPlan("gate", (loose,), context.gate),
        ArmPlan("both", (held,), context.gate),
    ]


def declared(name: str, shows: str, arms: Callable[[Context], list[ArmPlan]], *, published: str = "") -> Protocol:
    """Return the declaration of a protocol that makes erasures of one concept and compares them."""
    return Protocol(
        name=name,
        version=1,
        shows=shows,
        cost="terrarium: a training and about 2 minutes an arm; open: a training and `objects` an arm",
        metrics=("found", "clip", "clip errors", "frechet", "kernel", "alteration"),
        rows=rows,
        arms=arms,
        published=published,
        makes=True,
    )


PROTOCOL = declared(
    "ablation", "anchoring and the gate each preserve other concepts, and the target is gone with both", parts,
    published="ablation",
)  # fmt: skip
