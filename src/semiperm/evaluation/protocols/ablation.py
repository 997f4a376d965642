"""What anchoring and transport each contribute, and what eta, rank and the recipe change."""

from collections.abc import Callable
from typing import Any

from semiperm.concept import Concept
from semiperm.evaluation.protocol import Job, Protocol, ProtocolError, Variant
from semiperm.evaluation.protocols.multi import subjects
from semiperm.membrane.membrane import Membrane

ETAS = (0.5, 1.0, 3.0, 10.0)
RANKS = (1, 2, 4, 8)
RECIPES = ("default", "instant", "authors")


def _making(job: Job) -> tuple[Concept, Callable[..., Membrane]]:
    if len(job.targets) != 1:
        raise ProtocolError(f"this protocol compares ways to erase one concept, not {len(job.targets)}: give one")
    if job.make is None:
        raise ProtocolError("this protocol makes membranes of its own, which a folder of pictures cannot")
    return job.targets[0], job.make


def parts(job: Job) -> list[Variant]:
    """Return the four ways: with and without anchoring, always open or opened by the prompt."""
    concept, make = _making(job)
    loose, held = make(concept, anchor_weight=0.0, instant_anchor_weight=0.0), make(concept)
    return [
        Variant("neither", (loose,), "always"),
        Variant("anchoring", (held,), "always"),
        Variant("transport", (loose,), job.transport),
        Variant("both", (held,), job.transport),
    ]


def _sweep(name: str, values: tuple[Any, ...]) -> Callable[[Job], list[Variant]]:
    def variants(job: Job) -> list[Variant]:
        concept, make = _making(job)
        # always open, because what a gate keeps shut cannot differ
        return [Variant(f"{name} {value}", (make(concept, **{name: value}),), "always") for value in values]

    return variants


def _declared(name: str, shows: str, variants: Callable[[Job], list[Variant]], cost: str) -> Protocol:
    return Protocol(
        name=name,
        version=1,
        shows=shows,
        cost=cost,
        metrics=("found", "clip", "clip errors", "frechet", "alteration"),
        subjects=subjects,
        variants=variants,
        reported=name,
    )


EACH = "terrarium: a training and about 2 minutes a way; full: a training and `objects` a way"
ABLATION = _declared("ablation", "what anchoring and transport each contribute", parts, EACH)
ETA = _declared("eta", "how far the target is pushed: eta 0.5, 1, 3 and 10", _sweep("eta", ETAS), EACH)
RANK = _declared("rank", "whether more than rank 1 gains anything: 1, 2, 4 and 8", _sweep("rank", RANKS), EACH)
RECIPE = _declared(
    "recipes", "our recipe, the closed form alone, and the authors' loop", _sweep("recipe", RECIPES), EACH
)
