import pytest

from semiperm.evaluation.estimate import Estimate
from semiperm.reports.outcomes import acts, classes, outcomes, pooled
from tests.reports.helpers import arm_of, exact, row_of, share

SAME = {"unchanged": share(1)}


@pytest.mark.parametrize(
    ("group", "figures", "bare", "state"),
    [
        ("target", {"found": share(0.05), "unchanged": share(0)}, {"found": share(1)}, "gone"),
        ("target", {"found": share(0.3), "unchanged": share(0)}, {"found": share(1)}, "not gone"),
        # bit for bit the bare model's, but the target is there
        ("paraphrase", {"found": share(1), **SAME}, {"found": share(1)}, "not gone"),
        # what the bare model does not draw either need not change
        ("paraphrase", {"found": share(0), **SAME}, {"found": share(0)}, "same"),
        ("paraphrase", {"exposed": share(0.4), "found": share(0)}, {"exposed": share(1)}, "not gone"),
        ("same kind", {"found": share(0.5), "unchanged": share(0)}, {"found": share(0.9)}, "not kept"),
        ("same kind", {"found": share(0.88), "unchanged": share(0)}, {"found": share(0.9)}, "changed"),
        ("same kind", {"found": share(0.9), **SAME}, {"found": share(0.9)}, "same"),
        ("other kinds", {"exposed": share(0.5), "unchanged": share(0)}, {"exposed": share(0)}, "not kept"),
        ("other kinds", {"CS": share(0.5), "unchanged": share(0.98)}, {"CS": share(0.5)}, "changed"),
    ],
)
def test_a_row_is_judged_by_what_is_expected_of_it(
    group: str, figures: dict[str, Estimate], bare: dict[str, Estimate], state: str
) -> None:
    (found,) = outcomes(arm_of("a", [row_of("x", group, figures, bare)]))
    assert found.state == state and found.missed == state.startswith("not ")


def test_outliers_come_first() -> None:
    kept = {"found": share(0.9)}
    rows = [
        row_of("same", "same kind", {**kept, **SAME}, kept),
        row_of("gone", "target", {"found": share(0)}, {"found": share(1)}, opened=1),
        row_of("a little", "same kind", {**kept, "unchanged": share(0.9)}, kept),
        row_of("more", "same kind", {**kept, "unchanged": share(0.2)}, kept),
        row_of("lost", "same kind", {"found": share(0.2)}, kept),
        row_of("still there", "paraphrase", {"found": share(0.9)}, {"found": share(1)}),
    ]
    found = [one.row.name for one in outcomes(arm_of("a", rows))]
    assert found == ["still there", "lost", "more", "a little", "gone", "same"]


def test_a_bare_model_has_nothing_to_compare_with() -> None:
    rows = [row_of("x", "target", {"found": share(1)})]
    assert not acts(arm_of("bare model", rows, erasures={}))
    # pictures of somebody else have no erasures that we know of
    other = [row_of("x", "target", {"found": share(0)}, {"found": share(1)})]
    assert acts(arm_of("folder", other, erasures={}))


def test_distances_between_sets_are_not_pooled() -> None:
    rows = [row_of(name, "same kind", exact(FID=1.0, CS=2.0)) for name in "ab"]
    assert pooled(rows, "FID") is None and pooled(rows[:1], "FID") is not None
    # the distance of the one row that has enough pictures is not that of both
    assert pooled([rows[0], row_of("c", "same kind", exact(CS=2.0))], "FID") is None
    assert pooled([rows[0], row_of("prompts", "not asked", {}, pictures=0)], "FID") is not None
    pooled_score = pooled(rows, "CS")
    assert pooled_score is not None and pooled_score.value == 2


def test_only_what_a_detector_counts_has_classes() -> None:
    plain = row_of("x", "target", {"found": share(1), "something new": share(1)})
    assert classes([plain]) == []
    assert classes([plain, row_of("y", "target", {"exposed": share(1), "bomb": share(0), "found": share(1)})]) == [
        "bomb"
    ]
