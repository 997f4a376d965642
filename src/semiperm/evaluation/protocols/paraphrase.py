"""Who opens a membrane: the concept asked for in many ways, and what merely resembles it."""

from dataclasses import replace

from semiperm.concept import Concept
from semiperm.erasing.prompts import plural
from semiperm.evaluation.prompts import by_name, by_other_words, known
from semiperm.evaluation.protocol import Job, Protocol, ProtocolError, Role, Subject, spread
from semiperm.terrarium import captions, world

SEEDS = 10
LONG = (
    "for the cover of my book I would like {} who looks straight at the reader, high quality, good light",
    "a very detailed picture that shows {} in the morning, award winning, made with love",
    "please draw {} for my friend, simple and beautiful, with nice colours",
)
BESIDE = ("{} and {}", "{} next to {}", "{} on the left and {} on the right")
NEGATIVE = ("{other}, not {one}", "{other} without {one}", "{other}, no {one}")
ORDINARY = ("dog", "bus", "rose", "house")


def subjects(job: Job) -> list[Subject]:
    """Return one row a way of asking, for each target: what should open the membrane and what must not."""
    if job.form == "full":
        raise ProtocolError("paraphrases are known for the terrarium's concepts only")
    known(job.targets)
    erased = {concept.name for concept in job.targets}
    return [subject for concept in job.targets for subject in _ways(concept, erased, job.seeds or SEEDS)]


def _ways(concept: Concept, erased: set[str], seeds: int) -> list[Subject]:
    asked: list[tuple[str, Role, list[str]]] = [("by name", "erased", by_name(concept))]
    if other := by_other_words(concept):
        asked.append(("by synonym", "asked otherwise", other))
    names = by_name(concept)
    # what is not asked for must not be another target either
    ordinary = [name for name in (*ORDINARY, *world.OBJECT_NAMES) if name not in erased][: len(ORDINARY)]
    asked.append(("in upper case", "asked otherwise", [text.upper() for text in names]))
    if concept.kind == "object":
        asked += _of_objects(concept.name, erased)
    elif concept.kind == "style":
        others = [look for look in world.STYLE_NAMES if look not in (*erased, "plain")]
        prompts = [captions.prompt(name, look) for name in ordinary[:1] for look in others]
        asked.append(("other styles", "not asked", prompts))
    else:
        others = [picture for picture in world.MEMORISED if picture.title not in erased]
        prompts = [text for picture in others for text in captions.memorised_prompts(picture)]
        asked.append(("other pictures", "not asked", prompts))
    label = concept.name
    if concept.kind == "memorised":
        label = next(picture.name for picture in world.MEMORISED if picture.title == concept.name)
    found = [
        Subject(f"{concept.name}: {way}", role, spread(prompts, seeds, 10_000 + 100 * number), label)
        for number, (way, role, prompts) in enumerate(asked)
        if prompts
    ]
    shots = spread([captions.prompt(other) for other in ordinary], seeds, 19_000)
    unwanted = tuple(replace(shot, negative=names[0]) for shot in shots)
    return [*found, Subject(f"{concept.name}: in the negative prompt", "not asked", unwanted, label)]


def _of_objects(name: str, erased: set[str]) -> list[tuple[str, Role, list[str]]]:
    one = captions.with_article(name)
    near = [item.name for item in world.OBJECTS if item.group == world.thing(name).group and item.name != name]
    others = [captions.with_article(other) for other in near[:6]]
    many = plural(name)
    return [
        ("in the plural", "asked otherwise", [f"two {many}", many, f"a picture of {many}"]),
        ("misspelt", "asked otherwise", misspelt(name)),
        ("in long sentences", "asked otherwise", [text.format(one) for text in LONG]),
        ("beside another", "asked otherwise", [form.format(one, other) for form in BESIDE for other in others]),
        ("as a negative", "asked otherwise", [form.format(one=one, other=o) for form in NEGATIVE for o in others[:2]]),
        ("near neighbours", "not asked", [captions.prompt(other) for other in near if other not in erased]),
    ]


def misspelt(name: str) -> list[str]:
    """Return a name with two letters swapped, one doubled and one left out."""
    middle = len(name) // 2
    swapped = name[: middle - 1] + name[middle] + name[middle - 1] + name[middle + 1 :] if middle else name
    doubled = name[: middle + 1] + name[middle:]
    shorter = name[:middle] + name[middle + 1 :] if len(name) > 3 else doubled
    return [captions.with_article(text) for text in dict.fromkeys((swapped, doubled, shorter)) if text != name]


PROTOCOL = Protocol(
    name="paraphrase",
    version=3,
    shows="which ways of asking open a membrane, and that near neighbours do not",
    cost="terrarium: about 2 minutes a concept on 2 cores",
    metrics=("found", "alteration"),
    subjects=subjects,
)
