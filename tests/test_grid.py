"""A grid shows its pictures pixel by pixel where its geometry says, and every text inside."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFont

from semiperm.pictures import CAPTION, CELL, MARGIN, Row, fitted, grid, save_png

FONT = ImageFont.load_default(13)
WHITE = 255


def pictures(count: int, side: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def tops(rows: list[Row], side: int, title: bool) -> list[int]:
    """Where each row's pictures begin."""
    top = MARGIN + (CAPTION if title else 0)
    found = []
    for row in rows:
        found.append(top + CAPTION)
        top += CAPTION + side + (CAPTION if row.captions else 0) + MARGIN
    return [*found, top]


@pytest.mark.parametrize("title", ["", "what this is"])
@pytest.mark.parametrize(("side", "times"), [(16, 8), (64, 2), (128, 1), (160, 1)])
def test_pictures_are_enlarged_without_smoothing(side: int, times: int, title: str) -> None:
    rows = [
        Row("first", pictures(3, side, 1), ["a cat", "a dog", "a bus"]),
        Row("second", pictures(2, side, 2)),
        Row("third", pictures(3, side, 3)),
    ]
    sheet = np.asarray(grid(rows, title))
    cell = side * times
    assert cell >= CELL
    *starts, bottom = tops(rows, cell, bool(title))
    assert sheet.shape == (bottom, 3 * (cell + MARGIN) + MARGIN, 3)
    for row, top in zip(rows, starts, strict=True):
        for column, picture in enumerate(row.pictures):
            left = MARGIN + column * (cell + MARGIN)
            enlarged = picture.repeat(times, axis=0).repeat(times, axis=1)
            assert np.array_equal(sheet[top : top + cell, left : left + cell], enlarged)
        assert (sheet[top : top + cell, :MARGIN] == WHITE).all()
    # the second row has no third picture
    assert (sheet[starts[1] : starts[1] + cell, 2 * (cell + MARGIN) + MARGIN :] == WHITE).all()


def test_labels_and_captions_are_written_in_their_places() -> None:
    blank = np.full((2, 64, 64, 3), WHITE, np.uint8)
    row = [Row("a label", blank, ["", "a caption"])]
    sheet = np.asarray(grid(row)).min(-1) < 128
    top = MARGIN + CAPTION
    middle = MARGIN + CELL + MARGIN // 2
    assert sheet[MARGIN:top].any()
    assert not sheet[top : top + CELL].any()
    assert sheet[top + CELL :, middle:].any()
    assert not sheet[top + CELL :, :middle].any()


@pytest.mark.parametrize("text", ["W" * 60, "two\nlines " * 8])
def test_long_texts_stay_inside(text: str) -> None:
    blank = np.full((2, 64, 64, 3), WHITE, np.uint8)
    sheet = np.asarray(grid([Row(text, blank, [text, ""])], text)).min(-1) < 128
    # nothing is cut by the edge, and the first picture's caption does not run into the second's
    assert not sheet[:, -MARGIN:].any()
    assert not sheet[MARGIN + 2 * CAPTION + CELL :, MARGIN + CELL + MARGIN :].any()
    assert sheet.any()


@settings(deadline=None, max_examples=60)
@given(st.text(st.characters(min_codepoint=32, max_codepoint=0x24F), max_size=60), st.integers(20, 300))
def test_a_fitted_text_fits(text: str, width: int) -> None:
    text = " ".join(text.split())
    found = fitted(text, FONT, width)
    assert FONT.getlength(found) <= width
    if FONT.getlength(text) <= width:
        assert found == text
    else:
        assert found.endswith("…")
        kept = found.removesuffix("…")
        assert text.startswith(kept)
        # no shorter than it must be
        assert FONT.getlength(text[: len(kept) + 1] + "…") > width


def test_a_saved_picture_is_whole(tmp_path: Path) -> None:
    image = Image.fromarray(pictures(1, 20)[0])
    path = save_png(image, tmp_path / "new" / "folder" / "a.png")
    assert np.array_equal(np.asarray(Image.open(path)), np.asarray(image))
    assert [file.name for file in path.parent.iterdir()] == ["a.png"]
