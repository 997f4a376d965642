"""Looks change a whole picture visibly, and the judge still names what is in it."""

import numpy as np
import pytest

from semiperm.terrarium import scenes, world
from semiperm.terrarium.looks import LOOKS
from semiperm.terrarium.oracle import load_oracle
from tests.terrarium.helpers import needs_font

CHANGES = [name for name in LOOKS if name != "plain"]


@pytest.mark.parametrize("name", LOOKS)
def test_a_look_is_a_function_of_picture_and_seed(name: str) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    before = picture.copy()
    found, again = (LOOKS[name](picture, np.random.default_rng(1)) for _ in range(2))
    assert found.shape == picture.shape and found.dtype == np.uint8
    assert np.array_equal(found, again) and np.array_equal(picture, before)


@needs_font
@pytest.mark.parametrize("name", CHANGES)
def test_a_look_is_seen_and_objects_are_still_named(name: str) -> None:
    rng = np.random.default_rng(4)
    plain = np.stack([scenes.draw(scenes.Scene((thing,), background="blue"), rng) for thing in world.OBJECT_NAMES])
    changed = np.stack([LOOKS[name](picture, rng) for picture in plain])
    # mean change of a pixel, of 255
    assert np.abs(changed.astype(int) - plain).mean() > 10
    named = [thing in verdict.found for thing, verdict in zip(world.OBJECT_NAMES, load_oracle()(changed), strict=True)]
    assert np.mean(named) >= 0.9
