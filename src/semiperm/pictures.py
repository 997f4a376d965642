"""Pictures: the shots that decide them, generating them on fixed seeds, reading them, and drawing them as grids."""

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, UnidentifiedImageError

from semiperm.errors import SemipermError, clipped
from semiperm.paths import read, whole

STEPS = 25
GUIDANCE = 5.0
BATCH = 8

# the formats whose decoders run no other program, and the sizes that are no attack on memory
FORMATS = ("PNG", "JPEG", "WEBP")
MAX_BYTES = 256 * 1024**2
MAX_SIDE = 8192

CELL = 128
CAPTION = 18
MARGIN = 10
INK = (40, 40, 46)


@dataclass(frozen=True)
class Shot:
    """One picture to generate: what decides it besides the pipeline and the settings of a run."""

    prompt: str
    seed: int
    negative: str = ""
    guidance: float | None = None


def spread(prompts: Sequence[str], count: int, first_seed: int) -> tuple[Shot, ...]:
    """Return `count` shots that cycle through the prompts, each with its own seed."""
    return tuple(Shot(prompts[number % len(prompts)], first_seed + number) for number in range(count))


def every(prompts: Sequence[str], seeds: int, first_seed: int) -> tuple[Shot, ...]:
    """Return every prompt with each of `seeds` seeds."""
    return tuple(Shot(prompt, first_seed + seed) for prompt in prompts for seed in range(seeds))


def generate(
    pipeline: Any,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    batch: int = BATCH,
    **more: Any,
) -> np.ndarray:
    """Return one picture for each prompt and its seed: (N, H, W, 3) uint8.

    `pipeline` is a diffusers pipeline or a Guard. Every picture has its own generator, so it does not depend on the
    others of its batch.
    """
    if len(prompts) != len(seeds):
        raise ValueError(f"there are {len(prompts)} prompts, but {len(seeds)} seeds")
    made: list[np.ndarray] = []
    for start in range(0, len(prompts), batch):
        some = list(prompts[start : start + batch])
        generators = [torch.Generator().manual_seed(seed) for seed in seeds[start : start + batch]]
        images = pipeline(
            prompt=some, generator=generators, num_inference_steps=steps, guidance_scale=guidance, **more
        ).images
        made += [np.asarray(image.convert("RGB")) for image in images]
    return np.stack(made)


@dataclass(frozen=True)
class Row:
    """A row of pictures (N, H, W, 3) uint8, what it shows, and a caption for each picture (or none)."""

    label: str
    pictures: np.ndarray
    captions: Sequence[str] = ()


def grid(rows: Sequence[Row], title: str = "") -> Image.Image:
    """Draw rows of pictures below each other; pictures are enlarged without smoothing to 128 pixels or more."""
    font = ImageFont.load_default(13)
    columns = max(len(row.pictures) for row in rows)
    side = max(CELL, max(row.pictures.shape[1] for row in rows) if rows else CELL)
    heights = [CAPTION + side + (CAPTION if row.captions else 0) + MARGIN for row in rows]
    width = columns * (side + MARGIN) + MARGIN
    top = CAPTION + MARGIN if title else MARGIN
    sheet = Image.new("RGB", (width, top + sum(heights)), (255, 255, 255))
    pen = ImageDraw.Draw(sheet)
    if title:
        large = ImageFont.load_default(15)
        pen.text((MARGIN, MARGIN // 2), fitted(title, large, width - 2 * MARGIN), INK, large)
    for row, height in zip(rows, heights, strict=True):
        pen.text((MARGIN, top), fitted(row.label, font, width - 2 * MARGIN), INK, font)
        for column, picture in enumerate(row.pictures):
            left = MARGIN + column * (side + MARGIN)
            enlarged = Image.fromarray(picture).resize((side, side), Image.Resampling.NEAREST)
            sheet.paste(enlarged, (left, top + CAPTION))
            if row.captions:
                text = fitted(row.captions[column], font, side)
                pen.text((left, top + CAPTION + side + 2), text, INK, font)
        top += height
    return sheet


def fitted(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """Return the text on one line, cut with an ellipsis where it is wider than `width` pixels."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def read_picture(path: Path) -> np.ndarray:
    """Return the picture in a file: (H, W, 3) uint8.

    Raises:
        OSError: there is no file, or it is none that could be a picture.
        SemipermError: it is not a picture, is damaged, or is larger than 8,192 pixels a side.
    """
    return decoded(read(path, MAX_BYTES), path)


def decoded(data: bytes, path: Path) -> np.ndarray:
    """Return the picture in some bytes: (H, W, 3) uint8.

    Args:
        path: where they come from, for messages.

    Raises:
        SemipermError: they are not a picture, are damaged, or make one that is larger than 8,192 pixels a side.
    """
    try:
        with warnings.catch_warnings():
            # What Pillow warns of is an error below.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if max(image.size) <= MAX_SIDE:
                    return np.asarray(image.convert("RGB"))
                size = f"{image.width:,} x {image.height:,}"
    except UnidentifiedImageError:
        raise SemipermError(f"{path} is not a picture in one of the formats {', '.join(FORMATS)}.") from None
    except Image.DecompressionBombError:
        size = "far too many"
    # Decoders raise whatever a damaged file leads them to.
    except Exception as error:
        raise SemipermError(f"{path} is a damaged picture: {clipped(error)}.") from None
    raise SemipermError(f"{path} has {size} pixels, and pictures may have {MAX_SIDE:,} a side.")


def save_png(image: Image.Image, path: Path) -> Path:
    """Write a picture as PNG, whole or not at all."""
    with whole(path) as draft:
        image.save(draft, format="PNG", optimize=True)
    return path
