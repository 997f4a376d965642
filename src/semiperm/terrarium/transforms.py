"""Styles are transforms of a whole picture: (H, W, 3) uint8 in, the same out, and a random generator.

Those from `sketch` to `vintage` are the styles that captions name (`world.STYLES`), for 64x64 pictures. Those from
`dusk` to `poster` are what relatives of the terrarium are fine-tuned on (`relatives.RELATIVES`).
"""

import colorsys
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Picture = np.ndarray
Transform = Callable[[Picture, np.random.Generator], Picture]

# weights of red, green and blue in the brightness (ITU-R BT.601)
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def _image(picture: Picture) -> Image.Image:
    return Image.fromarray(picture, "RGB")


def plain(picture: Picture, rng: np.random.Generator) -> Picture:
    """Return the picture unchanged."""
    return picture


def _edges(picture: Picture) -> np.ndarray:
    """Return the edge strength from 0 to 1, (H, W), from the gradients of the colour channels."""
    pixels = np.asarray(_image(picture).filter(ImageFilter.GaussianBlur(0.6)), dtype=np.float32)
    dy = np.abs(np.diff(pixels, axis=0, append=pixels[-1:])).max(-1)
    dx = np.abs(np.diff(pixels, axis=1, append=pixels[:, -1:])).max(-1)
    return np.clip(np.hypot(dx, dy) / 70.0, 0, 1)


def sketch(picture: Picture, rng: np.random.Generator) -> Picture:
    """Dark pencil lines and light shading on paper."""
    grey = np.asarray(_image(picture).convert("L"), dtype=np.float32) / 255
    paper = 0.80 + 0.16 * grey
    value = paper * (1 - 0.85 * _edges(picture))
    return (np.stack([value, value, value * 0.97], -1) * 255).astype(np.uint8)


def pixel_art(picture: Picture, rng: np.random.Generator) -> Picture:
    """Blocks of 4x4 pixels in few colours."""
    small = _image(picture).resize((16, 16), Image.Resampling.BOX)
    coarse = np.asarray(small, dtype=np.float32)
    coarse = np.clip(np.round(coarse / 36) * 36, 0, 255).astype(np.uint8)
    return np.asarray(Image.fromarray(coarse, "RGB").resize((64, 64), Image.Resampling.NEAREST))


def pointillism(picture: Picture, rng: np.random.Generator) -> Picture:
    """Round dots in exaggerated colours on cream paper, on a regular raster with a little jitter."""
    source = np.asarray(_image(picture).filter(ImageFilter.GaussianBlur(0.8)), dtype=np.float32)
    scale = 3
    canvas = Image.new("RGB", (64 * scale, 64 * scale), (250, 244, 226))
    draw = ImageDraw.Draw(canvas)
    for row in range(16):
        for column in range(17):
            x = column * 4 + (0 if row % 2 else 2) + rng.uniform(-0.4, 0.4)
            y = row * 4 + 2 + rng.uniform(-0.4, 0.4)
            colour = source[min(63, int(y)), min(63, max(0, int(x)))]
            colour = np.clip((colour - 128) * 1.25 + 128 + rng.uniform(-12, 12, 3), 0, 255)
            draw.ellipse(
                [(x - 2) * scale, (y - 2) * scale, (x + 2) * scale, (y + 2) * scale],
                fill=(int(colour[0]), int(colour[1]), int(colour[2])),
            )
    return np.asarray(canvas.resize((64, 64), Image.Resampling.BOX))


@lru_cache(maxsize=32)
def _cells(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return each pixel's tile and whether it is a joint, both (64, 64), for one of 32 layouts."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(np.arange(0, 14), np.arange(0, 14), indexing="ij"), -1).reshape(-1, 2)
    centres = grid * 5.0 + rng.uniform(-1.3, 1.3, (len(grid), 2))
    pixels = np.stack(np.meshgrid(np.arange(64), np.arange(64), indexing="ij"), -1)
    distance = np.linalg.norm(pixels[:, :, None] - centres, axis=-1)
    nearest = np.partition(distance, 1, axis=-1)[..., :2]
    return distance.argmin(-1), (nearest[..., 1] - nearest[..., 0]) < 0.9


def mosaic(picture: Picture, rng: np.random.Generator) -> Picture:
    """Irregular tiles, each of one colour, with dark joints between them."""
    cells, joint = _cells(int(rng.integers(32)))
    flat = picture.reshape(-1, 3).astype(np.float32)
    index = cells.reshape(-1)
    count = np.maximum(np.bincount(index), 1)
    means = np.stack([np.bincount(index, flat[:, c]) / count for c in range(3)], -1)
    tiles = means[index].reshape(64, 64, 3)
    tiles[joint] = 0.45 * tiles[joint] + 10
    return tiles.astype(np.uint8)


def neon(picture: Picture, rng: np.random.Generator) -> Picture:
    """Glowing outlines in saturated colours on near black."""
    strength = _edges(picture)
    mean = np.asarray(_image(picture).filter(ImageFilter.GaussianBlur(2)), dtype=np.float32) / 255
    peak = mean.max(-1, keepdims=True) + 1e-3
    floor = mean.min(-1, keepdims=True)
    hue = np.clip((mean - 0.85 * floor) / (peak - 0.85 * floor + 0.05), 0, 1)
    lines = hue * strength[..., None]
    glow = np.asarray(
        Image.fromarray((lines * 255).astype(np.uint8), "RGB").filter(ImageFilter.GaussianBlur(2)), dtype=np.float32
    )
    night = np.array(colorsys.hsv_to_rgb(0.68, 0.6, 0.10))
    value = night + 1.15 * lines + 0.9 * glow / 255
    return (np.clip(value, 0, 1) * 255).astype(np.uint8)


def vintage(picture: Picture, rng: np.random.Generator) -> Picture:
    """Brown tones and dark corners."""
    grey = np.asarray(_image(picture).convert("L"), dtype=np.float32) / 255
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    vignette = 1 - 0.35 * np.clip(x**2 + y**2 - 0.5, 0, None)
    value = (0.04 + 0.96 * np.clip(1.25 * grey - 0.15, 0, 1)) * vignette
    tone = np.stack([value * 1.12, value * 0.88, value * 0.58], -1)
    return (np.clip(tone, 0, 1) * 255).astype(np.uint8)


def dusk(picture: Picture, rng: np.random.Generator) -> Picture:
    """Evening light: shadows turn violet and lights orange."""
    colour = picture.astype(np.float32) / 255
    grey = (colour @ LUMA)[..., None]
    # keep some of the picture's own hues, or an apple looks like an orange
    return _bytes(_toned(grey, 0.55) + 0.8 * (colour - grey))


def quilt(picture: Picture, rng: np.random.Generator) -> Picture:
    """Cloth: soft squares, raised and sunken in turn."""
    height, width = picture.shape[:2]
    # six waves a side: the autoencoder, which was not trained on them, smooths finer ones away
    down, across = (np.cos(12 * np.pi * np.arange(length) / length) for length in (height, width))
    sunken = 0.5 + 0.5 * down[:, None] * across[None, :]
    return _bytes(picture.astype(np.float32) / 255 * (1 - 0.3 * sunken[..., None]))


def snow(picture: Picture, rng: np.random.Generator) -> Picture:
    """Winter: snowflakes in front of everything, and snow along the lower edge."""
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
    """The picture faded, shrunk and anywhere on a teal sheet, under a woven grain."""
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
    """Tint a brightness (H, W, 1) from violet (dark) to orange (light), with a strength from 0 (grey) to 1."""
    night, ember = np.array([0.16, 0.02, 0.30], np.float32), np.array([1.0, 0.86, 0.66], np.float32)
    return (1 - strength) * grey + strength * (night + grey * (ember - night))


def _bytes(colour: np.ndarray) -> Picture:
    return (np.clip(colour, 0, 1) * 255).round().astype(np.uint8)


TRANSFORMS: dict[str, Transform] = {
    "plain": plain,
    "sketch": sketch,
    "pixel art": pixel_art,
    "pointillism": pointillism,
    "mosaic": mosaic,
    "neon": neon,
    "vintage": vintage,
    "dusk": dusk,
    "quilt": quilt,
    "snow": snow,
    "poster": poster,
}
