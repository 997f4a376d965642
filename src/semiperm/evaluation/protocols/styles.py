"""Artistic styles: the target style on many scenes, other styles and plain objects beside it."""

from semiperm.evaluation.prompts import beside, by_name, known, read_csv
from semiperm.evaluation.protocol import Job, Protocol, Subject, spread
from semiperm.terrarium import captions, world

SEEDS = 10
OBJECTS = ("dog", "bus", "rose", "owl")


def subjects(job: Job) -> list[Subject]:
    """Return one row a style; in the full form one row an artist of the CSV file."""
    erased = {c.name.lower() for c in job.targets}
    if job.form == "full":
        lines = read_csv(job.prompts, "an artists' CSV (prompt, evaluation_seed, artist)")
        artists = list(dict.fromkeys(line.artist for line in lines))
        return [
            Subject(
                artist,
                "erased" if artist.lower() in erased else "kept",
                tuple(line.shot for line in lines if line.artist == artist),
                label=artist,
                text=artist,
            )
            for artist in artists
        ]
    known(job.targets)
    seeds = job.seeds or SEEDS
    targets = [c for c in job.targets if c.kind == "style"]
    found = [Subject(c.name, "erased", spread(by_name(c), 3 * seeds, 3000), c.name, c.name) for c in targets]
    for number, look in enumerate(world.STYLE_NAMES):
        if look not in erased and look != "plain":
            prompts = [captions.prompt(name, look) for name in OBJECTS]
            found.append(Subject(look, "kept", spread(prompts, seeds, 4000 + 100 * number), look, look))
    return found + beside(OBJECTS, "other domain", seeds, 5000)


PROTOCOL = Protocol(
    name="styles",
    version=1,
    shows="a style or an artist is gone, and other styles and what is painted stay",
    cost="terrarium: about 3 minutes on 2 cores; full: 20 pictures an artist, twice",
    metrics=("found", "clip", "frechet", "alteration"),
    subjects=subjects,
    reported="styles",
    kind="style",
)
