import pytest

from semiperm.evaluation.estimate import Estimate
from semiperm.reports import words
from tests.reports.helpers import row_of


def estimate(value: float, low: float, high: float, count: int = 50) -> Estimate:
    return Estimate(value=value, low=low, high=high, count=count)


@pytest.mark.parametrize(
    ("name", "figure", "text"),
    [
        ("found", estimate(0, 0, 0.05), "0 % (0 to 5 %)"),
        ("found", estimate(1, 0.95, 1), "100 % (95 to 100 %)"),
        ("found", estimate(0.98, 0.951, 1, 500), "98.0 % (95.1 to 100 %)"),
        # what is not quite 0 or 100 is never written so
        ("found", estimate(0.996, 0.99, 1, 150), "99.6 % (99.0 to 100 %)"),
        ("unchanged", estimate(0.0004, 0, 0.001, 5000), "0.04 % (0 to 0.10 %)"),
        ("error", estimate(0.0311, 0.02, 0.04), "3.1 % (2.0 to 4.0 %)"),
        ("CS", estimate(61.5, 60, 63), "61.50 (60.00 to 63.00)"),
        ("FID", estimate(2267.93, 2200, 2300.4), "2,268 (2,200 to 2,300)"),
        ("KID", estimate(0.0123, 0.01, 0.015), "0.0123 (0.0100 to 0.0150)"),
        # an interval without width says nothing
        ("CS", estimate(0, 0, 0), "0"),
        ("error", estimate(0, 0, 0), "0 %"),
    ],
)
def test_figures_are_written_with_their_intervals(name: str, figure: Estimate, text: str) -> None:
    assert words.full(name, figure) == text


def test_changes_have_a_sign_and_those_of_shares_are_points() -> None:
    assert words.change("found", estimate(-0.48, -0.58, -0.38)) == "−48 points (−58 to −38)"
    assert words.change("CS", estimate(3.2, -1, 7.4)) == "+3.20 (−1.00 to +7.40)"
    assert words.change("found", estimate(0, -0.1, 0.1)) == "0 points (−10 to +10)"


def test_counts_lists_and_expectations_are_english() -> None:
    assert (words.count(1, "picture"), words.count(1200, "picture")) == ("1 picture", "1,200 pictures")
    assert words.count(2, "more row") == "2 more rows"
    assert words.joined(["a"]) == "a" and words.joined(["a", "b", "c"]) == "a, b and c"
    assert words.expectation(row_of("x", "paraphrase", {})) == "expected: gone (paraphrase)"
    either = row_of("x", "of my own", {}).model_copy(update={"expected": "either"})
    assert words.expectation(either) == "expected: gone or kept (of my own)"
    assert words.heading("bomb") == "bomb" and words.heading("CS") == "CLIP score"


def test_a_row_without_pictures_has_prompts() -> None:
    opens = {"opens": estimate(0, 0, 0.003, 1000)}
    assert words.size(row_of("x", "not asked", opens, pictures=0)) == "1,000 prompts"
    assert words.size(row_of("x", "not asked", opens, pictures=1)) == "1 picture"
