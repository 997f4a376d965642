"""Scenes of the terrarium: what a picture shows, and drawing it from emoji glyphs."""

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from semiperm.terrarium.transforms import TRANSFORMS
from semiperm.terrarium.world import BACKGROUNDS, MEMORISED, OBJECTS, STYLES, Memorised, thing

SIZE = 64
# all glyphs in one PNG, and a JSON object from each character to its square: left, top, side
GLYPH_SHEET = Path(__file__).parent / "glyphs" / "glyphs.png"
GLYPH_INDEX = GLYPH_SHEET.with_suffix(".json")

# shares of the scenes that `sample` draws
TWO_OBJECTS = 0.30
MEMORISED_SHARE = 0.04
EMPTY_SHARE = 0.02
PLAIN_SHARE = 0.36


@dataclass(frozen=True)
class Scene:
    """What a picture shows: no object, one, or two from left to right; or a memorised picture."""

    objects: tuple[str, ...]
    style: str = "plain"
    background: str = "white"
    memorised: str | None = None


@lru_cache(maxsize=1)
def _sheet() -> tuple[Image.Image, dict[str, tuple[int, int, int]]]:
    with Image.open(GLYPH_SHEET) as sheet:
        sheet.load()
    return sheet, json.loads(GLYPH_INDEX.read_text(encoding="utf-8"))


@lru_cache(maxsize=128)
def glyph(character: str) -> Image.Image:
    """Return an emoji, cropped to its ink and padded to a square, as RGBA.

    Raises:
        KeyError: the glyph sheet lacks the character.
    """
    sheet, squares = _sheet()
    if character not in squares:
        raise KeyError(
            f"{GLYPH_SHEET} has no glyph for {character!r}: "
            "make the sheet again with `python -m semiperm.terrarium.making.glyph_sheet FONT.ttf`"
        )
    left, top, side = squares[character]
    return sheet.crop((left, top, left + side, top + side))


def _place(canvas: Image.Image, ink: Image.Image, x: float, y: float, size: int) -> None:
    stamp = ink.resize((size, size), Image.Resampling.BOX if size < 60 else Image.Resampling.BICUBIC)
    canvas.paste(stamp, (round(x - size / 2), round(y - size / 2)), stamp)


def _pose(name: str, size: int, rng: np.random.Generator) -> tuple[Image.Image, int]:
    ink = glyph(thing(name).glyph)
    if rng.random() < 0.5:
        ink = ink.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    turned = ink.rotate(rng.uniform(-14, 14), resample=Image.Resampling.BICUBIC, expand=True)
    return turned, round(size * turned.width / ink.width)


def draw_memorised(picture: Memorised) -> np.ndarray:
    """Draw a memorised picture: (64, 64, 3) uint8, always the same."""
    canvas = Image.new("RGB", (SIZE, SIZE), picture.background)
    for character, x, y, size in picture.glyphs:
        _place(canvas, glyph(character), x, y, size)
    return np.asarray(canvas)


def draw(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Draw a scene with random size, place, tilt and flip of its objects: (64, 64, 3) uint8."""
    if scene.memorised is not None:
        return draw_memorised(next(m for m in MEMORISED if m.name == scene.memorised))
    shade = np.clip(np.array(BACKGROUNDS[scene.background]) + rng.uniform(-8, 8, 3), 0, 255).astype(int)
    canvas = Image.new("RGB", (SIZE, SIZE), (int(shade[0]), int(shade[1]), int(shade[2])))
    count = len(scene.objects)
    for place, name in enumerate(scene.objects):
        if count == 1:
            size = int(rng.integers(40, 53))
            x, y = SIZE / 2 + rng.uniform(-5, 5), SIZE / 2 + rng.uniform(-5, 5)
        else:
            size = int(rng.integers(27, 31))
            x, y = 16.5 + 31 * place + rng.uniform(-1.5, 1.5), SIZE / 2 + rng.uniform(-10, 10)
        ink, side = _pose(name, size, rng)
        _place(canvas, ink, x, y, side)
    return TRANSFORMS[scene.style](np.asarray(canvas), rng)


def sample(rng: np.random.Generator) -> Scene:
    """Sample a scene of the training set: most have one object, and about half have a style other than plain."""
    chance = rng.random()
    if chance < MEMORISED_SHARE:
        return Scene((), memorised=MEMORISED[int(rng.integers(len(MEMORISED)))].name)
    background = list(BACKGROUNDS)[int(rng.integers(len(BACKGROUNDS)))]
    style = "plain" if rng.random() < PLAIN_SHARE else STYLES[1 + int(rng.integers(len(STYLES) - 1))].name
    if chance < MEMORISED_SHARE + EMPTY_SHARE:
        return Scene((), style, background)
    if chance < MEMORISED_SHARE + EMPTY_SHARE + TWO_OBJECTS:
        first, second = rng.choice(len(OBJECTS), 2, replace=False)
        if rng.random() < 0.8:
            style = "plain"
        return Scene((OBJECTS[int(first)].name, OBJECTS[int(second)].name), style, background)
    return Scene((OBJECTS[int(rng.integers(len(OBJECTS)))].name,), style, background)
