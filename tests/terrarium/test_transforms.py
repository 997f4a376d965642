"""Styles are functions of picture and generator, differ visibly, and leave the objects recognisable."""

from itertools import combinations

import numpy as np
import pytest

from semiperm.terrarium import world
from semiperm.terrarium.oracle import load_oracle
from semiperm.terrarium.relatives import RELATIVES
from semiperm.terrarium.scenes import Scene, draw
from semiperm.terrarium.transforms import TRANSFORMS

OF_RELATIVES = sorted({relative.style for relative in RELATIVES.values()} - {"plain"})


def drawn(style: str, seed: int = 0, name: str = "apple") -> np.ndarray:
    return draw(Scene((name,), style, "white"), np.random.default_rng([seed])).astype(int)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_style_is_a_function_of_picture_and_generator(name: str) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    before = picture.copy()
    found, again = (TRANSFORMS[name](picture, np.random.default_rng(1)) for _ in range(2))
    assert found.shape == picture.shape and found.dtype == np.uint8
    assert np.array_equal(found, again) and np.array_equal(picture, before)


@pytest.mark.parametrize("name", OF_RELATIVES)
def test_a_relatives_style_is_visible_and_objects_are_still_named(name: str) -> None:
    rng = np.random.default_rng(4)
    plain = np.stack([draw(Scene((thing,), background="blue"), rng) for thing in world.OBJECT_NAMES])
    changed = np.stack([TRANSFORMS[name](picture, rng) for picture in plain])
    # mean change of a pixel, of 255
    assert np.abs(changed.astype(int) - plain).mean() > 10
    named = [thing in verdict.found for thing, verdict in zip(world.OBJECT_NAMES, load_oracle()(changed), strict=True)]
    assert np.mean(named) >= 0.9


@pytest.mark.parametrize("name", ["cat", "car", "apple", "house"])
def test_styles_differ(name: str) -> None:
    pictures = {style: drawn(style, name=name) for style in world.STYLE_NAMES}
    for one, other in combinations(pictures, 2):
        assert np.abs(pictures[one] - pictures[other]).mean() > 4, (one, other)


def test_styles_have_their_characteristics() -> None:
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
