"""Prompts to measure with: the templates of the literature, the terrarium's own, and public CSV files."""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from semiperm.concept import Concept
from semiperm.evaluation.protocol import ProtocolError, Role, Subject, every
from semiperm.evaluation.store import Shot
from semiperm.terrarium import captions, world


def clip_templates() -> list[str]:
    """Return the 80 prompt templates of CLIP's zero-shot evaluation (arXiv:2103.00020, sec. 3.1.4)."""
    both = ("a", "the")
    look = (
        "bad", "low resolution", "cropped", "bright", "dark", "close-up", "black and white", "pixelated",
        "jpeg corrupted", "blurry", "good",
    )  # fmt: skip
    trait = ("hard to see", "clean", "dirty", "cool", "large", "nice", "weird", "small")
    medium = (
        "a sculpture", "a rendering", "graffiti", "a tattoo", "a drawing", "a painting", "a doodle", "a sketch",
        "a rendition", "art", "itap",
    )  # fmt: skip
    made = ("embroidered", "plastic", "origami", "toy", "cartoon", "plushie")
    return [
        *(f"a {one} photo of {article} {{}}." for one in look for article in both),
        *(f"a photo of {article} {one} {{}}." for one in trait for article in both),
        *(f"a photo of {word} {{}}." for word in ("a", "the", "many", "my", "one")),
        *(f"{one} of {article} {{}}." for one in medium for article in both),
        "itap of my {}.",
        *(f"{article} {{}} in a video game." for article in both),
        *(f"{article} {one} {{}}." for one in made for article in both),
    ]


@dataclass(frozen=True)
class CsvPrompt:
    """One line of a public prompt file."""

    shot: Shot
    image: str = ""
    artist: str = ""


def read_csv(path: Path | None, what: str) -> list[CsvPrompt]:
    """Read the prompts of I2P, COCO-30k or the artists' files, with their seeds and guidance.

    The seed is in the column `evaluation_seed` or `sd_seed`, the guidance in `sd_guidance_scale` if there is one.

    Raises:
        ProtocolError: no file was given, a column is missing, or a cell cannot be read; the message says which.
    """
    if path is None:
        raise ProtocolError(f"this protocol takes its prompts from a file: give {what} with --prompts")
    if not path.exists():
        raise ProtocolError(f"{path} does not exist: --prompts should be {what}")
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        columns = rows.fieldnames or []
        seed = next((name for name in ("evaluation_seed", "sd_seed") if name in columns), None)
        if "prompt" not in columns or seed is None:
            missing = "prompt" if "prompt" not in columns else "evaluation_seed (or sd_seed)"
            raise ProtocolError(f"{path} has no column {missing}; its columns are: {', '.join(columns) or 'none'}")
        found = []
        for row in rows:
            try:
                guidance = float(row["sd_guidance_scale"]) if row.get("sd_guidance_scale") else None
                shot = Shot(row["prompt"].strip(), int(float(row[seed])), guidance=guidance)
            except (TypeError, ValueError, AttributeError) as error:
                raise ProtocolError(f"{path}, line {rows.line_num}: {error}") from error
            found.append(CsvPrompt(shot, row.get("image_id") or "", row.get("artist") or ""))
    if not found:
        raise ProtocolError(f"{path} has no prompts below its header")
    return found


def by_name(concept: Concept) -> list[str]:
    """Return every prompt that names a concept of the terrarium."""
    name = concept.name
    if concept.kind == "style":
        look = world.style(name)
        return [form.format(captions.with_article(item)) for form in look.forms for item in ("cat", "car", "apple")]
    if concept.kind == "memorised":
        return captions.memorised_prompts(memorised(name))
    return [template.format(captions.with_article(name)) for template in dict.fromkeys(captions.SINGLE)]


def by_other_words(concept: Concept) -> list[str]:
    """Return prompts that ask for a concept of the terrarium by synonym or paraphrase."""
    if concept.kind == "style":
        forms = world.style(concept.name).synonyms
        return [form.format(captions.with_article(item)) for form in forms for item in ("cat", "car")]
    if concept.kind == "memorised":
        return []
    item = world.thing(concept.name)
    return [captions.with_article(word) for word in item.synonyms] + list(item.phrases)


def beside(names: Iterable[str], role: Role, seeds: int, first_seed: int) -> list[Subject]:
    """Return a row for each of some plain objects of the terrarium that should stay as they are."""
    return [
        Subject(name, role, every([captions.prompt(name)], max(2, seeds // 2), first_seed + 100 * number), name, name)
        for number, name in enumerate(names)
    ]


def memorised(title: str) -> world.Memorised:
    """Return the terrarium's memorised picture of a title.

    Raises:
        ProtocolError: there is none.
    """
    for picture in world.MEMORISED:
        if title in (picture.title, picture.name):
            return picture
    titles = ", ".join(picture.title for picture in world.MEMORISED)
    raise ProtocolError(f"the terrarium has memorised no picture called {title!r}; it has: {titles}")


def known(concepts: Iterable[Concept]) -> None:
    """Check that the terrarium's oracle can name all concepts.

    Raises:
        ProtocolError: it cannot.
    """
    for concept in concepts:
        if concept.kind == "memorised":
            memorised(concept.name)
        elif concept.name not in (world.STYLE_NAMES if concept.kind == "style" else world.OBJECT_NAMES):
            what = "style" if concept.kind == "style" else "object"
            names = world.STYLE_NAMES if concept.kind == "style" else world.OBJECT_NAMES
            raise ProtocolError(f"the terrarium has no {what} {concept.name!r}; it has: {', '.join(names)}")
