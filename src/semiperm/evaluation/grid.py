"""Grids of pictures: rows to compare, columns on the same seeds, captions below."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from semiperm.atomic import whole

CELL = 128
CAPTION = 18
MARGIN = 10
INK = (40, 40, 46)


@dataclass(frozen=True)
class Row:
    """A row of pictures (N, H, W, 3) uint8, what it shows, and a caption for each picture (or none)."""

    label: str
    pictures: np.ndarray
    captions: Sequence[str] = ()


def draw(rows: Sequence[Row], title: str = "") -> Image.Image:
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


def save(image: Image.Image, path: Path) -> Path:
    """Write a picture, whole or not at all."""
    with whole(path) as draft:
        image.save(draft, format="PNG", optimize=True)
    return path
