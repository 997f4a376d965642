"""Scenes of the terrarium: what is in a picture, drawn from emoji glyphs."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .styles import TRANSFORMS
from .world import BACKGROUNDS, MEMORISED, OBJECTS, STYLES, Memorised, thing

SIZE = 64
FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")

TWO_OBJECTS = 0.30
MEMORISED_SHARE = 0.04
EMPTY_SHARE = 0.02
PLAIN_SHARE = 0.36


@dataclass(frozen=True)
class Scene:
    """What a picture shows: none, one or two objects from left to right, or a memorised picture."""

    objects: tuple[str, ...]
    style: str = "plain"
    background: str = "white"
    memorised: str | None = None


@lru_cache(maxsize=1)
def _font() -> ImageFont.FreeTypeFont:
    if not FONT.exists():
        raise FileNotFoundError(f"{FONT} is missing: install the Debian package fonts-noto-color-emoji")
    return ImageFont.truetype(str(FONT), 109)


@lru_cache(maxsize=128)
def glyph(character: str) -> Image.Image:
    """Return the 109-pixel bitmap of an emoji, cropped to its ink, as an RGBA square."""
    image = Image.new("RGBA", (160, 160), (0, 0, 0, 0))
    ImageDraw.Draw(image).text((12, 12), character, font=_font(), embedded_color=True)
    box = image.getbbox()
    if box is None:
        raise ValueError(f"{FONT.name} has no picture for {character!r}")
    ink = image.crop(box)
    side = max(ink.size)
    square = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    square.paste(ink, ((side - ink.width) // 2, (side - ink.height) // 2))
    return square


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
    """Draw one of the fixed pictures: (64, 64, 3) uint8, always the same."""
    canvas = Image.new("RGB", (SIZE, SIZE), picture.background)
    for character, x, y, size in picture.glyphs:
        _place(canvas, glyph(character), x, y, size)
    return np.asarray(canvas)


def draw(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Draw a scene under a random size, place, tilt and flip: (64, 64, 3) uint8."""
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
    """Draw a random scene as the training set is made of: mostly one object, half of the time in a style."""
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
