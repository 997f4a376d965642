"""What several tests of the terrarium share: the font's mark, ways to name a thing, relatives made in seconds."""

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from semiperm.terrarium import scenes, world
from semiperm.terrarium.captions import caption
from semiperm.terrarium.dataset import Dataset
from semiperm.terrarium.recipe import DenoiserTraining
from semiperm.terrarium.relatives import FlowRecipe, Relative, TowerRecipe

needs_font = pytest.mark.skipif(
    not scenes.FONT.exists(), reason="scenes are drawn with the font of the package fonts-noto-color-emoji"
)


def says(phrase: str, text: str) -> bool:
    """Tell whether a text has a phrase as whole words, in any case."""
    return re.search(rf"(?<!\w){re.escape(phrase)}(?!\w)", text, re.IGNORECASE) is not None


def ways_to_say(name: str) -> list[str]:
    """Return everything that asks for an object: its name, synonyms, descriptions and its group's words."""
    item = world.thing(name)
    return [item.name, *item.synonyms, *item.phrases, *world.GROUP_PHRASES.get(item.group, ())]


def fits(form: str, text: str) -> bool:
    """Tell whether a text holds a form such as "a sketch of {}", with anything in the gap."""
    return re.search(".+".join(re.escape(part) for part in form.split("{}")), text, re.IGNORECASE) is not None


def noise_dataset(folder: Path, count: int) -> Dataset:
    """Write a training set whose pictures are noise, so that machines without the font can train on it."""
    rng = np.random.default_rng(3)
    some = [scenes.sample(rng) for _ in range(count)]
    folder.mkdir(parents=True)
    np.save(folder / "pictures.npy", rng.integers(0, 256, (count, scenes.SIZE, scenes.SIZE, 3), dtype=np.uint8))
    rows = {"scenes": [asdict(scene) for scene in some], "captions": [caption(scene, rng) for scene in some]}
    (folder / "scenes.json").write_text(json.dumps(rows))
    return Dataset(folder)


def tiny(family: str, **changes: Any) -> Relative:
    """Return the recipe of a relative that is made in seconds."""
    return Relative(
        name=family,
        what="a test's",
        minutes=1,
        family=family,  # pyright: ignore[reportArgumentType]
        training=DenoiserTraining(steps=2, batch=2, learning_rate=1e-3, warm_up=1, ema=0.5),
        tower=TowerRecipe(width=32, layers=2, heads=2, steps=1, batch=2),
        flow=FlowRecipe(layers=2, heads=2, head_width=16),
        **changes,
    )
