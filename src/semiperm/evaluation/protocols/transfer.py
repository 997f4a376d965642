"""Membranes carried to other models without training, beside membranes that were trained on those models."""

from semiperm.erasing.recipe import recipe_of
from semiperm.evaluation.protocol import Job, Protocol, ProtocolError, Variant
from semiperm.evaluation.protocols.multi import subjects
from semiperm.evaluation.report import CARRIED, NATIVE
from semiperm.membrane.membrane import Membrane
from semiperm.models.base import DiffusionModel


def variants(job: Job) -> list[Variant]:
    """Return the membranes on their own model, then on every other carried and native.

    A native membrane is trained on that very model by the carried one's recipe. A model of another architecture has
    the native one only, because a membrane cannot be carried there.
    """
    if not job.models:
        raise ProtocolError("this protocol carries membranes to other models: name some with --on")
    found = [Variant(f"{NATIVE}{job.model.name}", job.membranes, job.transport)]
    for model in job.models:
        if model.fingerprint() == job.model.fingerprint():
            found.append(Variant(f"{CARRIED}{model.name}", job.membranes, job.transport, model))
        native = tuple(_native(job, membrane, model) for membrane in job.membranes)
        found.append(Variant(f"{NATIVE}{model.name}", native, job.transport, model))
    return found


def _native(job: Job, membrane: Membrane, model: DiffusionModel) -> Membrane:
    if job.make is None:
        raise ProtocolError("this protocol trains membranes on the other models: it needs a way to make them")
    return job.make(membrane.card.concept, recipe_of(membrane.card), on=model)


PROTOCOL = Protocol(
    name="transfer",
    version=2,
    shows="membranes do on other models what they do on the one that they were made for, beside membranes made there",
    cost="terrarium: about 8 minutes a model on 2 cores, 4 of them for its own membrane; full: as `objects` and a "
    "training, for each model",
    metrics=("found", "clip", "clip errors", "frechet", "alteration"),
    subjects=subjects,
    variants=variants,
)
