"""Captions of everyday scenes: picture quality, and agreement with the text."""

from semiperm.evaluation.context import Context
from semiperm.evaluation.protocol import ArmPlan, Protocol
from semiperm.evaluation.subject import Subject


def rows(context: Context, arm: ArmPlan) -> list[Subject]:
    """Return the world's captions, beside real pictures of what they describe."""
    return context.world.everyday(context.seeds)


PROTOCOL = Protocol(
    name="coco",
    version=2,
    shows="captions of everyday scenes give pictures as good and as true to the text as before",
    cost="terrarium: about 4 minutes on 2 cores; open: 30,000 pictures, twice",
    metrics=("clip", "frechet", "kernel", "alteration"),
    rows=rows,
    published="coco",
    files=("prompts",),
)
