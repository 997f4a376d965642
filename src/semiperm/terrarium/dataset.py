"""The training set: rendered scenes with their captions, drawn once and kept in a cache folder."""

import json
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np

from semiperm.atomic import write

from .captions import caption
from .looks import LOOKS
from .recipe import TerrariumRecipe
from .scenes import SIZE, Scene, draw, sample

CHUNK = 1000


class Dataset:
    """Pictures (N, 64, 64, 3) uint8 on disk, scenes and captions in memory."""

    def __init__(self, folder: Path):
        self.pictures = np.load(folder / "pictures.npy", mmap_mode="r")
        rows = json.loads((folder / "scenes.json").read_text())
        self.scenes = [Scene(tuple(r["objects"]), r["style"], r["background"], r["memorised"]) for r in rows["scenes"]]
        self.captions: list[str] = rows["captions"]

    def __len__(self) -> int:
        return len(self.pictures)


def _chunk(seed: int, number: int, look: str) -> tuple[np.ndarray, list[Scene], list[str]]:
    rng = np.random.default_rng([seed, number])
    scenes = [sample(rng) for _ in range(CHUNK)]
    captions = [caption(scene, rng) for scene in scenes]
    return np.stack([LOOKS[look](draw(scene, rng), rng) for scene in scenes]), scenes, captions


def build(folder: Path, recipe: TerrariumRecipe, look: str = "plain") -> Dataset:
    """Render the training set into `folder` unless it is there; the same for every number of processes.

    Args:
        look: what is done to every picture, by its name in `looks.LOOKS`.
    """
    marker = folder / "scenes.json"
    if marker.exists():
        return Dataset(folder)
    folder.mkdir(parents=True, exist_ok=True)
    chunks = max(1, recipe.scenes // CHUNK)
    pictures = np.lib.format.open_memmap(
        folder / "pictures.npy", mode="w+", dtype=np.uint8, shape=(chunks * CHUNK, SIZE, SIZE, 3)
    )
    scenes: list[Scene] = []
    captions: list[str] = []
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        drawn = pool.map(_chunk, [recipe.seed] * chunks, range(chunks), [look] * chunks)
        for number, (some, some_scenes, some_captions) in enumerate(drawn):
            pictures[number * CHUNK : (number + 1) * CHUNK] = some
            scenes += some_scenes
            captions += some_captions
    pictures.flush()
    write(marker, json.dumps({"scenes": [asdict(scene) for scene in scenes], "captions": captions}))
    return Dataset(folder)
