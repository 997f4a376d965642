"""What a page is made of: blocks of data that the templates draw.

document("Title", [Verdict(...), Section("Pictures", [Gallery(...)]), Folded("Method", [Facts(...)])])
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from PIL import Image

from semiperm.reports.render import render
from semiperm.reports.verdict import Finding

# pictures are shown at about half of this; larger ones would make pages of many megabytes
SIDE = 256


@dataclass(frozen=True)
class Verdict:
    """The verdicts on one or several arms; it stands first."""

    findings: Sequence[Finding]
    kind: ClassVar[str] = "verdict"


@dataclass(frozen=True)
class Text:
    """A paragraph, a small one where it only explains."""

    text: str
    small: bool = False
    kind: ClassVar[str] = "text"


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: what stands in it.
        beside, below: what stands below it, small, in two lines.
        svg: a drawing below all.
        tone: "bad", "good" or empty.
    """

    text: str
    beside: str = ""
    below: str = ""
    svg: str = ""
    tone: str = ""


@dataclass(frozen=True)
class Table:
    """A table whose first column names its rows; on a narrow screen each row becomes a card."""

    head: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    caption: str = ""
    kind: ClassVar[str] = "table"


@dataclass(frozen=True)
class Shown:
    """A picture of the bare model, and below it the same prompt and seed with erasures on.

    Attributes:
        caption: the prompt.
        bare, erased: pictures as data URIs; `erased` is empty where there is none.
        note: what stands below, mostly the permeability.
        same: whether the two pictures are the same bit for bit.
        small: whether the pictures are enlarged, pixel by pixel.
    """

    caption: str
    bare: str
    erased: str = ""
    note: str = ""
    same: bool = False
    small: bool = True


@dataclass(frozen=True)
class Shelf:
    """Pictures that belong together, in a row."""

    title: str
    pictures: Sequence[Shown]


@dataclass(frozen=True)
class Gallery:
    """Shelves of pictures below each other."""

    shelves: Sequence[Shelf]
    caption: str = ""
    kind: ClassVar[str] = "gallery"


@dataclass(frozen=True)
class Strip:
    """A line of a tile: a label, an interval as a drawing (or none), and the figure as text."""

    label: str
    text: str
    svg: str = ""
    tone: str = ""


@dataclass(frozen=True)
class Tile:
    """A figure in large letters with a small plot.

    Attributes:
        title: what the figure is.
        text, beside: the figure and its interval; empty where the strips say it.
        strips: the lines of the plot.
        axis: the two ends of the plot's axis; empty without a plot.
        note: what stands below.
    """

    title: str
    text: str = ""
    beside: str = ""
    strips: Sequence[Strip] = ()
    axis: tuple[str, str] | None = None
    note: str = ""


@dataclass(frozen=True)
class Tiles:
    """Tiles beside each other, wide ones where the labels of their strips are long."""

    tiles: Sequence[Tile]
    wide: bool = False
    kind: ClassVar[str] = "tiles"


@dataclass(frozen=True)
class Facts:
    """Names and what they are."""

    facts: Sequence[tuple[str, str]]
    kind: ClassVar[str] = "facts"


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    title: str
    blocks: Sequence["Block"]
    kind: ClassVar[str] = "section"


@dataclass(frozen=True)
class Folded:
    """A line that opens to show more.

    Attributes:
        paper: whether it is printed, opened; what repeats itself is left out there.
    """

    title: str
    blocks: Sequence["Block"]
    paper: bool = True
    kind: ClassVar[str] = "folded"


@dataclass(frozen=True)
class Apart:
    """Blocks in a frame, apart from what this run measured: figures that others report."""

    blocks: Sequence["Block"]
    kind: ClassVar[str] = "apart"


Block = Verdict | Text | Table | Gallery | Tiles | Facts | Section | Folded | Apart


def document(title: str, blocks: Sequence[Block], *, lead: str = "") -> str:
    """Return a self-contained page in HTML, readable on a phone, in dark mode and on paper.

    Args:
        lead: a line below the title.
    """
    return str(render("document.html.j2", title=title, lead=lead, blocks=blocks))


def shown(caption: str, bare: np.ndarray, erased: np.ndarray | None = None, note: str = "") -> Shown:
    """Return a picture (H, W, 3) uint8 and the one with erasures on, encoded for a page.

    Large pictures are scaled down and stored as JPEG; small ones keep every pixel.
    """
    same = erased is not None and np.array_equal(bare, erased)
    return Shown(
        caption,
        _encoded(bare),
        "" if erased is None else _encoded(erased),
        note,
        same,
        max(bare.shape[:2]) < SIDE,
    )


def _encoded(picture: np.ndarray) -> str:
    image = Image.fromarray(picture)
    buffer = io.BytesIO()
    if max(image.size) < SIDE:
        image.save(buffer, format="PNG", optimize=True)
        return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    image.save(buffer, format="JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
