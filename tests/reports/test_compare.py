"""Differences between reports carry their uncertainty, and reports of different things are refused."""

from typing import Any

import pytest

from semiperm.errors import ReportError
from semiperm.evaluation.estimate import Estimate
from semiperm.evaluation.report import Report
from semiperm.reports.compare import HEAD, compare, ordered, page, summed_up
from tests.reports.helpers import HOSTILE, arm_of, cat_erased, read, report_of, row_of, share


def with_cat(found: float, name: str = "erased", **changes: object) -> Report:
    kept = {
        "found": share(0.8), "unchanged": share(0.98), "error": share(0.004),
        "CS": Estimate(value=61.5, low=60, high=63, count=50),
    }  # fmt: skip
    rows = [row_of("cat", "target", {"found": share(found)}, {"found": share(0.9)}), row_of("<dog>", "same kind", kept)]
    arm = arm_of(name, rows, summary={"UA": share(1 - found), "IRA": share(0.8)})
    return report_of(arm, **changes)


def test_reports_are_compared_figure_by_figure() -> None:
    found = compare(with_cat(0.5), with_cat(0.02, name="other"))
    by = {(one.row, one.figure): one for one in found}
    assert set(by) == {
        ("", "UA"),
        ("", "IRA"),
        ("cat", "found"),
        ("<dog>", "found"),
        ("<dog>", "unchanged"),
        ("<dog>", "error"),
        ("<dog>", "CS"),
    }
    assert by["cat", "found"].certain and by["cat", "found"].change.value == pytest.approx(-0.48)
    assert not by["<dog>", "found"].certain
    assert dict(zip(HEAD, by["cat", "found"].cells, strict=True)) == {
        "arm": "erased", "row": "cat", "figure": "found", "first": "50 % (40 to 60 %)", "second": "2 % (0 to 5 %)",
        "change": "−48 points (−58 to −38)",
    }  # fmt: skip


def test_reports_of_different_things_are_not_compared() -> None:
    different: list[dict[str, Any]] = [{"protocol": "styles"}, {"protocol_version": 2}, {"world": "open"}]
    for changes in different:
        for compared in (compare, page):
            with pytest.raises(ReportError, match="differ in their"):
                compared(with_cat(0.5), with_cat(0.5, **changes))


def test_arms_are_matched_by_name_and_not_by_place() -> None:
    first = report_of(cat_erased(0.1, "a"), cat_erased(0.5, "b"))
    second = report_of(cat_erased(0.5, "b"), cat_erased(0.1, "a"), cat_erased(0.9, "c"))
    found = compare(first, second)
    assert {one.arm for one in found} == {"a", "b"} and not any(one.change.value for one in found)
    assert "Only the second report has the arms c." in read(page(first, second)).one("main").text
    with pytest.raises(ReportError, match="no figure in common"):
        compare(first, report_of(cat_erased(0.1, "c"), cat_erased(0.1, "d")))


def test_the_sentence_says_how_many_figures_differ_beyond_chance() -> None:
    found = compare(with_cat(0.5), with_cat(0.02))
    assert summed_up(found) == (
        "2 of 7 figures differ beyond chance: target gone (UA) +48 points (+38 to +58) and cat: found −48 points "
        "(−58 to −38)."
    )
    assert [one.figure for one in ordered(found)] == ["UA", "found"]
    assert summed_up(compare(with_cat(0.5), with_cat(0.5))) == "None of 7 figures differs beyond chance."


def test_the_page_shows_what_changed_and_folds_the_rest() -> None:
    found = read(page(with_cat(0.5), with_cat(0.02), ("a.json", "b.json")))
    assert [node.text for node in found.all("h2")] == ["Summary", "What changed", "Everything else"]
    assert "2 of 7 figures differ beyond chance" in found.one("section", class_="verdict").text
    (line,) = found.all("section")[2].all("tr")[1:]
    assert line.text == "cat 2 % −48 points (−58 to −38) was 50 %"
    shown = found.one("main").shown
    assert "<dog>" not in shown and "4 figures of rows exactly the same" in shown
    assert "a.json" in found.one("main").text
    same = read(page(with_cat(0.5), with_cat(0.5)))
    assert [node.text for node in same.all("h2")] == ["Summary", "Everything else"]


def test_names_are_text_on_the_page() -> None:
    first, second = report_of(cat_erased(0.5, HOSTILE)), report_of(cat_erased(0.02, HOSTILE))
    text = page(first, second, (HOSTILE, HOSTILE))
    assert "<script" not in text
    read(text)
