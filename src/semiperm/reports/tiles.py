"""Figures as tiles: large where there is one, as a small plot where several differ."""

from collections.abc import Sequence

from semiperm.evaluation.estimate import Estimate
from semiperm.reports import plots
from semiperm.reports.blocks import Strip, Tile
from semiperm.reports.words import full, interval, value


def tile(
    name: str, title: str, lines: Sequence[plots.Line], *, lead: Estimate | None = None, same: str = "", note: str = ""
) -> Tile:
    """Return a tile of a figure; without its plot where that would say nothing.

    Args:
        name: the figure's name, which decides how it is written.
        lines: whose figures are compared.
        lead: the figure that is written large.
        same: what stands below where all lines are the same.
        note: what stands below where they are not.
    """
    if plots.alike(lines):
        lead = lead or lines[0].estimate
        return Tile(title, value(name, lead), interval(name, lead), note=same if len(lines) > 1 else "")
    ends = plots.span(name, lines)
    strips = [
        Strip(
            line.label,
            value(name, line.estimate),
            plots.strip([line], ends, f"{line.label}: {full(name, line.estimate)}"),
            line.tone,
        )
        for line in lines
    ]
    text, beside = (value(name, lead), interval(name, lead)) if lead else ("", "")
    return Tile(title, text, beside, strips, plots.axis(name, ends), note)
