"""The terrarium's styles as image transforms: (64, 64, 3) uint8 in, the same out."""

import colorsys
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Picture = np.ndarray


def _image(picture: Picture) -> Image.Image:
    return Image.fromarray(picture, "RGB")


def plain(picture: Picture, rng: np.random.Generator) -> Picture:
    """The scene as it is."""
    return picture


def _edges(picture: Picture) -> np.ndarray:
    """Edge strength in 0..1 from the colour channels' gradients."""
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
    """Round dots on a regular, slightly shaken raster over cream paper, colours exaggerated."""
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
    """Cell index of each pixel and where the grout runs, for one of 32 layouts of tiles."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(np.arange(0, 14), np.arange(0, 14), indexing="ij"), -1).reshape(-1, 2)
    centres = grid * 5.0 + rng.uniform(-1.3, 1.3, (len(grid), 2))
    pixels = np.stack(np.meshgrid(np.arange(64), np.arange(64), indexing="ij"), -1)
    distance = np.linalg.norm(pixels[:, :, None] - centres, axis=-1)
    nearest = np.partition(distance, 1, axis=-1)[..., :2]
    return distance.argmin(-1), (nearest[..., 1] - nearest[..., 0]) < 0.9


def mosaic(picture: Picture, rng: np.random.Generator) -> Picture:
    """Irregular tiles of one colour each between dark joints."""
    cells, grout = _cells(int(rng.integers(32)))
    flat = picture.reshape(-1, 3).astype(np.float32)
    index = cells.reshape(-1)
    count = np.maximum(np.bincount(index), 1)
    means = np.stack([np.bincount(index, flat[:, c]) / count for c in range(3)], -1)
    tiles = means[index].reshape(64, 64, 3)
    tiles[grout] = 0.45 * tiles[grout] + 10
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


TRANSFORMS = {
    "plain": plain,
    "sketch": sketch,
    "pixel art": pixel_art,
    "pointillism": pointillism,
    "mosaic": mosaic,
    "neon": neon,
    "vintage": vintage,
}
