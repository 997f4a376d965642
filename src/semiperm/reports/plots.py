"""Plots as SVG text: small strips for a page's tiles and tables, and charts that stand alone.

A strip takes its colours from the page that it stands in, a chart brings its own; both follow light and dark.
The same figures give the same text.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from semiperm.evaluation.estimate import Estimate
from semiperm.evaluation.report import Arm, Report
from semiperm.reports.outcomes import acts, headline, outcomes
from semiperm.reports.render import render
from semiperm.reports.summary import Figure, summary
from semiperm.reports.words import capital, full, heading, is_share, value

# steps between which an axis may end, from fine to coarse
STEPS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5)
MOST_ROWS = 30


@dataclass(frozen=True)
class Line:
    """One interval of a plot.

    Attributes:
        label: whose figure it is.
        estimate: the figure.
        tone: "bare", "gone" or "kept", which decides the colour.
        dots: figures of the single rows that the figure is made of.
    """

    label: str
    estimate: Estimate
    tone: str
    dots: tuple[float, ...] = ()


@dataclass(frozen=True)
class Mark:
    """A labelled place of a chart: one interval, or two of the same row above each other, and the figures as text."""

    label: str
    lines: tuple[Line, ...]
    text: str


@dataclass(frozen=True)
class Panel:
    """The marks of one figure, on one axis."""

    title: str
    name: str
    marks: tuple[Mark, ...]

    @property
    def lines(self) -> list[Line]:
        """All intervals of the panel."""
        return [line for mark in self.marks for line in mark.lines]


def lines_of(report: Report, name: str, title: str) -> list[Line]:
    """Return the lines of one figure of the summary: the bare model's, once for each model, and every arm's."""
    found: list[Line] = []
    models = {arm.model for arm in report.arms}
    seen: set[str] = set()
    for arm in report.arms:
        figure = next((one for one in summary(arm) if (one.name, one.title) == (name, title)), None)
        if figure is None:
            continue
        if figure.bare and arm.model not in seen and acts(arm):
            label = "bare model" if len(models) == 1 else f"bare {arm.model}"
            found.append(Line(label, figure.bare, "bare", _few(figure.bare_rows)))
        seen.add(arm.model)
        label = arm.name if len(report.arms) > 1 or not acts(arm) else "erased"
        found.append(Line(label, figure.now, tone(figure), _few(figure.rows)))
    return found


def tone(figure: Figure) -> str:
    """Return the tone of a figure: what should be gone, or what should stay."""
    return "gone" if figure.wanted == "low" else "kept"


def alike(lines: Sequence[Line]) -> bool:
    """Return whether a plot of the lines would say nothing: all are the same, or one has no rows of its own."""
    if len(lines) == 1:
        return len(lines[0].dots) < 2
    return len({(line.estimate.value, line.estimate.low, line.estimate.high) for line in lines}) < 2


def span(name: str, lines: Sequence[Line]) -> tuple[float, float]:
    """Return the two ends of an axis, zoomed to the intervals and rows of the lines and rounded outwards."""
    ends = [end for line in lines for end in (line.estimate.low, line.estimate.high, *line.dots)]
    low, high = min(ends), max(ends)
    scale = 1.0 if is_share(name) else 10 ** math.floor(math.log10(max(abs(low), abs(high), 1e-6)))
    step = scale * next((step for step in STEPS if (high - low) <= 10 * step * scale), 1)
    low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    if is_share(name):
        low, high = max(low, 0.0), min(high, 1.0)
    if low == high:
        low, high = (low - step, high) if low > 0 else (low, high + step)
    return low, high


def strip(drawn: Sequence[Line], ends: tuple[float, float], text: str) -> str:
    """Return intervals on one axis as a drawing of the width that it is given, for a page.

    Args:
        text: what the drawing says, for those who cannot see it.
    """
    return render("strip.svg.j2", lines=drawn, at=_scale(ends), text=text)


def arms(report: Report) -> str | None:
    """Return a chart of the figures that sum up the arms, with the bare model's; None where it would say nothing."""
    names = dict.fromkeys((figure.name, figure.title) for arm in report.arms for figure in summary(arm))
    panels = []
    for name, title in names:
        marks = [Mark(line.label, (line,), full(name, line.estimate)) for line in lines_of(report, name, title)]
        panels.append(Panel(title, name, tuple(marks)))
    return _chart(f"{report.protocol}: what was measured, with 95 % intervals", panels)


def rows(arm: Arm) -> str | None:
    """Return a chart of the rows whose deciding figure is not the bare model's, or missed; None without any."""
    panels: dict[str, list[Mark]] = {}
    for outcome in outcomes(arm):
        row, name = outcome.row, headline(outcome.row)
        if not name or (row.figures[name] == row.bare.get(name) and not outcome.missed):
            continue
        now, before = row.figures[name], row.bare.get(name)
        line = Line(row.name, now, "gone" if row.expected == "gone" else "kept")
        text = full(name, now)
        if before and acts(arm):
            panels.setdefault(name, []).append(
                Mark(row.name, (Line("bare", before, "bare"), line), f"{text}, bare {value(name, before)}")
            )
        else:
            panels.setdefault(name, []).append(Mark(row.name, (line,), text))
    made = [Panel(capital(heading(name)), name, tuple(marks[:MOST_ROWS])) for name, marks in panels.items()]
    return _chart(f"{arm.name}: rows that changed, with 95 % intervals", made)


# sizes of a chart in pixels of its own
WIDTH, LABEL, PLOT, LINE, HEAD, FOOT = 720, 210, 300, 22, 30, 26
LETTERS = 30


def _chart(title: str, panels: Sequence[Panel]) -> str | None:
    panels = [panel for panel in panels if not alike(panel.lines)]
    if not panels:
        return None
    drawn, top = [], 4
    for panel in panels:
        ends = span(panel.name, panel.lines)
        marks = [(_cut(mark.label), mark.lines, mark.text) for mark in panel.marks]
        drawn.append((panel.title, top, marks, _scale(ends), axis(panel.name, ends)))
        top += HEAD + LINE * len(marks) + FOOT
    sizes = {"width": WIDTH, "label": LABEL, "plot": PLOT, "line": LINE, "head": HEAD}
    return str(render("chart.svg.j2", title=title, panels=drawn, height=top, **sizes))


def axis(name: str, ends: tuple[float, float]) -> tuple[str, str]:
    """Return the two ends of an axis as texts."""
    low, high = (100 * end if is_share(name) else end for end in ends)
    unit = " %" if is_share(name) else ""
    return f"{low:.6g}{unit}", f"{high:.6g}{unit}"


def _scale(ends: tuple[float, float]) -> Callable[[float], float]:
    low, high = ends

    def at(number: float) -> float:
        """Return where a value stands, from 0 to 100, a little inside of the ends so that dots are not cut."""
        return round(3 + 94 * min(max((number - low) / (high - low), 0), 1), 2)

    return at


def _few(values: tuple[float, ...]) -> tuple[float, ...]:
    """Return the values to draw as dots: each once, and none where there is one row only."""
    return tuple(dict.fromkeys(values)) if len(values) > 1 else ()


def _cut(text: str) -> str:
    return text if len(text) <= LETTERS else text[: LETTERS - 1] + "…"
