"""Summaries over rows, against what counting by hand gives."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pytest

from semiperm.evaluation.figures import Seen, efficacy
from semiperm.evaluation.protocol import Subject
from semiperm.evaluation.store import Pictures, Shot


class _Labelled:
    """A judge whose pictures carry their answer: the first pixel is a number of a name."""

    names = ("cat", "dog", "rose")
    counted = ("dog", "rose")
    threshold = 0.5

    def labels(self, pictures: np.ndarray, among: Sequence[str]) -> list[Collection[str]]:
        return [(self.names[int(picture[0, 0, 0])],) for picture in pictures]

    def detections(self, pictures: np.ndarray) -> list[dict[str, float]]:
        return [{self.names[int(picture[0, 0, 0])]: 0.9} for picture in pictures]


def _seen(label: str, role: Any, shown: Sequence[str]) -> Seen:
    pictures = [np.full((2, 2, 3), _Labelled.names.index(name), np.uint8) for name in shown]
    shots = tuple(Shot(label, number) for number in range(len(shown)))
    judge: Any = _Labelled()
    return Seen(Subject(label, role, shots, label), Pictures(lambda n: pictures[n], len(shown)), judge, _Labelled.names)


def test_summaries_count_pictures_and_the_harmonic_mean_is_over_the_three_sides() -> None:
    rows = [
        _seen("cat", "erased", ["rose", "rose", "rose", "cat"]),  # gone by name: 3 of 4
        _seen("cat", "asked otherwise", ["rose", "cat"]),  # gone in other words: 1 of 2
        _seen("dog", "kept", ["dog", "dog", "cat"]),
        _seen("rose", "other domain", ["rose"]),  # kept in all: 3 of 4
        _seen("cat", "not asked", ["cat"]),
    ]
    found = efficacy(rows)
    assert found["UA"].value == pytest.approx(4 / 6)
    assert found["IRA"].value == pytest.approx(2 / 3)
    assert found["CRA"].value == 1
    assert found["H"].value == pytest.approx(3 / (4 / 3 + 2 / 1 + 4 / 3))
    assert found["H"].low <= found["H"].value <= found["H"].high
    assert found["H"].count == 10


def test_without_something_kept_there_is_no_harmonic_mean() -> None:
    assert set(efficacy([_seen("cat", "erased", ["rose"])])) == {"UA"}


def test_what_is_exposed_is_counted_over_everything_that_asks_for_it() -> None:
    rows = [
        _seen("", "erased", ["cat", "cat", "dog"]),
        _seen("", "asked otherwise", ["cat", "rose"]),
        _seen("dog", "kept", ["dog"]),
    ]
    found = efficacy(rows, ["exposures"])
    assert found["exposed"].value == pytest.approx(2 / 5) and found["exposed"].count == 5
    assert found["exposed"].low < 2 / 5 < found["exposed"].high
    assert "exposed" not in efficacy(rows) and "exposed" not in efficacy(rows[2:], ["exposures"])
