"""Many membranes on one model: 1, 2, 4, ... of them together."""

from semiperm.evaluation.protocol import Job, Protocol, ProtocolError, Subject, Variant
from semiperm.evaluation.protocols import memorised, objects, styles


def subjects(job: Job) -> list[Subject]:
    """Return all targets and what must stay beside all of them."""
    if not job.targets:
        raise ProtocolError("this protocol compares numbers of membranes: give several with --membrane")
    kinds = {"style": styles, "memorised": memorised}
    erased = {concept.name for concept in job.targets}
    found: dict[str, Subject] = {}
    for concept in job.targets:
        of_kind = kinds.get(concept.kind, objects)
        for subject in of_kind.subjects(job):
            if subject.role == "erased" or subject.name not in erased:
                found.setdefault(subject.name, subject)
    return list(found.values())


def variants(job: Job) -> list[Variant]:
    """Return the first 1, 2, 4, ... membranes and all of them; what the others erase must stay meanwhile."""
    numbers = [2**power for power in range(10) if 2**power < len(job.membranes)] + [len(job.membranes)]
    names = [membrane.card.concept.name for membrane in job.membranes]
    return [
        Variant(
            f"{number} together",
            job.membranes[:number],
            job.transport,
            spared=frozenset(names[number:]) - frozenset(names[:number]),
        )
        for number in numbers
    ]


PROTOCOL = Protocol(
    name="multi",
    version=3,
    shows="what 1, 2, 4, ... membranes together do to their targets and to everything else",
    cost="terrarium: about 2 minutes a number of membranes; full: as `objects`, for each number",
    metrics=("found", "clip", "clip errors", "frechet", "alteration"),
    subjects=subjects,
    variants=variants,
    reported="multi",
)
