"""Make the glyph sheet that scenes are drawn from, out of the font Noto Color Emoji.

python -m semiperm.terrarium.making.glyph_sheet NotoColorEmoji.ttf
"""

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from semiperm.paths import write
from semiperm.pictures import save_png
from semiperm.terrarium.scenes import GLYPH_INDEX, GLYPH_SHEET
from semiperm.terrarium.world import CHARACTERS

# the only size of the font's bitmaps, in pixels
FONT_SIZE = 109
COLUMNS = 8


def draw_glyph(font: ImageFont.FreeTypeFont, character: str) -> Image.Image:
    """Return a character's bitmap, cropped to its ink and padded to a square, as RGBA.

    Raises:
        ValueError: the font draws nothing for the character.
    """
    image = Image.new("RGBA", (160, 160), (0, 0, 0, 0))
    ImageDraw.Draw(image).text((12, 12), character, font=font, embedded_color=True)
    box = image.getbbox()
    if box is None:
        raise ValueError(f"the font {font.path} draws nothing for {character!r}")
    ink = image.crop(box)
    side = max(ink.size)
    square = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    square.paste(ink, ((side - ink.width) // 2, (side - ink.height) // 2))
    return square


def write_sheet(glyphs: Mapping[str, Image.Image], sheet: Path, index: Path) -> None:
    """Write square glyphs as one lossless PNG, and a JSON object from each character to its left, top and side."""
    cell = max(image.width for image in glyphs.values())
    picture = Image.new("RGBA", (COLUMNS * cell, math.ceil(len(glyphs) / COLUMNS) * cell), (0, 0, 0, 0))
    squares: dict[str, Sequence[int]] = {}
    for number, (character, image) in enumerate(glyphs.items()):
        left, top = number % COLUMNS * cell, number // COLUMNS * cell
        # without a mask, so that RGB and alpha are copied as they are
        picture.paste(image, (left, top))
        squares[character] = (left, top, image.width)
    save_png(picture, sheet)
    lines = (f"{json.dumps(key, ensure_ascii=False)}: {json.dumps(value)}" for key, value in squares.items())
    write(index, "{\n" + ",\n".join(lines) + "\n}\n")


def main() -> None:
    """Write the package's own sheet from the font file in the arguments."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("font", type=Path, help="NotoColorEmoji.ttf with bitmaps (CBDT), version 2.042 here")
    font = ImageFont.truetype(str(parser.parse_args().font), FONT_SIZE)
    write_sheet({character: draw_glyph(font, character) for character in CHARACTERS}, GLYPH_SHEET, GLYPH_INDEX)


if __name__ == "__main__":
    main()
