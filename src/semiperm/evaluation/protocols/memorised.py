"""Memorised pictures: how near what is made comes to the original."""

from pathlib import Path

import numpy as np
from PIL import Image

from semiperm.evaluation.prompts import beside
from semiperm.evaluation.prompts import memorised as picture_of
from semiperm.evaluation.protocol import Job, Protocol, ProtocolError, Subject, every, spread
from semiperm.evaluation.terrarium import original
from semiperm.terrarium import captions, world

SEEDS = 10
TEMPLATES = ("{}", "a painting of {}", "{}, masterpiece", "the famous picture {}", "a print of {}")


def subjects(job: Job) -> list[Subject]:
    """Return the targets and the other memorised pictures, each against its original."""
    seeds = job.seeds or SEEDS
    if job.form == "full":
        originals = _originals(job.reference)
        erased = {c.name.lower() for c in job.targets}
        missing = erased - {name.lower() for name in originals}
        if missing:
            raise ProtocolError(f"{job.reference} has no picture named after {sorted(missing)[0]!r}")
        return [
            Subject(
                name,
                "erased" if name.lower() in erased else "kept",
                every([template.format(name) for template in TEMPLATES], seeds, 0),
                text=name,
                original=picture,
            )
            for name, picture in originals.items()
        ]
    erased = {picture_of(c.name).title for c in job.targets if c.kind == "memorised"}
    return [
        *(
            Subject(
                picture.title,
                "erased" if picture.title in erased else "kept",
                spread(captions.memorised_prompts(picture), (3 if picture.title in erased else 1) * seeds, 7000),
                label=picture.name,
                text=picture.title,
                original=original(picture.name),
            )
            for picture in sorted(world.MEMORISED, key=lambda picture: picture.title not in erased)
        ),
        *beside(("cat", "boat", "rose", "tree"), "other domain", seeds, 7300),
    ]


def _originals(folder: Path | None) -> dict[str, np.ndarray]:
    if folder is None:
        raise ProtocolError("this protocol compares with the originals: give a folder of them with --reference")
    found = {
        path.stem.replace("_", " "): np.asarray(Image.open(path).convert("RGB"))
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp")
    }
    if not found:
        raise ProtocolError(f"{folder} holds no pictures (png, jpg, webp), named after what they are called")
    return found


PROTOCOL = Protocol(
    name="memorised",
    version=1,
    shows="a memorised picture is not copied any more, and others are as before",
    cost="terrarium: about 2 minutes on 2 cores; full: 50 pictures an original, twice",
    metrics=("copies", "found", "clip", "alteration"),
    subjects=subjects,
    reported="memorised",
    kind="memorised",
)
