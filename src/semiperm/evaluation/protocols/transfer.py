"""Membranes carried to other models without training."""

from semiperm.evaluation.protocol import Job, Protocol, ProtocolError, Variant
from semiperm.evaluation.protocols.multi import subjects


def variants(job: Job) -> list[Variant]:
    """Return the same membranes on every model, the one that they were made for first."""
    if not job.models:
        raise ProtocolError("this protocol carries membranes to other models: name some with --on")
    return [
        Variant(f"on {model.name}", job.membranes, job.transport, None if model is job.model else model)
        for model in (job.model, *job.models)
    ]


PROTOCOL = Protocol(
    name="transfer",
    version=1,
    shows="membranes do on other models what they do on the one that they were made for",
    cost="terrarium: about 3 minutes a model on 2 cores; full: as `objects`, for each model",
    metrics=("found", "clip", "clip errors", "frechet", "alteration"),
    subjects=subjects,
    variants=variants,
)
