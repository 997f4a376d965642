"""Helpers of several tests: ways to name an object, a training set of noise, relatives that are made in seconds."""

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from semiperm.terrarium import scenes, world
from semiperm.terrarium.captions import caption
from semiperm.terrarium.hyperparameters import DenoiserTraining
from semiperm.terrarium.making.dataset import Dataset
from semiperm.terrarium.relatives import Relative, TowerHyperparameters, TransformerSize


def says(phrase: str, text: str) -> bool:
    """Return whether a text contains a phrase as whole words, in any case."""
    return re.search(rf"(?<!\w){re.escape(phrase)}(?!\w)", text, re.IGNORECASE) is not None


def ways_to_say(name: str) -> list[str]:
    """Return all words for an object: its name, synonyms, descriptions and the phrases of its group."""
    item = world.thing(name)
    return [item.name, *item.synonyms, *item.phrases, *world.GROUP_PHRASES.get(item.group, ())]


def fits(form: str, text: str) -> bool:
    """Return whether a text contains a template such as "a sketch of {}", with anything in the gap."""
    return re.search(".+".join(re.escape(part) for part in form.split("{}")), text, re.IGNORECASE) is not None


def noise_dataset(folder: Path, count: int) -> Dataset:
    """Write a training set whose pictures are noise, which takes no time to render."""
    rng = np.random.default_rng(3)
    some = [scenes.sample(rng) for _ in range(count)]
    folder.mkdir(parents=True)
    np.save(folder / "pictures.npy", rng.integers(0, 256, (count, scenes.SIZE, scenes.SIZE, 3), dtype=np.uint8))
    rows = {"scenes": [asdict(scene) for scene in some], "captions": [caption(scene, rng) for scene in some]}
    (folder / "scenes.json").write_text(json.dumps(rows))
    return Dataset(folder)


def tiny(family: str, **changes: Any) -> Relative:
    """Return a relative that is made in seconds."""
    return Relative(
        name=family,
        what="for a test",
        minutes=1,
        family=family,  # pyright: ignore[reportArgumentType]
        training=DenoiserTraining(steps=2, batch=2, learning_rate=1e-3, warm_up=1, ema=0.5),
        tower=TowerHyperparameters(width=32, layers=2, heads=2, steps=1, batch=2),
        transformer=TransformerSize(layers=2, heads=2, head_width=16),
        **changes,
    )
