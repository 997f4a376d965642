import xml.etree.ElementTree as ElementTree

from semiperm.evaluation.estimate import Estimate
from semiperm.reports import plots
from tests.reports.helpers import HOSTILE, arm_of, cat_erased, report_of, row_of, share

SVG = "{http://www.w3.org/2000/svg}"


def texts(svg: str) -> list[str]:
    return [node.text or "" for node in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_arms_are_drawn_beside_the_bare_model_where_they_differ() -> None:
    arms = [cat_erased(left, f"arm {number}") for number, left in enumerate((0.02, 0.3))]
    report = report_of(*arms)
    drawn = plots.arms(report)
    assert drawn is not None and drawn == plots.arms(report)
    # what must stay is the same everywhere, so it is not drawn
    assert [text for text in texts(drawn) if text in ("Target found", "Same kind found")] == ["Target found"]
    assert {"bare model", "arm 0", "arm 1", "2 % (0 to 5 %)", "90 % (84 to 96 %)"} <= set(texts(drawn))
    same = [cat_erased(0.9, f"arm {number}") for number in range(2)]
    assert plots.arms(report_of(*same)) is None


def test_rows_that_changed_are_drawn_and_no_others() -> None:
    drawn = plots.rows(cat_erased())
    assert drawn is not None
    assert "cat" in texts(drawn) and not any("other" in text for text in texts(drawn))
    kept = row_of("dog", "same kind", {"found": share(1), "unchanged": share(1)}, {"found": share(1)})
    assert plots.rows(arm_of("erased", [kept])) is None
    assert plots.rows(arm_of("erased", [])) is None


def test_one_arm_may_lack_what_another_has() -> None:
    without = arm_of("other", [], summary={"IRA": share(0.5)}, bare_summary={})
    drawn = plots.arms(report_of(without, cat_erased()))
    assert drawn is not None and "other" in texts(drawn)


def test_a_chart_says_what_it_is_and_escapes_names() -> None:
    drawn = plots.rows(cat_erased(name=HOSTILE, others=0))
    assert drawn is not None
    root = ElementTree.fromstring(drawn)
    assert root.attrib["role"] == "img" and " ".join(HOSTILE.split()) in " ".join(root.attrib["aria-label"].split())
    assert "prefers-color-scheme: dark" in drawn


def test_an_axis_is_zoomed_to_the_intervals() -> None:
    def ends(name: str, *spans: tuple[float, float, float]) -> tuple[str, str]:
        lines = [plots.Line("x", Estimate(value=v, low=low, high=high, count=9), "kept") for low, v, high in spans]
        return plots.axis(name, plots.span(name, lines))

    assert ends("found", (0.951, 0.98, 1), (0.97, 0.99, 1)) == ("95 %", "100 %")
    assert ends("found", (0, 0, 0.1), (0.9, 1, 1)) == ("0 %", "100 %")
    assert ends("found", (1, 1, 1)) == ("99.5 %", "100 %") and ends("found", (0, 0, 0)) == ("0 %", "0.5 %")
    assert ends("FID", (36, 41, 46.3)) == ("36", "48") and ends("KID", (0.0081, 0.012, 0.0163)) == ("0.008", "0.017")
    assert ends("FID", (0, 0, 0)) != ends("FID", (5, 5, 5))
