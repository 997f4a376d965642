"""The page says the verdict first, shows what changed, folds what did not, and escapes every name."""

import html
import shutil
import subprocess
from pathlib import Path

import pytest

from semiperm.evaluation.example import Example
from semiperm.evaluation.report import Proof
from semiperm.reports.page import page
from tests.reports.helpers import HOSTILE, arm_of, cat_erased, exact, example_of, read, report_of, row_of, share

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def shelves() -> list[Example]:
    return [
        example_of(),
        example_of(row="in other words", group="paraphrase"),
        example_of(row="other 1", group="same kind", count=3),
        example_of(row="other 2", group="same kind", count=3),
        example_of(row="other 20", group="other kinds"),
    ]


def test_sections_stand_in_the_order_in_which_they_are_read() -> None:
    found = read(page(report_of(cat_erased()), shelves()))
    assert [node.text for node in found.all("h2")] == ["Pictures", "Summary", "What changed", "Method"]
    text = found.one("main").text
    places = [
        text.index(words)
        for words in (
            "The target (cat) is found in 2 % (0 to 5 %) of 100 pictures",
            "The target, by its name",
            "in other words",
            "same kind",
            "Target found",
            "expected: gone (target)",
            "stayed the bare model's",
            "Measured here",
            "Reported elsewhere",
            "not measured here",
            "revision",
        )
    ]
    assert places == sorted(places)


def test_what_stayed_the_same_is_one_line_with_its_list_folded() -> None:
    found = read(page(report_of(cat_erased(changed=True)), []))
    shown = found.one("main").shown
    assert "29 rows with 1,450 pictures stayed the bare model's, bit for bit" in shown
    assert "other 7" not in shown and "other 3" in shown
    fold = next(node for node in found.all("details") if "stayed the bare" in node.text)
    assert "Same kind: other 0, other 1, other 2, other 4," in fold.text and "Other kinds: other 15" in fold.text
    # the rows that changed have a line each, the outlier first
    (table,) = (node for node in found.all("table") if "expected: gone (target)" in node.text)
    assert [row.all("th")[0].text.split(" expected")[0] for row in table.all("tr")[1:]] == ["other 3", "cat"]


def test_a_figure_stands_beside_the_bare_models_once() -> None:
    found = read(page(report_of(cat_erased()), []))
    (line,) = (row for row in found.all("tr") if row.text.startswith("cat expected: gone (target)"))
    assert "2 % (0 to 5 %) bare 90 %" in line.text
    assert line.text.count("bare 90 %") == 1
    # and is drawn
    assert (
        line.one("svg").attributes["aria-label"].replace("\xa0", " ") == "bare 90 % (84 to 96 %), erased 2 % (0 to 5 %)"
    )


def test_a_row_that_missed_its_expectation_is_never_folded() -> None:
    arm = cat_erased()
    missed = row_of("still here", "paraphrase", {"found": share(0.9), "unchanged": share(1)}, {"found": share(0.9)})
    found = read(page(report_of(arm.model_copy(update={"rows": [*arm.rows, missed]})), []))
    (line,) = (row for row in found.all("tr") if "still here" in row.text)
    assert "Not gone" in line.text and line.all("span", class_="bad")
    assert "still here" in found.one("main").shown


def test_a_summary_has_three_to_six_figures_and_no_plot_that_says_nothing() -> None:
    found = read(page(report_of(cat_erased()), []))
    tiles = found.all("div", class_="tile")
    assert 3 <= len(tiles) <= 6
    gone, kept = tiles[:2]
    assert "Target found 2 % 0 to 5 %" in gone.text and len(gone.all("svg")) == 2
    assert "The bare model's is the same." in kept.text and not kept.all("svg")


def test_pictures_show_the_bare_model_above_the_erased_and_the_permeability_below() -> None:
    found = read(page(report_of(cat_erased()), shelves()))
    target, other_words, same_kind, _ = found.all("div", class_="shelf")
    (first, *_) = target.all("figure")
    assert [image.attributes["alt"] for image in first.all("img")] == [
        "cat 0: bare model",
        "cat 0: with the erasures on",
    ]
    assert first.one("figcaption").text == "cat 0 cat 1"
    assert other_words.all("figure")[0].one("figcaption").text.endswith(", identical")
    # every row of a group has its turn
    captions = [node.text for node in same_kind.all("span", class_="prompt")]
    assert captions[:4] == ["other 1 0", "other 2 0", "other 1 1", "other 2 1"]


def test_large_pictures_are_scaled_down() -> None:
    large = page(report_of(cat_erased()), [example_of(count=1, side=1024)])
    assert "image/jpeg" in large and len(large) < 200_000
    assert "image/png" in page(report_of(cat_erased()), [example_of(count=1)])


def test_a_bare_model_has_pictures_and_rows_but_nothing_changed() -> None:
    rows = [row_of(name, "same kind", {"found": share(value)}) for name, value in (("fox", 1), ("train", 0.6))]
    arm = arm_of("bare model", rows, erasures={}, gate="", closed=0, proof=Proof(), permeability={},
                 summary={"IRA": share(0.8)})  # fmt: skip
    example = example_of("bare model")
    bare = Example(example.arm, example.row, example.group, example.bare, example.erased[:0], example.prompts, [])
    found = read(page(report_of(arm), [bare]))
    assert [node.text for node in found.all("h2")] == ["Pictures", "Summary", "Row by row", "Method"]
    assert len(found.all("img")) == 8
    assert [row.all("th")[0].text[:5] for row in found.all("tbody")[0].all("tr")] == ["train", "fox e"]
    assert "On the bare model, what is asked for is found in 80.0 % (" in found.one("main").text
    assert not any("bare 100" in row.text for row in found.all("tr"))


def test_several_arms_are_compared_and_all_but_the_first_folded() -> None:
    arms = [cat_erased(left, f"arm {number}") for number, left in enumerate((0.02, 0.3, 0.9))]
    report = report_of(*arms)
    found = read(page(report, [example_of(arm.name) for arm in arms]))
    assert [node.text for node in found.all("h2")] == [
        "Pictures: arm 0", "The arms compared", "What changed: arm 0", "Method",
    ]  # fmt: skip
    assert len(found.one("section", class_="verdict").all("dd")) == 3
    target, kept = found.all("div", class_="tile")[:2]
    assert [node.text for node in target.all("span", class_="label")] == ["bare model", "arm 0", "arm 1", "arm 2"]
    assert "The same for all arms and the bare model." in kept.text and not kept.all("svg")
    shown = found.one("main").shown
    assert "arm 2: of 31 rows, 1 not as expected and 30 unchanged" in shown and "Pictures of 2 other arms" in shown
    assert len(found.one("main").all("figure")) == 8 + 4 + 4


def test_many_arms_do_not_hide_a_warning() -> None:
    arms = [cat_erased(0.02, f"arm {number}") for number in range(9)]
    arms[7] = arms[7].model_copy(update={"proof": Proof(checked=4, identical=2)})
    shown = read(page(report_of(*arms), [])).one("main").shown
    assert "arm 7: Do not trust this run: 2 of 4 pictures" in shown
    assert "The verdicts on 4 other arms" in shown and "The rows of 8 other arms" in shown


def test_exposures_are_shown_by_class() -> None:
    figures = {"exposed": share(0.1), "bomb": share(0), "axe": share(0.1), "unchanged": share(0)}
    bare = {"exposed": share(1), "bomb": share(0.4), "axe": share(0.6)}
    arm = arm_of(
        "erased",
        [row_of("weapons", "target", figures, bare, opened=1)],
        summary={"exposed": share(0.1)},
        bare_summary={"exposed": share(1)},
    )
    found = read(page(report_of(arm, published="explicit"), []))
    by_class = next(node for node in found.all("details") if node.text.startswith("What the detector counts"))
    assert "bomb 40 % (30 to 50 %) 0 % (0 to 3 %)" in by_class.text
    # the classes are not columns of the main table
    (line,) = (row for row in found.all("tr") if "expected: gone" in row.text)
    assert "60 %" not in line.text


def test_how_far_the_gate_opened_is_folded() -> None:
    arm = cat_erased().model_copy(update={"permeability": {"target": [1, 0, 2, 0, 0, 0, 0, 0, 0, 7]}})
    found = read(page(report_of(arm), []))
    (fold,) = (node for node in found.all("details") if node.text.startswith("How far the gate opened"))
    assert fold.text.endswith("target 1 2 7")


def test_names_are_text_on_the_page() -> None:
    arm = cat_erased(name=HOSTILE)
    row = arm.rows[1].model_copy(update={"name": HOSTILE, "figures": {**arm.rows[1].figures, "unchanged": share(0.5)}})
    arm = arm.model_copy(update={"erasures": {HOSTILE: "h"}, "rows": [arm.rows[0], row, *arm.rows[2:]]})
    report = report_of(arm, cat_erased(), protocol=HOSTILE, shows=HOSTILE, model=HOSTILE, published="objects")
    example = example_of(HOSTILE)
    hostile = Example(HOSTILE, HOSTILE, HOSTILE, example.bare, example.erased, [HOSTILE] * 8, [HOSTILE] * 8)
    text = page(report, [hostile])
    found = read(text)
    assert not found.all("script") and "<script>" not in text
    words = " ".join(HOSTILE.split())
    assert words in found.one("h1").text and words in found.one("main").all("tr")[1].text
    assert found.all("img")[0].attributes["alt"] == f"{HOSTILE}: bare model"


def test_a_page_loads_nothing_and_runs_nothing() -> None:
    text = page(report_of(cat_erased()), shelves())
    assert "<script" not in text and 'src="http' not in text and "href=" not in text and "url(" not in text
    assert page(report_of(cat_erased()), shelves()) == text


def test_an_unknown_published_table_is_a_fault_of_the_protocol() -> None:
    with pytest.raises(ValueError, match="no published table 'rank'"):
        page(report_of(cat_erased(), published="rank"), [])


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [390, 1100])
def test_a_browser_shows_the_page_without_scrolling_sideways(width: int, tmp_path: Path) -> None:
    arm = arm_of(
        "erased " * 9,
        [row_of(f"a row {number} with a long name", "target", {**exact(found=0.2, CS=1234.5, FID=2345.6, KID=0.012),
         "unchanged": share(0.5), "error": share(0.2), "CER": share(0.3), "similarity": share(0.4)},
         {"found": share(1)}, opened=0.5) for number in range(3)],
        summary={"UA": share(0.9)}, bare_summary={"UA": share(0)},
    )  # fmt: skip
    inner = html.escape(page(report_of(arm, cat_erased()), [example_of("erased"), example_of(arm.name)]))
    measure = (
        "<script>onload = () => { const inside = document.querySelector('iframe').contentDocument; document.title = ["
        "inside.documentElement.scrollWidth, inside.images[0].naturalWidth, "
        "Math.max(...[...inside.querySelectorAll('td')].map(cell => cell.getBoundingClientRect().right))].join() }"
        "</script>"
    )
    path = tmp_path / "page.html"
    path.write_text(
        f'<!doctype html><iframe width="{width}" height="800" style="border:0" srcdoc="{inner}"></iframe>{measure}',
        encoding="utf-8",
    )
    assert CHROMIUM is not None
    dom = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1300,900", "--dump-dom", path.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    ).stdout  # fmt: skip
    needed, picture, furthest = dom.split("<title>")[1].split("</title>")[0].split(",")
    assert int(needed) <= width and int(picture) > 0 and float(furthest) <= width
