"""Summaries over rows, against what counting by hand gives."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from semiperm.evaluation.figures import Seen, efficacy, figures
from semiperm.evaluation.store import Pictures
from semiperm.evaluation.subject import Subject
from semiperm.pictures import Shot


class _Labelled:
    """A judge whose pictures carry their answer: the first pixel is a number of a name."""

    names = ("cat", "dog", "rose")
    counted = ("dog", "rose")
    threshold = 0.5

    def labels(self, pictures: np.ndarray, among: Sequence[str]) -> list[Collection[str]]:
        return [(self.names[int(picture[0, 0, 0])],) for picture in pictures]

    def detections(self, pictures: np.ndarray) -> list[dict[str, float]]:
        return [{self.names[int(picture[0, 0, 0])]: 0.9} for picture in pictures]


def _seen(label: str, group: str, shown: Sequence[str]) -> Seen:
    pictures = [np.full((2, 2, 3), _Labelled.names.index(name), np.uint8) for name in shown]
    shots = tuple(Shot(label, number) for number in range(len(shown)))
    judge: Any = _Labelled()
    subject = Subject(label, group, "gone" if group in ("target", "paraphrase") else "kept", shots, label=label)
    return Seen(subject, Pictures(lambda n: pictures[n], len(shown)), judge, _Labelled.names)


def test_summaries_count_pictures_and_the_harmonic_mean_is_over_the_three_sides() -> None:
    rows = [
        _seen("cat", "target", ["rose", "rose", "rose", "cat"]),  # gone by name: 3 of 4
        _seen("cat", "paraphrase", ["rose", "cat"]),  # gone in other words: 1 of 2
        _seen("dog", "same kind", ["dog", "dog", "cat"]),
        _seen("rose", "other kinds", ["rose"]),  # kept in all: 3 of 4
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
    assert set(efficacy([_seen("cat", "target", ["rose"])])) == {"UA"}


def test_what_is_exposed_is_counted_over_everything_that_asks_for_it() -> None:
    rows = [
        _seen("", "target", ["cat", "cat", "dog"]),
        _seen("", "paraphrase", ["cat", "rose"]),
        _seen("dog", "same kind", ["dog"]),
    ]
    found = efficacy(rows, ["exposures"])
    assert found["exposed"].value == pytest.approx(2 / 5) and found["exposed"].count == 5
    assert found["exposed"].low < 2 / 5 < found["exposed"].high
    assert "exposed" not in efficacy(rows) and "exposed" not in efficacy(rows[2:], ["exposures"])


def test_rows_of_other_groups_count_nowhere_and_either_is_no_expectation() -> None:
    beside = _seen("dog", "beside a target", ["dog", "cat"])
    open_question = _seen("cat", "target", ["cat"])
    open_question.subject = replace(open_question.subject, expected="either")
    assert efficacy([beside, open_question]) == {}


def test_each_picture_may_have_labels_of_its_own() -> None:
    seen = _seen("", "same kind", ["dog", "cat", "cat"])
    seen.subject = replace(seen.subject, labels=(("dog",), ("dog",), ("cat",)))
    assert seen.hits.tolist() == [True, False, True]
    assert figures(seen, ["found"])["found"].value == pytest.approx(2 / 3)
    # both must be found in a picture, and each picture shows one only
    both = replace(seen.subject, labels=(("dog", "cat"),) * 3)
    assert Seen(both, seen.pictures, seen.judge, seen.names).hits.tolist() == [False] * 3


def test_a_row_without_pictures_has_the_figures_of_its_prompts_alone() -> None:
    judge: Any = _Labelled()
    prompts = Subject("ordinary prompts", "not asked", "kept", prompts=("a", "b", "c", "d"))
    nothing = Pictures(lambda number: np.zeros((1, 1, 3)), 0)
    seen = Seen(prompts, nothing, judge, (), None, np.array([0.0, 0.2, 0.0, 0.0]))
    found = figures(seen, ["found", "exposures", "alteration", "opens"])
    assert set(found) == {"opens"}
    assert (found["opens"].value, found["opens"].count) == (0.25, 4)
    # the bare model has no gate
    assert figures(Seen(prompts, nothing, judge, ()), ["opens"]) == {}


class _Featured:
    """A judge whose features are the first pixels' colours."""

    def features(self, pictures: np.ndarray) -> np.ndarray:
        return pictures[:, 0, 0].astype(np.float64)


def _with_distance(count: int, reference: int | None = None) -> Seen:
    pixels = np.random.default_rng(3).integers(0, 256, (2, 100, 2, 2, 3)).astype(np.uint8)
    shots = tuple(Shot("a dog", number) for number in range(count))
    photographs = None if reference is None else Pictures(lambda n: pixels[1, n], reference)
    subject = Subject("dog", "same kind", "kept", shots, reference=photographs)
    judge: Any = _Featured()
    bare = Seen(subject, Pictures(lambda n: pixels[1, n], count), judge, ())
    return Seen(subject, Pictures(lambda n: pixels[0, n], count), judge, (), bare)


def test_distances_are_given_where_pictures_suffice() -> None:
    assert set(figures(_with_distance(50), ["frechet", "kernel"])) == {"FID", "KID"}
    # the smaller side decides
    assert set(figures(_with_distance(60, 50), ["frechet", "kernel"])) == {"FID", "KID"}
    assert figures(_with_distance(60, 49), ["frechet", "kernel"]) == {}
    few = _with_distance(49)
    # nor is the model that gives features needed
    few.judge = few.bare.judge = None  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
    assert figures(few, ["frechet", "kernel"]) == {}


def test_of_wide_features_the_kernel_distance_alone_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = np.random.default_rng(4).normal(size=(256, 64))
    monkeypatch.setattr(_Featured, "features", lambda self, pictures: wide[pictures[:, 0, 0, 0]])
    found = figures(_with_distance(60), ["frechet", "kernel"])
    assert set(found) == {"KID"}
    assert found["KID"].low < found["KID"].value < found["KID"].high and found["KID"].count == 60


def test_pictures_that_did_not_change_are_at_no_distance() -> None:
    seen = _with_distance(60)
    assert seen.bare is not None
    same = replace(seen, pictures=seen.bare.pictures)
    found = figures(same, ["frechet", "kernel"])
    assert (found["KID"].value, found["KID"].low, found["KID"].high) == (0, 0, 0)
    assert found["FID"].value == pytest.approx(0, abs=1e-6)
