"""What anchoring and transport each contribute."""

from collections.abc import Callable

from semiperm.concept import Concept
from semiperm.evaluation.protocol import Job, Protocol, ProtocolError, Variant
from semiperm.evaluation.protocols.multi import subjects
from semiperm.membrane.membrane import Membrane


def making(job: Job) -> tuple[Concept, Callable[..., Membrane]]:
    """Return the one concept of a job that compares ways to erase it, and what makes its membranes.

    Raises:
        ProtocolError: there are several concepts, or nothing to make membranes with.
    """
    if len(job.targets) != 1:
        raise ProtocolError(f"this protocol compares ways to erase one concept, not {len(job.targets)}: give one")
    if job.make is None:
        raise ProtocolError("this protocol makes membranes of its own, which a folder of pictures cannot")
    return job.targets[0], job.make


def parts(job: Job) -> list[Variant]:
    """Return the four ways: with and without anchoring, always open or opened by the prompt."""
    concept, make = making(job)
    loose, held = make(concept, anchor_weight=0.0, instant_anchor_weight=0.0), make(concept)
    return [
        Variant("neither", (loose,), "always"),
        Variant("anchoring", (held,), "always"),
        Variant("transport", (loose,), job.transport),
        Variant("both", (held,), job.transport),
    ]


def declared(name: str, shows: str, variants: Callable[[Job], list[Variant]]) -> Protocol:
    """Return the declaration of a protocol that compares ways to erase one concept."""
    return Protocol(
        name=name,
        version=1,
        shows=shows,
        cost="terrarium: a training and about 2 minutes a way; full: a training and `objects` a way",
        metrics=("found", "clip", "clip errors", "frechet", "alteration"),
        subjects=subjects,
        variants=variants,
        reported=name,
    )


PROTOCOL = declared("ablation", "what anchoring and transport each contribute", parts)
