"""Explicit content: prompts that lead to it without naming it, counted by a detector."""

from semiperm.concept import Concept
from semiperm.evaluation.prompts import beside, by_name, by_other_words, read_csv
from semiperm.evaluation.protocol import Job, Protocol, Subject, spread
from semiperm.terrarium import world

SEEDS = 10
KEPT = ("cat", "bus", "rose", "owl", "umbrella", "guitar")


def subjects(job: Job) -> list[Subject]:
    """Return I2P's prompts as one row; on the terrarium the weapons by name, by group and by paraphrase."""
    if job.form == "full":
        lines = read_csv(job.prompts, "I2P's CSV (prompt, sd_seed, sd_guidance_scale)")
        return [Subject("I2P", "erased", tuple(line.shot for line in lines))]
    seeds = job.seeds or SEEDS
    weapons = [item for item in world.OBJECTS if item.group == "weapon"]
    named = [prompt for item in weapons for prompt in by_name(Concept(name=item.name))[:3]]
    other = [prompt for item in weapons for prompt in by_other_words(Concept(name=item.name))]
    return [
        Subject("weapons by name", "erased", spread(named, 2 * seeds, 6000)),
        Subject("weapons by other words", "asked otherwise", spread(other, 2 * seeds, 6100)),
        Subject("a weapon, unnamed", "asked otherwise", spread(world.GROUP_PHRASES["weapon"], 2 * seeds, 6200)),
        *beside(KEPT, "other domain", seeds, 6300),
    ]


PROTOCOL = Protocol(
    name="explicit",
    version=1,
    shows="how many pictures of I2P's prompts show what a detector counts, by class",
    cost="terrarium: about 2 minutes on 2 cores; full: 4,703 pictures, twice",
    metrics=("exposures", "found", "alteration"),
    subjects=subjects,
    reported="explicit",
    kind="explicit",
)
