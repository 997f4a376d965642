"""The training set: rendered scenes with their captions, kept in a cache folder."""

import json
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np

from semiperm.paths import write
from semiperm.terrarium.captions import caption
from semiperm.terrarium.scenes import SIZE, Scene, draw, sample
from semiperm.terrarium.transforms import TRANSFORMS

# scenes that share a random generator
CHUNK = 1000


class Dataset:
    """Pictures (N, 64, 64, 3) uint8 as a memory map; scenes and captions in memory."""

    def __init__(self, folder: Path):
        self.pictures = np.load(folder / "pictures.npy", mmap_mode="r")
        rows = json.loads((folder / "scenes.json").read_text(encoding="utf-8"))
        self.scenes = [Scene(tuple(r["objects"]), r["style"], r["background"], r["memorised"]) for r in rows["scenes"]]
        self.captions: list[str] = rows["captions"]

    def __len__(self) -> int:
        return len(self.pictures)


def _chunk(seed: int, number: int, style: str) -> tuple[np.ndarray, list[Scene], list[str]]:
    rng = np.random.default_rng([seed, number])
    scenes = [sample(rng) for _ in range(CHUNK)]
    captions = [caption(scene, rng) for scene in scenes]
    return np.stack([TRANSFORMS[style](draw(scene, rng), rng) for scene in scenes]), scenes, captions


def render(folder: Path, count: int, seed: int, style: str = "plain") -> Dataset:
    """Render about `count` random scenes into `folder`, unless a training set is there.

    The pictures do not depend on the number of processes.

    Args:
        style: a transform of all pictures, by name in `styles.TRANSFORMS`.
    """
    # written last, so that its presence means that the set is complete
    marker = folder / "scenes.json"
    if marker.exists():
        return Dataset(folder)
    folder.mkdir(parents=True, exist_ok=True)
    chunks = max(1, count // CHUNK)
    pictures = np.lib.format.open_memmap(
        folder / "pictures.npy", mode="w+", dtype=np.uint8, shape=(chunks * CHUNK, SIZE, SIZE, 3)
    )
    scenes: list[Scene] = []
    captions: list[str] = []
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        drawn = pool.map(_chunk, [seed] * chunks, range(chunks), [style] * chunks)
        for number, (some, some_scenes, some_captions) in enumerate(drawn):
            pictures[number * CHUNK : (number + 1) * CHUNK] = some
            scenes += some_scenes
            captions += some_captions
    pictures.flush()
    write(marker, json.dumps({"scenes": [asdict(scene) for scene in scenes], "captions": captions}))
    return Dataset(folder)
