"""Pages of one's own are made of the same blocks as those of reports."""

import numpy as np

from semiperm.reports.blocks import (
    Apart,
    Cell,
    Facts,
    Folded,
    Gallery,
    Section,
    Shelf,
    Table,
    Text,
    Verdict,
    document,
    shown,
)
from semiperm.reports.verdict import Finding
from tests.reports.helpers import HOSTILE, read


def test_every_kind_of_block_is_drawn_and_escaped() -> None:
    picture = np.zeros((64, 64, 3), np.uint8)
    text = document(
        HOSTILE,
        [
            Verdict([Finding("", HOSTILE, (HOSTILE,), HOSTILE)]),
            Verdict([Finding(HOSTILE, HOSTILE, warning=HOSTILE), Finding("b", "c")]),
            Section(HOSTILE, [Section(HOSTILE, [Text(HOSTILE), Text(HOSTILE, small=True)])]),
            Table([HOSTILE, HOSTILE], [[HOSTILE, Cell(HOSTILE, HOSTILE, HOSTILE)]], HOSTILE),
            Gallery([Shelf(HOSTILE, [shown(HOSTILE, picture, picture, HOSTILE), shown("x", picture)])], HOSTILE),
            Folded(HOSTILE, [Apart([Facts([(HOSTILE, HOSTILE)])])], paper=False),
        ],
        lead=HOSTILE,
    )
    found = read(text)
    assert "<script" not in text
    assert found.one("title").text == " ".join(HOSTILE.split())
    assert found.all("h2") and found.all("h3") and found.one("aside", class_="apart").all("dd")
    assert len(found.all("p", class_="warning")) == 2
    assert found.one("details", class_="screen").all("summary")


def test_a_cell_knows_its_column_for_narrow_screens_and_an_empty_one_is_empty() -> None:
    found = read(document("t", [Table(["row", "one", "two"], [["a", "", Cell("1 %", "(0 to 2 %)", "bare 3 %")]])]))
    empty, full = found.all("td")
    assert not empty.inside and full.attributes["data-head"] == "two"
    assert full.text == "1 % (0 to 2 %) bare 3 %"


def test_the_style_follows_dark_mode_narrow_screens_and_paper() -> None:
    style = read(document("t", [])).one("style").text
    for condition in ("prefers-color-scheme: dark", "max-width: 700px", "@media print", "details-content"):
        assert condition in style
    assert "&#" not in style
