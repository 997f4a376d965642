"""Measured figures in the columns of the published tables."""

import pytest

from semiperm.evaluation.as_reported import LAYOUTS, in_columns
from semiperm.evaluation.estimate import Estimate
from semiperm.evaluation.markdown import markdown
from semiperm.evaluation.page import page, verdict
from semiperm.evaluation.report import Part, Proof, Report, Row
from semiperm.evaluation.reported import REPORTED


def _figures(**values: float) -> dict[str, Estimate]:
    return {name: Estimate(value=value, low=value, high=value, count=10) for name, value in values.items()}


def _part(name: str, rows: list[Row], **summary: float) -> Part:
    return Part(
        name=name, model="m", membranes={"cat": "abc"}, transport="always", rows=rows, summary=_figures(**summary),
        bare_summary={}, closed=0, proof=Proof(), permeability={"erased": [0] * 9 + [10]},
    )  # fmt: skip


def _row(name: str, role: str, figures: dict[str, float], bare: dict[str, float], pictures: int = 10) -> Row:
    return Row(
        name=name, role=role, pictures=pictures, opened=1.0, figures=_figures(**figures), bare=_figures(**bare)
    )  # fmt: skip


def _report(reported: str, *parts: Part) -> Report:
    return Report(
        protocol=reported, protocol_version=1, shows="something", form="terrarium", model="m", settings={}, judge={},
        versions={}, revision="r", device="cpu", date="today", seconds=1.0, pictures=20, reported=reported,
        parts=list(parts),
    )  # fmt: skip


def test_objects_stand_in_the_papers_columns_in_its_units() -> None:
    cat = _row("cat", "erased", {"CS": 50.0, "CER": 0.25}, {"CS": 70.0, "CER": 0.01})
    dog = _row("dog", "kept", {"CS": 60.0, "FID": 12.5}, {"CS": 60.0})
    assert in_columns(_report("objects", _part("guarded", [cat, dog]))) == (
        ("method", "CS", "CER", "FID dog"),
        [("bare model", "70.00", "1.00", ""), ("guarded", "50.00", "25.00", "12.50")],
    )


def test_several_targets_are_told_apart() -> None:
    rows = [_row(name, "erased", {"CS": 50.0, "CER": 0.5}, {"CS": 70.0, "CER": 0.0}) for name in ("cat", "fox")]
    laid = in_columns(_report("multi", _part("2 together", rows)))
    assert laid is not None
    assert laid[0] == ("method", "CS cat", "CER cat", "CS fox", "CER fox")


def test_a_target_that_is_not_erased_yet_has_its_columns_all_the_same() -> None:
    cat = _row("cat", "erased", {"CS": 50.0, "CER": 0.5}, {"CS": 70.0, "CER": 0.0})
    fox = _row("fox", "erased", {"CS": 40.0, "CER": 1.0, "FID": 80.0}, {"CS": 60.0, "CER": 0.1})
    still = _row("fox", "kept", {"CS": 60.0, "FID": 2.0}, {"CS": 60.0})
    dog = _row("dog", "kept", {"CS": 60.0, "FID": 3.0}, {"CS": 60.0})
    assert in_columns(
        _report("multi", _part("1 together", [cat, still, dog]), _part("2 together", [cat, fox, dog]))
    ) == (
        ("method", "CS cat", "CER cat", "CS fox", "CER fox", "FID dog"),
        [
            ("bare model", "70.00", "0.00", "60.00", "10.00", ""),
            ("1 together", "50.00", "50.00", "60.00", "", "3.00"),
            ("2 together", "50.00", "50.00", "40.00", "100.00", "3.00"),
        ],
    )


def test_the_change_of_exposures_counts_pictures_not_rows() -> None:
    # 8 of 10 and 2 of 40 before, 1 of 10 and 0 of 40 after: from 10 to 1
    rows = [
        _row("by name", "erased", {"exposed": 0.1}, {"exposed": 0.8}, 10),
        _row("unnamed", "asked otherwise", {"exposed": 0.0}, {"exposed": 0.05}, 40),
        _row("rose", "other domain", {"exposed": 0.5}, {"exposed": 0.5}, 10),
    ]
    assert in_columns(_report("explicit", _part("guarded", rows))) == (("method", "change"), [("guarded", "-90.0 %")])


def test_the_ablation_says_what_was_on() -> None:
    rows = [_row("cat", "erased", {"CS": 40.0, "CER": 1.0}, {}), _row("dog", "kept", {"FID": 3.0}, {})]
    laid = in_columns(_report("ablation", _part("anchoring", rows), _part("transport", rows)))
    assert laid is not None
    assert laid[1] == [("yes", "no", "40.00", "100.00", "3.00"), ("no", "yes", "40.00", "100.00", "3.00")]


def test_memorised_pictures_and_themes() -> None:
    rows = [
        _row("The Great Tide", "erased", {"similarity": 0.04}, {"similarity": 1.0}),
        _row("Moonlit Harvest", "kept", {"similarity": 0.99}, {"similarity": 1.0}),
        _row("Red Window", "kept", {"similarity": 0.75}, {"similarity": 1.0}),
    ]
    laid = in_columns(_report("memorised", _part("guarded", rows)))
    assert laid is not None
    assert laid[1] == [("The Great Tide", "0.04", "0.75 to 0.99")]
    laid = in_columns(_report("memorised", _part("ours", rows), _part("theirs", rows)))
    assert laid is not None
    assert [line[0] for line in laid[1]] == ["The Great Tide, ours", "The Great Tide, theirs"]
    laid = in_columns(_report("unlearncanvas", _part("guarded", rows, UA=0.5, IRA=1.0)))
    assert laid is not None
    assert laid[1] == [("The Great Tide", "50.00", "100.00", "")]


def test_every_layout_belongs_to_a_published_table_and_has_its_fixed_columns() -> None:
    assert set(LAYOUTS) <= set(REPORTED)
    for name in ("eta", "explicit", "memorised", "coco", "unlearncanvas"):
        rows = [
            _row("cat", "erased", {"CS": 1.0, "FID": 1.0, "exposed": 1.0, "similarity": 1.0}, {"exposed": 1.0}),
            _row("dog", "kept", {"similarity": 1.0}, {}),
        ]
        laid = in_columns(_report(name, _part("eta 1", rows)))
        assert laid is not None
        assert laid[0] == REPORTED[name].columns
        assert all(len(line) == len(laid[0]) for line in laid[1])


@pytest.mark.parametrize("reported", ["", "paraphrase"])
def test_without_a_published_table_there_is_none_of_ours_in_its_columns(reported: str) -> None:
    assert in_columns(_report(reported, _part("guarded", []))) is None


def test_pages_keep_what_was_measured_apart_from_what_was_reported() -> None:
    cat = _row("cat", "erased", {"CS": 51.23, "CER": 0.25}, {"CS": 70.0, "CER": 0.01})
    report = _report("objects", _part("guarded", [cat]))
    for text in (markdown(report), page(report, [])):
        measured, reported = text.index("51.23"), text.index("55.48")
        between = text[measured:reported].lower()
        assert "reported" in between
        assert "not measured here" in between


def test_a_verdict_begins_with_what_is_exposed_and_tells_whether_anything_was_left_to_the_bare_model() -> None:
    part = _part("guarded", [], exposed=0.02, CRA=1.0)
    part = part.model_copy(update={"bare_summary": _figures(exposed=0.9, CRA=1.0)})
    said = verdict(_report("explicit", part), part)
    assert "exposed in 2.0% of 10 pictures" in said[0] and "bare model: 90.0%" in said[0]
    assert said[-1] == "Something opened for each of the 20 pictures."
    some = part.model_copy(update={"closed": 5, "proof": Proof(checked=4, identical=4)})
    assert "5 of 20 pictures are the bare model's" in verdict(_report("explicit", some), some)[-1]
