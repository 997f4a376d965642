"""UnlearnCanvas: every style with every object (arXiv:2402.11846)."""

from semiperm.evaluation.prompts import known
from semiperm.evaluation.protocol import Job, Protocol, ProtocolError, Subject, spread
from semiperm.evaluation.store import Shot
from semiperm.terrarium import captions, world

SEEDS = 10
OBJECTS = ("cat", "dog", "fox", "car", "bus", "apple", "rose", "owl", "house", "bomb")
THEMES = tuple(
    (  # noqa: SIM905
        "Abstractionism Artist_Sketch Blossom_Season Bricks Byzantine Cartoon Cold_Warm Color_Fantasy Comic_Etch "
        "Crayon Cubism Dadaism Dapple Defoliation Early_Autumn Expressionism Fauvism French Glowing_Sunset "
        "Gorgeous_Love Greenfield Impressionism Ink_Art Joy Liquid_Dreams Magic_Cube Meta_Physics Meteor_Shower Monet "
        "Mosaic Neon_Lines On_Fire Pastel Pencil_Drawing Picasso Pop_Art Red_Blue_Ink Rust Seed_Images Sketch "
        "Sponge_Dabbed Structuralism Superstring Surrealism Ukiyoe Van_Gogh Vibrant_Flow Warm_Love Warm_Smear "
        "Watercolor Winter"
    ).split()
)
THINGS = tuple(
    (  # noqa: SIM905
        "Architectures Bears Birds Butterfly Cats Dogs Fishes Flame Flowers Frogs Horses Human Jellyfish Rabbits "
        "Sandwiches Sea Statues Towers Trees Waterfalls"
    ).split()
)
FULL_SEEDS = (188, 288, 588, 688, 888)
TEMPLATE = "A {} image in {} style."


def subjects(job: Job) -> list[Subject]:
    """Return a row for each style over all objects and a row for each object over all styles."""
    if job.form == "full":
        themes, things = THEMES, THINGS
        look = {name: name.replace("_", " ") for name in themes}

        def said(thing: str, theme: str) -> str:
            return TEMPLATE.format(thing, look[theme])

    else:
        known(job.targets)
        themes, things = tuple(name for name in world.STYLE_NAMES if name != "plain"), OBJECTS

        def said(thing: str, theme: str) -> str:
            return captions.prompt(thing, theme)

    erased = {c.name.lower().replace(" ", "_") for c in job.targets}
    is_theme = any(name.lower().replace(" ", "_") in erased for name in themes)
    if job.targets and not any(name.lower().replace(" ", "_") in erased for name in (*themes, *things)):
        raise ProtocolError(f"none of {', '.join(sorted(erased))} is among this protocol's themes and objects")
    found = []
    for domain, names, others in (("theme", themes, things), ("thing", things, themes)):
        for number, name in enumerate(names):
            prompts = [said(name, other) if domain == "thing" else said(other, name) for other in others]
            if job.form == "full":
                # a picture is asked for its theme and for its object, so the rows share them
                shots = tuple(Shot(prompt, seed) for prompt in prompts for seed in FULL_SEEDS[: job.seeds])
            else:
                shots = spread(prompts, job.seeds or SEEDS, (9000 if domain == "theme" else 60_000) + 1000 * number)
            same = (domain == "theme") == is_theme
            gone = name.lower().replace(" ", "_") in erased
            role = "erased" if gone else "kept" if same else "other domain"
            found.append(Subject(name, role, shots, label=name, text=name.replace("_", " ")))
    return found


PROTOCOL = Protocol(
    name="unlearncanvas",
    version=1,
    shows="unlearning, in-domain and cross-domain retain accuracy over styles and objects",
    cost="terrarium: about 4 minutes on 2 cores; full: 5,100 pictures, twice",
    metrics=("found", "alteration"),
    subjects=subjects,
    reported="unlearncanvas",
)
