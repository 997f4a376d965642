"""Scenes are functions of their seed, show what they say where they say it, and are drawn in styles apart."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from semiperm.terrarium import scenes, world
from semiperm.terrarium.scenes import SIZE, Scene, draw, sample
from tests.terrarium.helpers import needs_font

DRAWS = 6000


def rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng(list(seed))


def drawn(style: str, seed: int = 0, name: str = "apple") -> np.ndarray:
    return draw(Scene((name,), style, "white"), rng(seed)).astype(int)


@pytest.fixture(scope="module")
def sampled() -> list[Scene]:
    source = rng(7)
    return [sample(source) for _ in range(DRAWS)]


@needs_font
@pytest.mark.parametrize("style", world.STYLE_NAMES)
def test_a_picture_is_a_function_of_scene_and_seed(style: str) -> None:
    scene = Scene(("cat", "bus"), style, "blue")
    first, again, other = draw(scene, rng(1)), draw(scene, rng(1)), draw(scene, rng(2))
    assert first.shape == (SIZE, SIZE, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@needs_font
@pytest.mark.parametrize("seed", range(5))
def test_two_objects_stand_from_left_to_right(seed: int) -> None:
    def greener_side(objects: tuple[str, str]) -> str:
        picture = draw(Scene(objects), rng(seed)).astype(float)
        green = picture[..., 1] - picture[..., 0]
        return "left" if green[:, : SIZE // 2].mean() > green[:, SIZE // 2 :].mean() else "right"

    # the frog is green, the strawberry red
    assert greener_side(("frog", "strawberry")) == "left"
    assert greener_side(("strawberry", "frog")) == "right"


@needs_font
def test_every_object_has_a_glyph_of_its_own() -> None:
    inks = {item.name: scenes.glyph(item.glyph) for item in world.OBJECTS}
    assert all(ink.width == ink.height for ink in inks.values())
    assert len({ink.tobytes() for ink in inks.values()}) == len(world.OBJECTS)


@needs_font
def test_an_object_covers_the_middle_of_its_picture() -> None:
    for name in world.OBJECT_NAMES:
        picture = drawn("plain", name=name)
        ground = picture[0, 0]
        middle = np.abs(picture[16:48, 16:48] - ground).max(-1) > 30
        assert middle.mean() > 0.08, name


@needs_font
@pytest.mark.parametrize("colour", world.BACKGROUNDS)
def test_an_empty_scene_is_its_background(colour: str) -> None:
    picture = draw(Scene((), background=colour), rng(3)).astype(int)
    assert (picture == picture[0, 0]).all()
    # shades vary a little, but never so far that one colour becomes another
    assert np.abs(picture[0, 0] - world.BACKGROUNDS[colour]).max() <= 9


@needs_font
def test_memorised_pictures_are_always_the_same() -> None:
    originals = []
    for picture in world.MEMORISED:
        shown = [draw(Scene((), memorised=picture.name), rng(seed)) for seed in range(4)]
        assert all(np.array_equal(shown[0], other) for other in shown[1:])
        assert np.array_equal(shown[0], scenes.draw_memorised(picture))
        originals.append(shown[0])
    for one, other in combinations(originals, 2):
        assert not np.array_equal(one, other)


@needs_font
@pytest.mark.parametrize("name", ["cat", "car", "apple", "house"])
def test_styles_are_told_apart(name: str) -> None:
    pictures = {style: drawn(style, name=name) for style in world.STYLE_NAMES}
    for one, other in combinations(pictures, 2):
        assert np.abs(pictures[one] - pictures[other]).mean() > 4, (one, other)


@needs_font
def test_styles_have_the_marks_they_are_told_by() -> None:
    blocks = drawn("pixel art").reshape(16, 4, 16, 4, 3)
    assert (blocks == blocks[:, :1, :, :1]).all()

    sketch = drawn("sketch")
    assert (sketch.max(-1) - sketch.min(-1)).max() < 12, "a pencil has no colours"

    vintage = drawn("vintage")
    assert (vintage[..., 0] >= vintage[..., 1]).all(), "brown tones: red above green above blue"
    assert (vintage[..., 1] >= vintage[..., 2]).all()
    assert vintage[:6, :6].mean() < vintage[0, 29:35].mean(), "dark corners"

    neon = drawn("neon")
    assert np.median(neon) < 60 < neon.max(), "lights in the dark"

    mosaic, plain = drawn("mosaic"), drawn("plain")
    # joints run everywhere, over the empty corners as well
    assert (mosaic[:10, :10].mean(-1) < plain[:10, :10].mean(-1) - 60).any()
    assert plain[:10, :10].std() < mosaic[:10, :10].std()


def test_samples_are_a_function_of_the_seed(sampled: list[Scene]) -> None:
    source = rng(7)
    assert [sample(source) for _ in range(100)] == sampled[:100]


def test_samples_have_the_promised_shares(sampled: list[Scene]) -> None:
    def share(chosen: list[bool]) -> float:
        return sum(chosen) / len(chosen)

    def near(found: float, wanted: float, count: int = DRAWS) -> bool:
        # five standard deviations of a binomial share
        return abs(found - wanted) < 5 * (wanted * (1 - wanted) / count) ** 0.5

    assert near(share([s.memorised is not None for s in sampled]), scenes.MEMORISED_SHARE)
    assert near(share([len(s.objects) == 2 for s in sampled]), scenes.TWO_OBJECTS)
    assert near(share([not s.objects and s.memorised is None for s in sampled]), scenes.EMPTY_SHARE)
    single = [s for s in sampled if len(s.objects) == 1]
    assert near(share([s.style == "plain" for s in single]), scenes.PLAIN_SHARE, len(single))
    assert share([len(s.objects) == 1 for s in sampled]) > 0.5


def test_samples_cover_the_world(sampled: list[Scene]) -> None:
    assert {name for s in sampled for name in s.objects} == set(world.OBJECT_NAMES)
    assert {s.style for s in sampled} == set(world.STYLE_NAMES)
    assert {s.background for s in sampled} == set(world.BACKGROUNDS)
    assert {s.memorised for s in sampled} - {None} == {picture.name for picture in world.MEMORISED}
    assert all(len(set(s.objects)) == len(s.objects) <= 2 for s in sampled)


def test_a_missing_font_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(scenes, "FONT", tmp_path / "none.ttf")
    scenes._font.cache_clear()
    scenes.glyph.cache_clear()
    with pytest.raises(FileNotFoundError, match="fonts-noto-color-emoji"):
        draw(Scene(("cat",)), rng(0))
