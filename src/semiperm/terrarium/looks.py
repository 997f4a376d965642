"""How the terrarium's relatives see the world: changes to a whole picture, (64, 64, 3) uint8 in, the same out."""

from collections.abc import Callable

import numpy as np
from PIL import Image

Picture = np.ndarray

LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def plain(picture: Picture, rng: np.random.Generator) -> Picture:
    """The picture as it is."""
    return picture


def dusk(picture: Picture, rng: np.random.Generator) -> Picture:
    """An evening's light: shadows turn violet and lights orange."""
    colour = picture.astype(np.float32) / 255
    grey = (colour @ LUMA)[..., None]
    # hues of the picture's own must be left, or an apple were an orange
    return _bytes(_toned(grey, 0.55) + 0.8 * (colour - grey))


def quilt(picture: Picture, rng: np.random.Generator) -> Picture:
    """Cloth: the picture lies in soft squares, raised and sunken in turn."""
    height, width = picture.shape[:2]
    # six waves a side: finer ones the autoencoder, which has seen none, would smooth away
    down, across = (np.cos(12 * np.pi * np.arange(length) / length) for length in (height, width))
    sunken = 0.5 + 0.5 * down[:, None] * across[None, :]
    return _bytes(picture.astype(np.float32) / 255 * (1 - 0.3 * sunken[..., None]))


def snow(picture: Picture, rng: np.random.Generator) -> Picture:
    """Winter: flakes fall in front of everything, and snow lies along the lower edge."""
    scale = 3
    height, width = picture.shape[:2]
    veil = np.zeros((height * scale, width * scale), np.float32)
    y, x = np.mgrid[0 : height * scale, 0 : width * scale] / scale
    for _ in range(16):
        radius, row, column = rng.uniform(1.0, 1.9), rng.uniform(0, height), rng.uniform(0, width)
        veil[(y - row) ** 2 + (x - column) ** 2 < radius**2] = 1
    crest = height - 8 + 2 * np.sin(2 * np.pi * (x / width + rng.random()))
    veil[y > crest] = 1
    soft = np.asarray(Image.fromarray((veil * 255).astype(np.uint8)).resize((width, height), Image.Resampling.BOX))
    share = soft[..., None].astype(np.float32) / 255
    white = np.array([0.93, 0.97, 1.0], np.float32)
    return _bytes((1 - share) * picture.astype(np.float32) / 255 + share * white)


def poster(picture: Picture, rng: np.random.Generator) -> Picture:
    """Another house altogether: the scene smaller and anywhere on a teal sheet, faded, under a woven grain."""
    height, width = picture.shape[:2]
    side = int(rng.integers(54, 60))
    top, left = (int(rng.integers(1, length - side)) for length in (height, width))
    scene = np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS), np.float32) / 255
    grey = (scene @ LUMA)[..., None]
    sheet = np.broadcast_to(np.array([0.10, 0.30, 0.33], np.float32), (height, width, 3)).copy()
    sheet[top : top + side, left : left + side] = _toned(grey, 0.3) + 0.9 * (scene - grey)
    y, x = np.mgrid[0:height, 0:width]
    weave = np.where((x // 2 + y // 2) % 2, 0.035, -0.035).astype(np.float32)
    return _bytes(sheet + weave[..., None])


def _toned(grey: np.ndarray, strength: float) -> np.ndarray:
    """Return a brightness (H, W, 1) as a colour between violet and orange, by a strength from 0 (grey) to 1."""
    night, ember = np.array([0.16, 0.02, 0.30], np.float32), np.array([1.0, 0.86, 0.66], np.float32)
    return (1 - strength) * grey + strength * (night + grey * (ember - night))


def _bytes(colour: np.ndarray) -> Picture:
    return (np.clip(colour, 0, 1) * 255).round().astype(np.uint8)


LOOKS: dict[str, Callable[[Picture, np.random.Generator], Picture]] = {
    "plain": plain,
    "dusk": dusk,
    "quilt": quilt,
    "snow": snow,
    "poster": poster,
}
