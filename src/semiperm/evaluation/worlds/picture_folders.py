"""Folders of pictures that a measurement refers to: originals of memorised pictures, and COCO's photographs."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from semiperm.errors import ProtocolError
from semiperm.evaluation.store import Pictures

SUFFIXES = (".jpg", ".png", ".jpeg", ".webp")
SIDE = 512


# Cached, so that the rows of all arms are equal and are judged once.
@lru_cache(maxsize=2)
def originals(folder: Path) -> dict[str, Pictures]:
    """Return the pictures of a folder by their names: the file names without suffix, with spaces for underscores.

    Raises:
        ProtocolError: there are none.
    """
    found: dict[str, Pictures] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES:
            found[path.stem.replace("_", " ")] = Pictures(_reader(path), 1)
    if not found:
        raise ProtocolError(f"{folder} has no pictures (png, jpg, webp) that are named after what they are called")
    return found


@lru_cache(maxsize=2)
def photographs(folder: Path, images: tuple[str, ...]) -> Pictures:
    """Return COCO's photographs by image id, cropped to their middle square and scaled to 512 pixels.

    Raises:
        ProtocolError: a photograph is missing.
    """
    there = {path.stem.split("_")[-1].lstrip("0"): path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES}
    missing = [name for name in images if name.lstrip("0") not in there]
    if missing:
        raise ProtocolError(
            f"{folder} lacks {len(missing)} of the {len(images)} pictures that the captions belong to, "
            f"the first of them image {missing[0]}"
        )
    return Pictures(lambda number: _square(there[images[number].lstrip("0")]), len(images))


def _reader(path: Path) -> Callable[[int], np.ndarray]:
    return lambda number: np.asarray(Image.open(path).convert("RGB"))


def _square(path: Path) -> np.ndarray:
    picture = Image.open(path).convert("RGB")
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return np.asarray(picture.crop((left, top, left + side, top + side)).resize((SIDE, SIDE)))
