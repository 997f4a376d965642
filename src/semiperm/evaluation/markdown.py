"""A report's tables as Markdown, for documentation."""

from collections.abc import Iterable, Sequence

from semiperm.evaluation.as_reported import in_columns
from semiperm.evaluation.figures import NO_SHARES
from semiperm.evaluation.report import Part, Report
from semiperm.evaluation.reported import REPORTED

ROLES = ("erased", "asked otherwise", "not asked", "kept", "other domain")


def markdown(report: Report) -> str:
    """Return what a report measured: a line a part, or for a single part a line a subject too; reported figures apart.

    The subjects of several parts would be pages; they stand in report.html.
    """
    blocks = [_summary(report)]
    if len(report.parts) == 1:
        blocks.append(subjects(report.parts[0]))
    if measured := in_columns(report):
        blocks.append(f"*Measured* here, in the published table's columns\n\n{_table(*measured)}")
    if report.reported in REPORTED:
        beside = REPORTED[report.reported]
        told = _table(beside.columns, beside.rows)
        blocks.append(f"*Reported* ({beside.source}), not measured here: {beside.title}\n\n{told}")
    return "\n\n".join(block for block in blocks if block)


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rule = "|" + "---|" * len(head)
    return "\n".join([_line(head), rule, *(_line(line) for line in lines)])


def _summary(report: Report) -> str:
    names = list(dict.fromkeys(name for part in report.parts for name in part.summary))
    if not names:
        return ""
    lines: list[Sequence[str]] = []
    many = len({part.model for part in report.parts}) > 1
    models: set[str] = set()
    for part in report.parts:
        if part.membranes and part.model not in models:
            title = f"bare {part.model}" if many else "bare model"
            lines.append([title, *(_told(name, part.bare_summary, name) for name in names), "", ""])
        models.add(part.model)
        lines.append([part.name, *(_told(name, part.summary, name) for name in names), *_altered(part)])
    return _table(["measured", *names, "pictures unchanged", "error"], lines)


def _altered(part: Part) -> tuple[str, str]:
    """Return how many of the pictures that should not change did not, and the mean error of them all."""
    kept = [row for row in part.rows if row.role not in ("erased", "asked otherwise") and "unchanged" in row.figures]
    count = sum(row.pictures for row in kept)
    if not count:
        return "", ""
    same, error = (
        sum(row.figures[name].value * row.pictures for row in kept) / count for name in ("unchanged", "error")
    )
    return f"{same:.0%} of {count}", f"{error:.1%}"


def _told(name: str, figures: dict, key: str) -> str:
    return f"{figures[key].value:.1%} ({figures[key].low:.1%} to {figures[key].high:.1%})" if key in figures else ""


def subjects(part: Part) -> str:
    """Return a part's table: a line a subject, and what the bare model had in brackets."""
    names = list(dict.fromkeys(name for row in part.rows for name in row.figures))
    lines: list[Sequence[str]] = []
    for row in sorted(part.rows, key=lambda row: ROLES.index(row.role)):
        cells = []
        for name in names:
            now, before = row.figures.get(name), row.bare.get(name)
            cell = _short(name, now.value) if now else ""
            if now and before and part.membranes:
                cell += f" (bare {_short(name, before.value)})"
            cells.append(cell)
        lines.append([row.name, row.role, str(row.pictures), f"{row.opened:.2f}", *cells])
    return _table(["subject", "should be", "pictures", "opened", *names], lines)


def _short(name: str, value: float) -> str:
    return f"{value:.2f}" if name in NO_SHARES else f"{value:.0%}" if name != "error" else f"{value:.1%}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
