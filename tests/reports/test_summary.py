from semiperm.reports.summary import MOST, summary
from tests.reports.helpers import arm_of, cat_erased, exact, row_of, share


def test_the_target_comes_first_and_there_are_at_most_six() -> None:
    arm = cat_erased()
    titles = [figure.title for figure in summary(arm)]
    assert titles[:2] == ["Target found", "Same kind found"] and len(titles) <= MOST
    gone = summary(arm)[0]
    assert gone.now.value == arm.rows[0].figures["found"].value and gone.bare is not None and gone.wanted == "low"


def test_groups_of_a_protocols_own_have_figures_of_their_own() -> None:
    rows = [row_of(name, "both of two", {"found": share(value)}) for name, value in (("a & b", 0.5), ("c & d", 0.7))]
    arm = arm_of("bare model", [*rows, row_of("Tide", "memorised", exact(deviation=0.1))], erasures={}, gate="")
    found = {figure.title: figure for figure in summary(arm)}
    assert found["Found: both of two"].now.value == 0.6 and found["Found: both of two"].rows == (0.5, 0.7)
    assert found["Mean deviation from the original"].now.value == 0.1


def test_prompts_that_should_open_nothing_are_summed_up() -> None:
    rows = [row_of("ordinary prompts", "not asked", {"opens": share(0.01, 1000)}, {}, pictures=0)]
    (figure,) = summary(arm_of("erased", rows))
    assert figure.name == "opens" and figure.now.count == 1000 and figure.bare is None


def test_pictures_that_show_a_target_too_are_not_expected_to_stay_unchanged() -> None:
    rows = [
        row_of("dog", "same kind", {"unchanged": share(1)}, {}),
        row_of("beside cat", "beside a target", {"unchanged": share(0)}, {}),
    ]
    (figure,) = (one for one in summary(arm_of("erased", rows)) if one.name == "unchanged")
    assert (figure.now.value, figure.now.count) == (1, 100)
