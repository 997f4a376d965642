"""The glyph sheet has every character of the world, with the pixels that the weights were trained on."""

import hashlib
import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFont

from semiperm.terrarium import WEIGHTS, scenes, world
from semiperm.terrarium.making.glyph_sheet import draw_glyph, write_sheet

# SHA-256 of all glyphs' RGBA pixels, in the order of world.CHARACTERS, as Noto Color Emoji 2.042 draws them
PIXELS = "1b83c3284b426efaa5efe87105aa2e5fbef4fd04f895d7e08f58de4da76f62f5"


@pytest.mark.parametrize("character", world.CHARACTERS)
def test_every_character_is_on_the_sheet(character: str) -> None:
    ink = scenes.glyph(character)
    assert ink.mode == "RGBA"
    assert ink.width == ink.height
    # cropped to the ink in its longer direction
    left, top, right, bottom = ink.getbbox() or (0, 0, 0, 0)
    assert max(right - left, bottom - top) == ink.width


def test_the_sheet_has_nothing_else() -> None:
    squares = json.loads(scenes.GLYPH_INDEX.read_text(encoding="utf-8"))
    assert list(squares) == list(world.CHARACTERS)
    with Image.open(scenes.GLYPH_SHEET) as sheet:
        width, height = sheet.size
    for left, top, side in squares.values():
        assert 0 <= left <= width - side and 0 <= top <= height - side
    for (x, y, side), (other_x, other_y, other_side) in combinations(squares.values(), 2):
        assert x + side <= other_x or other_x + other_side <= x or y + side <= other_y or other_y + other_side <= y


def test_the_pixels_are_the_fonts() -> None:
    digest = hashlib.sha256(b"".join(scenes.glyph(character).tobytes() for character in world.CHARACTERS))
    assert digest.hexdigest() == PIXELS


@pytest.mark.parametrize("picture", world.MEMORISED, ids=lambda picture: picture.name)
def test_the_glyphs_draw_the_pictures_that_the_weights_memorised(picture: world.Memorised) -> None:
    original = Image.open(WEIGHTS / "memorised" / f"{picture.name}.png").convert("RGB")
    assert np.array_equal(scenes.draw_memorised(picture), np.asarray(original))


def test_a_missing_character_is_named() -> None:
    with pytest.raises(KeyError, match="no glyph for '🦄'.*glyph_sheet FONT.ttf"):
        scenes.glyph("🦄")


def test_a_sheet_keeps_every_pixel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    # more than one row, and colours under full transparency
    sides = [3, 5, 4, 5, 1, 2, 3, 4, 5, 2]
    drawn = [Image.fromarray(rng.integers(0, 256, (side, side, 4), dtype=np.uint8), "RGBA") for side in sides]
    drawn[0].putalpha(0)
    made = dict(zip("abcdefghij", drawn, strict=True))
    write_sheet(made, tmp_path / "sheet.png", tmp_path / "sheet.json")
    monkeypatch.setattr(scenes, "GLYPH_SHEET", tmp_path / "sheet.png")
    monkeypatch.setattr(scenes, "GLYPH_INDEX", tmp_path / "sheet.json")
    for cache in (scenes._sheet, scenes.glyph):
        cache.cache_clear()
    try:
        for character, image in made.items():
            assert scenes.glyph(character).tobytes() == image.tobytes()
            assert scenes.glyph(character).size == image.size
    finally:
        for cache in (scenes._sheet, scenes.glyph):
            cache.cache_clear()


def test_a_glyph_is_cropped_and_padded_to_a_square() -> None:
    font = ImageFont.load_default(60)
    assert isinstance(font, ImageFont.FreeTypeFont)
    bar = draw_glyph(font, "|")
    assert bar.width == bar.height
    left, top, right, bottom = bar.getbbox() or (0, 0, 0, 0)
    assert (top, bottom) == (0, bar.height)
    # the bar stands in the middle
    assert abs(left - (bar.width - right)) <= 1
    with pytest.raises(ValueError, match="draws nothing for ' '"):
        draw_glyph(font, " ")
