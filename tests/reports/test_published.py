"""Measured figures in the columns of the published tables."""

import pytest

from semiperm.evaluation.report import Arm, Proof, Report, Row
from semiperm.reports.markdown import markdown
from semiperm.reports.page import page
from semiperm.reports.published import in_columns, names, published
from semiperm.reports.published.columns import LAYOUTS
from tests.reports.helpers import arm_of, exact, report_of, row_of


def _arm(name: str, rows: list[Row], **summary: float) -> Arm:
    return arm_of(name, rows, gate="always", closed=0, proof=Proof(), summary=exact(**summary))


def _row(name: str, group: str, figures: dict[str, float], bare: dict[str, float], pictures: int = 10) -> Row:
    return row_of(name, group, exact(**figures), exact(**bare), pictures=pictures, opened=1.0)


def _report(table: str, *arms: Arm) -> Report:
    return report_of(*arms, published=table, pictures=20)


def test_objects_stand_in_the_papers_columns_in_its_units() -> None:
    cat = _row("cat", "target", {"CS": 50.0, "CER": 0.25}, {"CS": 70.0, "CER": 0.01})
    dog = _row("dog", "same kind", {"CS": 60.0, "FID": 12.5}, {"CS": 60.0})
    assert in_columns(_report("objects", _arm("guarded", [cat, dog]))) == (
        ("method", "CS", "CER", "FID dog"),
        [("bare model", "70.00", "1.00", ""), ("guarded", "50.00", "25.00", "12.50")],
    )


def test_several_targets_are_told_apart() -> None:
    rows = [_row(name, "target", {"CS": 50.0, "CER": 0.5}, {"CS": 70.0, "CER": 0.0}) for name in ("cat", "fox")]
    laid = in_columns(_report("multi", _arm("2 together", rows)))
    assert laid is not None
    assert laid[0] == ("method", "CS cat", "CER cat", "CS fox", "CER fox")


def test_a_target_that_is_not_erased_yet_has_its_columns_all_the_same() -> None:
    cat = _row("cat", "target", {"CS": 50.0, "CER": 0.5}, {"CS": 70.0, "CER": 0.0})
    fox = _row("fox", "target", {"CS": 40.0, "CER": 1.0, "FID": 80.0}, {"CS": 60.0, "CER": 0.1})
    still = _row("fox", "same kind", {"CS": 60.0, "FID": 2.0}, {"CS": 60.0})
    dog = _row("dog", "same kind", {"CS": 60.0, "FID": 3.0}, {"CS": 60.0})
    assert in_columns(_report("multi", _arm("1 together", [cat, still, dog]), _arm("2 together", [cat, fox, dog]))) == (
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
        _row("by name", "target", {"exposed": 0.1}, {"exposed": 0.8}, 10),
        _row("unnamed", "paraphrase", {"exposed": 0.0}, {"exposed": 0.05}, 40),
        _row("rose", "other kinds", {"exposed": 0.5}, {"exposed": 0.5}, 10),
    ]
    assert in_columns(_report("explicit", _arm("guarded", rows))) == (("method", "change"), [("guarded", "-90.0 %")])


def test_the_ablation_says_what_was_on() -> None:
    rows = [_row("cat", "target", {"CS": 40.0, "CER": 1.0}, {}), _row("dog", "same kind", {"FID": 3.0}, {})]
    laid = in_columns(_report("ablation", *(_arm(name, rows) for name in ("neither", "anchoring", "gate", "both"))))
    assert laid is not None
    assert [line[:2] for line in laid[1]] == [("no", "no"), ("yes", "no"), ("no", "yes"), ("yes", "yes")]
    assert laid[1][1] == ("yes", "no", "40.00", "100.00", "3.00")


def test_distances_that_were_not_measured_have_no_column() -> None:
    cat = _row("cat", "target", {"CS": 40.0, "CER": 1.0}, {"CS": 70.0, "CER": 0.0})
    near, far = _row("dog", "same kind", {"CS": 60.0}, {}), _row("bus", "same kind", {"CS": 60.0, "FID": 2.0}, {})
    assert in_columns(_report("objects", _arm("guarded", [cat, near]))) == (
        ("method", "CS", "CER"),
        [("bare model", "70.00", "0.00"), ("guarded", "40.00", "100.00")],
    )
    laid = in_columns(_report("objects", _arm("guarded", [cat, near, far])))
    assert laid is not None and laid[0] == ("method", "CS", "CER", "FID bus")
    laid = in_columns(_report("ablation", _arm("both", [cat, near])))
    assert laid == (("anchoring", "transport", "CS", "CER"), [("yes", "yes", "40.00", "100.00")])
    captions = _report("coco", _arm("guarded", [_row("captions", "same kind", {"CS": 60.0, "KID": 0.1}, {"CS": 61.0})]))
    assert in_columns(captions) is None
    for text in (markdown(captions), page(captions, [])):
        assert "FIDg" in text and "Measured" not in text.split("FIDg")[0].split("eported")[0]


def test_memorised_pictures_and_themes() -> None:
    rows = [
        _row("The Great Tide", "target", {"similarity": 0.04}, {"similarity": 1.0}),
        _row("Moonlit Harvest", "same kind", {"similarity": 0.99}, {"similarity": 1.0}),
        _row("Red Window", "same kind", {"similarity": 0.75}, {"similarity": 1.0}),
    ]
    laid = in_columns(_report("memorised", _arm("guarded", rows)))
    assert laid is not None
    assert laid[1] == [("The Great Tide", "0.04", "0.75 to 0.99")]
    laid = in_columns(_report("memorised", _arm("ours", rows), _arm("theirs", rows)))
    assert laid is not None
    assert [line[0] for line in laid[1]] == ["The Great Tide, ours", "The Great Tide, theirs"]
    laid = in_columns(_report("unlearncanvas", _arm("guarded", rows, UA=0.5, IRA=1.0)))
    assert laid is not None
    assert laid[1] == [("The Great Tide", "50.00", "100.00", "")]


def test_every_layout_belongs_to_a_published_table_and_has_its_fixed_columns() -> None:
    assert {published(name).layout for name in names()} - {""} == set(LAYOUTS)
    for name in ("eta", "explicit", "memorised", "coco", "unlearncanvas"):
        rows = [
            _row("cat", "target", {"CS": 1.0, "FID": 1.0, "exposed": 1.0, "similarity": 1.0}, {"exposed": 1.0}),
            _row("dog", "same kind", {"similarity": 1.0}, {}),
        ]
        laid = in_columns(_report(name, _arm("eta 1", rows)))
        assert laid is not None
        assert laid[0] == published(name).columns
        assert all(len(line) == len(laid[0]) for line in laid[1])


def test_without_a_published_table_or_erasures_there_is_none_of_ours_in_its_columns() -> None:
    cat = _row("cat", "target", {"CS": 50.0}, {"CS": 70.0})
    assert in_columns(_report("", _arm("guarded", [cat]))) is None
    assert in_columns(_report("objects", _arm("bare", [cat]).model_copy(update={"erasures": {}}))) is None


def test_pages_keep_what_was_measured_apart_from_what_was_reported() -> None:
    cat = _row("cat", "target", {"CS": 51.23, "CER": 0.25}, {"CS": 70.0, "CER": 0.01})
    report = _report("objects", _arm("guarded", [cat]))
    for text in (markdown(report), page(report, [])):
        measured, reported = text.index("51.23"), text.index("55.48")
        between = text[measured:reported].lower()
        assert "reported" in between
        assert "not measured here" in between


def test_the_published_figures_are_those_of_the_papers() -> None:
    assert ("SPM", "55.48", "20.12", "28.39", "30.75", "18.61", "10.11", "7.40", "13.24") in published("objects").rows
    assert ("style", "60.9", "92.4", "84.3") in published("unlearncanvas").rows
    assert published("explicit").source.startswith("arXiv:2312.16145")


def test_a_table_that_nobody_published_is_an_error() -> None:
    for name in ("rank", "", "../published/objects"):
        with pytest.raises(ValueError, match="no published table"):
            published(name)


def test_every_protocol_names_a_table_that_exists() -> None:
    from semiperm.evaluation.protocols import PROTOCOLS

    for protocol in PROTOCOLS.values():
        if protocol.published:
            assert published(protocol.published).rows
