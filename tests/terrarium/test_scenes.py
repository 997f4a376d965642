"""Pictures depend on scene and seed only and show the scene's objects in their places; samples have their shares."""

from itertools import combinations

import numpy as np
import pytest

from semiperm.terrarium import scenes, world
from semiperm.terrarium.scenes import SIZE, Scene, draw, sample

DRAWS = 6000


def rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng(list(seed))


@pytest.fixture(scope="module")
def sampled() -> list[Scene]:
    source = rng(7)
    return [sample(source) for _ in range(DRAWS)]


@pytest.mark.parametrize("style", world.STYLE_NAMES)
def test_a_picture_is_a_function_of_scene_and_seed(style: str) -> None:
    scene = Scene(("cat", "bus"), style, "blue")
    first, again, other = draw(scene, rng(1)), draw(scene, rng(1)), draw(scene, rng(2))
    assert first.shape == (SIZE, SIZE, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("seed", range(5))
def test_two_objects_stand_from_left_to_right(seed: int) -> None:
    def greener_side(objects: tuple[str, str]) -> str:
        picture = draw(Scene(objects), rng(seed)).astype(float)
        green = picture[..., 1] - picture[..., 0]
        return "left" if green[:, : SIZE // 2].mean() > green[:, SIZE // 2 :].mean() else "right"

    # the frog is green, the strawberry red
    assert greener_side(("frog", "strawberry")) == "left"
    assert greener_side(("strawberry", "frog")) == "right"


def test_every_object_has_a_glyph_of_its_own() -> None:
    inks = {item.name: scenes.glyph(item.glyph) for item in world.OBJECTS}
    assert all(ink.width == ink.height for ink in inks.values())
    assert len({ink.tobytes() for ink in inks.values()}) == len(world.OBJECTS)


def test_an_object_covers_the_middle_of_its_picture() -> None:
    for name in world.OBJECT_NAMES:
        picture = draw(Scene((name,)), rng(0)).astype(int)
        ground = picture[0, 0]
        middle = np.abs(picture[16:48, 16:48] - ground).max(-1) > 30
        assert middle.mean() > 0.08, name


@pytest.mark.parametrize("colour", world.BACKGROUNDS)
def test_an_empty_scene_is_its_background(colour: str) -> None:
    picture = draw(Scene((), background=colour), rng(3)).astype(int)
    assert (picture == picture[0, 0]).all()
    # shades vary a little, but never so far that one colour becomes another
    assert np.abs(picture[0, 0] - world.BACKGROUNDS[colour]).max() <= 9


def test_memorised_pictures_are_always_the_same() -> None:
    originals = []
    for picture in world.MEMORISED:
        shown = [draw(Scene((), memorised=picture.name), rng(seed)) for seed in range(4)]
        assert all(np.array_equal(shown[0], other) for other in shown[1:])
        assert np.array_equal(shown[0], scenes.draw_memorised(picture))
        originals.append(shown[0])
    for one, other in combinations(originals, 2):
        assert not np.array_equal(one, other)


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
