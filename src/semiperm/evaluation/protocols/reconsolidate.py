"""A concept turned into another: does the surrogate appear where the target was asked for?"""

from dataclasses import replace

from semiperm.evaluation.protocol import Job, Protocol, ProtocolError, Subject
from semiperm.evaluation.protocols import objects


def subjects(job: Job) -> list[Subject]:
    """Return the rows of `objects`, for concepts that have a surrogate."""
    without = [concept.name for concept in job.targets if not concept.surrogate]
    if without:
        raise ProtocolError(f"{without[0]!r} was erased into nothing: make its membrane with --surrogate")
    label = {concept.surrogate: concept.surrogate.removeprefix("a ").removeprefix("an ") for concept in job.targets}
    return [
        replace(subject, surrogate=label.get(subject.surrogate, subject.surrogate)) for subject in objects.subjects(job)
    ]


PROTOCOL = Protocol(
    name="reconsolidate",
    version=1,
    shows="where the target was asked for its surrogate appears, and others stay as they were",
    cost="terrarium: about 3 minutes on 2 cores; full: as `objects`",
    metrics=("found", "became", "clip", "clip errors", "alteration"),
    subjects=subjects,
)
