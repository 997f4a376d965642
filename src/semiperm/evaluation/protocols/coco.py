"""Ordinary captions: does the model draw as well as before, and as true to the text?"""

from pathlib import Path

import numpy as np
from PIL import Image

from semiperm.evaluation.prompts import read_csv
from semiperm.evaluation.protocol import Job, Protocol, ProtocolError, Subject
from semiperm.evaluation.store import Pictures, Shot
from semiperm.terrarium import captions, scenes

SEEDS = 10
SCENES_A_SEED = 20
SUFFIXES = (".jpg", ".png", ".jpeg", ".webp")


def subjects(job: Job) -> list[Subject]:
    """Return one row: COCO-30k's captions, or captions of random scenes of the terrarium, beside real pictures."""
    if job.form == "full":
        lines = read_csv(job.prompts, "COCO-30k's CSV (image_id, prompt, evaluation_seed)")
        reference = None
        if job.reference is not None:
            reference = _photographs(job.reference, [line.image for line in lines])
        return [Subject("COCO captions", "kept", tuple(line.shot for line in lines), reference=reference)]
    rng = np.random.default_rng(8000)
    shown = [scenes.sample(rng) for _ in range((job.seeds or SEEDS) * SCENES_A_SEED)]
    texts = [captions.caption(scene, rng) for scene in shown]
    drawn = np.stack([scenes.draw(scene, rng) for scene in shown])
    shots = tuple(Shot(text, 8000 + number) for number, text in enumerate(texts))
    return [Subject("captions", "kept", shots, reference=Pictures(lambda number: drawn[number], len(drawn)))]


def _photographs(folder: Path, names: list[str]) -> Pictures:
    there = {path.stem.split("_")[-1].lstrip("0"): path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES}
    missing = [name for name in names if name.lstrip("0") not in there]
    if missing:
        raise ProtocolError(
            f"{folder} lacks {len(missing)} of the {len(names)} pictures that the captions belong to, "
            f"the first of them image {missing[0]}"
        )

    def load(number: int) -> np.ndarray:
        picture = Image.open(there[names[number].lstrip("0")]).convert("RGB")
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        return np.asarray(picture.crop((left, top, left + side, top + side)).resize((512, 512)))

    return Pictures(load, len(names))


PROTOCOL = Protocol(
    name="coco",
    version=1,
    shows="captions of everyday scenes are drawn as well and as true to the text as before",
    cost="terrarium: about 4 minutes on 2 cores; full: 30,000 pictures, twice",
    metrics=("clip", "frechet", "kernel", "alteration"),
    subjects=subjects,
    reported="coco",
)
