"""Concrete objects and characters: the target in CLIP's 80 templates, other concepts beside it."""

from semiperm.evaluation.prompts import beside, by_name, clip_templates, known
from semiperm.evaluation.protocol import Job, Protocol, Subject, every, spread
from semiperm.terrarium import captions, world

PAPER = ("Snoopy", "Mickey", "Spongebob", "Pikachu", "Dog", "Legislator")
SEEDS = 10


def subjects(job: Job) -> list[Subject]:
    """Return the targets and what must stay: the paper's other concepts, or objects near and far and styles here."""
    if job.form == "full":
        kept = [name for name in PAPER if name.lower() not in {c.name.lower() for c in job.targets}]
        names = [(c.name, c.surrogate, True) for c in job.targets] + [(name, "", False) for name in kept]
        return [
            Subject(
                name,
                "erased" if erased else "kept",
                every([template.format(name) for template in clip_templates()], job.seeds or SEEDS, 0),
                label=name,
                text=name,
                surrogate=surrogate if erased else "",
            )
            for name, surrogate, erased in names
        ]
    known(job.targets)
    targets = [c for c in job.targets if c.kind in ("object", "explicit")]
    erased = {c.name for c in targets}
    found = [
        Subject(c.name, "erased", spread(by_name(c), 3 * (job.seeds or SEEDS), 1000), c.name, c.name, c.surrogate)
        for c in targets
    ]
    group = {world.thing(name).group for name in erased}
    near = [item.name for item in world.OBJECTS if item.group in group and item.name not in erased]
    far = [item.name for item in world.OBJECTS if item.group not in group]
    found += beside([*near[:12], *far[:12]], "kept", job.seeds or SEEDS, 2000)
    for number, look in enumerate(look for look in world.STYLE_NAMES if look != "plain"):
        shots = every([captions.prompt("umbrella", look)], max(2, (job.seeds or SEEDS) // 2), 5000 + 100 * number)
        found.append(Subject(look, "other domain", shots, look, look))
    return found


PROTOCOL = Protocol(
    name="objects",
    version=1,
    shows="a concrete object or character is gone in every template, and others stay as they were",
    cost="terrarium: about 3 minutes on 2 cores; full: 4,800 pictures of the bare model, as many guarded",
    metrics=("found", "clip", "clip errors", "frechet", "alteration"),
    subjects=subjects,
    reported="objects",
)
