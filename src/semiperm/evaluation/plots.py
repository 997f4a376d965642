"""Plots of a report as SVG text, drawn without a screen."""

import io

from matplotlib import rc_context
from matplotlib.figure import Figure

from semiperm.evaluation.estimate import Estimate
from semiperm.evaluation.report import Part, Report

BLUE, ORANGE, GREY = "#2f6db3", "#d9822b", "#9a9aa4"
MARKERS = "osD^vPX*<>"
COLOURS = {"erased": ORANGE, "asked otherwise": "#eebf8b", "not asked": "#6f9e6a", "kept": BLUE, "other domain": GREY}
SUMMARY = {"UA": ORANGE, "exposed": "#b33a3a", "IRA": BLUE, "CRA": GREY}


def shares(part: Part) -> str | None:
    """Draw how often each row's subject is found, by the bare model and guarded, with intervals; None without any."""
    rows = [row for row in part.rows if "found" in row.figures]
    if not rows:
        return None
    figure = Figure(figsize=(7.5, 0.34 * len(rows) + 1.1), layout="constrained")
    axes = figure.add_subplot()
    for height, row in enumerate(reversed(rows)):
        for estimates, colour, shift in ((row.bare, GREY, 0.18), (row.figures, BLUE, -0.18)):
            if "found" in estimates:
                found = estimates["found"]
                colour = ORANGE if colour == BLUE and row.role in ("erased", "asked otherwise") else colour
                axes.barh(height + shift, found.value, 0.34, color=colour)
                axes.errorbar(found.value, height + shift, xerr=_reach(found), color="#333", linewidth=0.8, capsize=2)
    axes.set_yticks(range(len(rows)), [row.name for row in reversed(rows)])
    axes.set_xlim(0, 1.02)
    axes.set_xlabel("found in (grey: bare model; orange: should be gone; blue: should stay)")
    return _svg(figure)


def trade(report: Report) -> str | None:
    """Draw efficacy against preservation, one point a part; None where they were not measured."""
    points = [(part.name, part.summary) for part in report.parts if {"UA", "IRA"} <= part.summary.keys()]
    if not points:
        return None
    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axes = figure.add_subplot()
    # points of good membranes lie on one another, so they are told apart by shape and colour, not by a text beside
    for number, (name, summary) in enumerate(points):
        gone, kept = summary["UA"], summary["IRA"]
        axes.errorbar(
            gone.value, kept.value, xerr=_reach(gone), yerr=_reach(kept), fmt=MARKERS[number % len(MARKERS)],
            capsize=2, label=name,
        )  # fmt: skip
    bare = report.parts[0].bare_summary
    if {"UA", "IRA"} <= bare.keys():
        axes.plot(bare["UA"].value, bare["IRA"].value, "s", color=GREY, label="bare model")
    axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=8)
    axes.set_xlim(-0.03, 1.03)
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel("UA: the target is gone from")
    axes.set_ylabel("IRA: what must stay is found in")
    return _svg(figure)


def ways(report: Report) -> str | None:
    """Draw UA, or what is exposed, IRA and CRA over the parts, in their order; None where none was measured."""
    drawn = [name for name in SUMMARY if any(name in part.summary for part in report.parts)]
    if not drawn:
        return None
    figure = Figure(figsize=(7.5, 3.2), layout="constrained")
    axes = figure.add_subplot()
    for number, name in enumerate(drawn):
        # a little aside, because figures of 1 lie on one another
        measured = [(place, part.summary[name]) for place, part in enumerate(report.parts) if name in part.summary]
        places = [place + 0.12 * (number - (len(drawn) - 1) / 2) for place, _ in measured]
        found = [one for _, one in measured]
        axes.errorbar(
            places,
            [one.value for one in found],
            yerr=_reach(*found),
            fmt="o-",
            color=SUMMARY[name],
            capsize=2,
            label=name,
        )
    axes.set_xticks(range(len(report.parts)), [part.name for part in report.parts], rotation=20, ha="right")
    axes.set_ylim(-0.03, 1.03)
    axes.set_ylabel("share of the pictures")
    axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=8)
    return _svg(figure)


def openings(part: Part) -> str | None:
    """Draw how far the membranes open, by what was asked for; None where nothing was asked of a membrane."""
    if not part.membranes:
        return None
    figure = Figure(figsize=(7.5, 2.6), layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / len(part.permeability)
    for number, (role, counts) in enumerate(part.permeability.items()):
        total = sum(counts) or 1
        places = [bin_ + number * width for bin_ in range(len(counts))]
        axes.bar(places, [count / total for count in counts], width, label=role, color=COLOURS[role])
    axes.set_xticks(
        [bin_ + 0.4 for bin_ in range(10)], [f"{bin_ / 10:.1f} to {(bin_ + 1) / 10:.1f}" for bin_ in range(10)]
    )
    axes.tick_params(axis="x", labelsize=7)
    axes.set_xlabel("permeability of the membrane that opens furthest")
    axes.set_ylabel("share of the pictures")
    axes.legend(fontsize=8)
    return _svg(figure)


def _reach(*found: Estimate) -> list[list[float]]:
    return [[one.value - one.low for one in found], [one.high - one.value for one in found]]


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    # letters stay letters, which is a third of the size, and the same figure is the same text
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "semiperm"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
