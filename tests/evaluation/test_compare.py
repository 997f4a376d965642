"""Differences between reports carry their doubt; tables and pages say what was measured."""

import math
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from semiperm.evaluation import page, plots
from semiperm.evaluation.compare import compare, difference
from semiperm.evaluation.estimate import Estimate, mean
from semiperm.evaluation.markdown import markdown
from semiperm.evaluation.page import Example
from semiperm.evaluation.report import Part, Proof, Report, ReportError, Row

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def share(value: float, count: int = 100) -> Estimate:
    reach = 1.96 * math.sqrt(value * (1 - value) / count)
    return Estimate(value=value, low=value - reach, high=value + reach, count=count)


def report_of(found: dict[str, Estimate], name: str = "guarded", **changes: object) -> Report:
    row = Row(name="cat", role="erased", pictures=100, opened=1.0, figures=found, bare={"found": share(0.9)})
    kept = Row(
        name="<dog>", role="kept", pictures=50, opened=0.0, bare={"found": share(0.8)},
        figures={
            "found": share(0.8), "unchanged": share(0.98), "error": share(0.004),
            "CS": Estimate(value=61.5, low=60, high=63, count=50),
        },
    )  # fmt: skip
    part = Part(
        name=name, model="m", membranes={"cat": "abc"}, transport="calibrated", rows=[row, kept], closed=50,
        summary={"UA": share(1 - found["found"].value), "IRA": share(0.8)},
        bare_summary={"UA": share(0.1), "IRA": share(0.8)}, proof=Proof(checked=4, identical=4),
        permeability={"erased": [0] * 9 + [100], "kept": [50] + [0] * 9},
    )  # fmt: skip
    facts: dict[str, object] = {
        "protocol": "objects", "protocol_version": 1, "shows": "a thing is gone", "form": "terrarium", "model": "m",
        "settings": {"steps": 25}, "judge": {}, "versions": {}, "revision": "r", "device": "cpu", "date": "today",
        "seconds": 1.0, "pictures": 150, "reported": "objects", "parts": [part], **changes,
    }  # fmt: skip
    return Report.model_validate(facts)


def test_a_difference_is_as_wide_as_two_independent_figures_make_it() -> None:
    found = difference(share(0.5), share(0.3))
    reach = 1.96 * math.sqrt(0.5 * 0.5 / 100 + 0.3 * 0.7 / 100)
    assert found.value == pytest.approx(-0.2)
    assert (found.low, found.high) == (pytest.approx(-0.2 - reach), pytest.approx(-0.2 + reach))


def test_the_interval_of_a_difference_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        first, second = (mean(rng.random(80) < chance, resamples=200) for chance in (0.6, 0.45))
        found = difference(first, second)
        covered += found.low <= -0.15 <= found.high
    assert 0.89 <= covered / 200 <= 0.995


def test_reports_are_compared_figure_by_figure() -> None:
    found = compare(report_of({"found": share(0.5)}), report_of({"found": share(0.02)}, name="other"))
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


def test_reports_of_different_things_are_not_compared() -> None:
    first = report_of({"found": share(0.5)})
    different: list[dict[str, Any]] = [{"protocol": "styles"}, {"protocol_version": 2}, {"form": "full"}]
    for changes in different:
        with pytest.raises(ReportError, match="differ in their"):
            compare(first, report_of({"found": share(0.5)}, **changes))


def test_the_page_says_the_verdict_first_and_keeps_reported_figures_apart() -> None:
    found = report_of({"found": share(0.02)})
    text = page.page(found, [])
    assert "What was erased is found in 2.0% of 100 pictures that ask for it (bare model: 90.0%)." in text
    assert text.index("What was erased") < text.index("<svg") < text.index("Reported elsewhere, not measured here")
    assert "&lt;dog&gt;" in text and "<dog>" not in text
    assert "4 of 4 of them that were made again were the same" in text


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [500, 1100])
def test_a_browser_shows_the_page_without_scrolling_sideways(width: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (8, 64, 64, 3)).astype(np.uint8)
    example = Example("guarded", "cat", noise, noise, ["a cat"] * 8, ["cat 1"] * 8)
    text = page.page(report_of({"found": share(0.02)}), [example])
    measure = (
        "<script>document.title = [document.documentElement.scrollWidth, innerWidth, document.images[0].naturalWidth, "
        "document.querySelector('.verdict').getBoundingClientRect().top < 300].join()</script>"
    )
    path = tmp_path / "page.html"
    path.write_text(text + measure, encoding="utf-8")
    assert CHROMIUM is not None
    dom = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},800", "--dump-dom", path.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    ).stdout  # fmt: skip
    needed, there, picture, early = dom.split("<title>")[1].split("</title>")[0].split(",")
    assert int(needed) <= int(there) and int(picture) > 0 and early == "true"


def test_the_table_has_a_line_for_each_subject_and_reported_figures_in_another() -> None:
    found = report_of({"found": share(0.02)})
    text = markdown(found)
    assert "| cat | erased | 100 | 1.00 | 2% (bare 90%) |" in text
    assert "| <dog> | kept | 50 | 0.00 | 80% (bare 80%) | 98% | 0.4% | 61.50 |" in text
    assert "98% of 50 | 0.4% |" in text
    several = markdown(found.model_copy(update={"parts": [*found.parts, *found.parts]}))
    assert several.count("98% of 50 | 0.4% |") == 2 and "| cat | erased |" not in several
    measured, reported = text.split("*Reported*")
    assert "55.48" in reported and "55.48" not in measured


def test_plots_are_drawn_where_there_is_something_to_draw() -> None:
    found = report_of({"found": share(0.02)})
    for drawn in (plots.shares(found.parts[0]), plots.trade(found), plots.ways(found), plots.openings(found.parts[0])):
        assert drawn is not None and drawn.startswith("<svg") and drawn.rstrip().endswith("</svg>")
    without = found.parts[0].model_copy(update={"membranes": {}, "rows": []})
    assert plots.openings(without) is None and plots.shares(without) is None
    unmeasured = found.parts[0].model_copy(update={"summary": {"UA": share(0.5)}})
    # one part may lack what another has
    assert plots.ways(found.model_copy(update={"parts": [unmeasured, *found.parts]})) is not None
    nothing = unmeasured.model_copy(update={"summary": {}})
    assert plots.ways(found.model_copy(update={"parts": [nothing]})) is None
