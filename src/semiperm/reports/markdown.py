"""A report in Markdown, for documentation."""

from collections.abc import Sequence

from semiperm.evaluation.estimate import Estimate
from semiperm.evaluation.report import Arm, Report, Row
from semiperm.reports.outcomes import acts, outcomes, pooled, untouched
from semiperm.reports.published import in_columns, published
from semiperm.reports.render import render
from semiperm.reports.verdict import verdict
from semiperm.reports.words import GROUPS, count, expectation, full, heading, size, value


def markdown(report: Report) -> str:
    """Return what a report measured: verdict, summary, the rows of a single arm, and published figures apart.

    The rows of several arms would be pages; the report's own page has them.
    """
    return render(
        "report.md.j2",
        findings=[verdict(report, arm) for arm in report.arms],
        summary=_summary(report),
        rows=rows(report.arms[0]) if len(report.arms) == 1 else "",
        measured=in_columns(report),
        published=published(report.published) if report.published else None,
    ).strip()


def rows(arm: Arm) -> str:
    """Return the rows of an arm that changed as a table, and those that did not in one line."""
    found = outcomes(arm)
    beside = acts(arm)
    moved = [one for one in found if one.state != "same" or not beside]
    same = [one.row for one in found if one.state == "same" and beside]
    names = list(dict.fromkeys(name for one in moved for name in one.row.figures))
    lines = []
    for one in moved:
        cells = []
        for name in names:
            now, before = one.row.figures.get(name), one.row.bare.get(name)
            cell = value(name, now) if now else ""
            if now and before and before != now:
                cell += f" (bare {value(name, before)})"
            cells.append(cell)
        row = one.row
        lines.append([row.name, expectation(row), size(row), f"{row.opened:.2f}", *cells])
    return render(
        "rows.md.j2",
        head=["row", "expectation", "size", "permeability", *map(heading, names)],
        lines=lines,
        same=_grouped(same),
        told=f"{count(len(same), 'row')} with {count(sum(row.pictures for row in same), 'picture')}",
    ).strip()


def _grouped(same: Sequence[Row]) -> list[tuple[str, list[str]]]:
    groups = dict.fromkeys(row.group for row in same)
    return [(GROUPS.get(group, group), [row.name for row in same if row.group == group]) for group in groups]


def _summary(report: Report) -> tuple[list[str], list[list[str]]] | None:
    names = list(dict.fromkeys(name for arm in report.arms for name in arm.summary))
    if not names:
        return None
    lines: list[list[str]] = []
    many = len({arm.model for arm in report.arms}) > 1
    models: set[str] = set()
    for arm in report.arms:
        if arm.erasures and arm.model not in models:
            title = f"bare {arm.model}" if many else "bare model"
            lines.append([title, *(_full(name, arm.bare_summary) for name in names), "", ""])
        models.add(arm.model)
        lines.append([arm.name, *(_full(name, arm.summary) for name in names), *_altered(arm)])
    return ["measured", *map(heading, names), "pictures unchanged", "pixel error"], lines


def _altered(arm: Arm) -> tuple[str, str]:
    """Return how many of the pictures that should not change did not, and the mean error of them all."""
    kept = untouched(arm)
    same, error = pooled(kept, "unchanged"), pooled(kept, "error")
    if not same or not error:
        return "", ""
    return f"{value('unchanged', same)} of {same.count:,}", value("error", error)


def _full(name: str, figures: dict[str, Estimate]) -> str:
    return full(name, figures[name]) if name in figures else ""
