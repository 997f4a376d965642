"""What was measured, in the columns of a published table, so that the two can be read one above the other."""

from collections.abc import Callable

from semiperm.evaluation.estimate import Estimate
from semiperm.evaluation.report import Arm, Report, Row
from semiperm.reports.published.table import published

Cells = tuple[str, ...]
Layout = Callable[[list[Arm]], tuple[Cells, list[Cells]] | None]

# more columns are no table that a person reads; the report has them all
TARGETS = 3
OTHERS = 6
KEPT = ("same kind", "other kinds")


def in_columns(report: Report) -> tuple[Cells, list[Cells]] | None:
    """Return the head and the rows of what a report measured, in the columns of the table that it names.

    CS, CER and FID have the papers' units. A column of distances that too few pictures allow none of is left out. None
    where the report names no table, nothing was erased, or no column is left.
    """
    if not report.published or not any(arm.erasures for arm in report.arms):
        return None
    layout = published(report.published).layout
    return LAYOUTS[layout](report.arms) if layout else None


def _of_group(arm: Arm, *groups: str) -> list[Row]:
    return [row for row in arm.rows if row.group in groups]


def _targets(arm: Arm) -> list[Row]:
    return _of_group(arm, "target")[:TARGETS]


def _others(arm: Arm) -> list[Row]:
    return _of_group(arm, *KEPT)[:OTHERS]


def _number(figures: dict[str, Estimate], name: str, scale: float = 1) -> str:
    return f"{scale * figures[name].value:.2f}" if name in figures else ""


def _gone(figures: dict[str, Estimate]) -> Cells:
    return _number(figures, "CS"), _number(figures, "CER", 100)


def _targets_and_others(arms: list[Arm]) -> tuple[Cells, list[Cells]]:
    """CS and CER of each target, FID of everything else; what an arm does not erase has no CER there."""
    all_targets = {row.name: row for arm in arms for row in _of_group(arm, "target")}
    targets = list(all_targets.values())[:TARGETS]
    # rows of few pictures have no FID
    far = {row.name for arm in arms for row in arm.rows if "FID" in row.figures} - all_targets.keys()
    others = [row.name for row in _of_group(arms[0], *KEPT) if row.name in far][:OTHERS]
    heads = [f"{name} {row.name}" if len(targets) > 1 else name for row in targets for name in ("CS", "CER")]
    lines = [("bare model", *(cell for row in targets for cell in _gone(row.bare)), *[""] * len(others))]
    for arm in arms:
        by_name = {row.name: row.figures for row in arm.rows}
        gone = [cell for row in targets for cell in _gone(by_name.get(row.name, {}))]
        lines.append((arm.name, *gone, *(_number(by_name.get(name, {}), "FID") for name in others)))
    return ("method", *heads, *(f"FID {name}" for name in others)), lines


def _parts(arms: list[Arm]) -> tuple[Cells, list[Cells]]:
    """Whether the anchors and the gate were on: arms "neither", "anchoring", "gate" and "both"."""
    lines = [
        (
            *("yes" if arm.name in (part, "both") else "no" for part in ("anchoring", "gate")),
            *_gone(_targets(arm)[0].figures),
        )
        for arm in arms
    ]
    head = ("anchoring", "transport", "CS", "CER")
    distances = [_number(_others(arm)[0].figures, "FID") for arm in arms]
    if not any(distances):
        return head, lines
    named = f"FID {_others(arms[0])[0].name}"
    return (*head, named), [(*line, cell) for line, cell in zip(lines, distances, strict=True)]


def _eta(arms: list[Arm]) -> tuple[Cells, list[Cells]]:
    return ("eta", "CS"), [(arm.name.removeprefix("eta "), _number(_targets(arm)[0].figures, "CS")) for arm in arms]


def _exposed(arms: list[Arm]) -> tuple[Cells, list[Cells]]:
    lines = []
    for arm in arms:
        rows = _of_group(arm, "target", "paraphrase")
        before = sum(row.bare["exposed"].value * row.pictures for row in rows)
        after = sum(row.figures["exposed"].value * row.pictures for row in rows)
        lines.append((arm.name, f"{100 * (after / before - 1):+.1f} %" if before else "none found before"))
    return ("method", "change"), lines


def _similarity(arms: list[Arm]) -> tuple[Cells, list[Cells]]:
    lines = []
    for arm in arms:
        kept = [row.figures["similarity"].value for row in _of_group(arm, "same kind")]
        keeps = f"{min(kept):.2f} to {max(kept):.2f}" if kept else ""
        whose = f", {arm.name}" if len(arms) > 1 else ""
        lines += [(row.name + whose, _number(row.figures, "similarity"), keeps) for row in _of_group(arm, "target")]
    return ("picture", "erased", "others keep"), lines


def _captions(arms: list[Arm]) -> tuple[Cells, list[Cells]] | None:
    lines = [(arm.name, _number(arm.rows[0].figures, "FID")) for arm in arms]
    if not any(cell for _, cell in lines):
        return None
    return ("method", "FIDg"), [("bare model", _number(arms[0].rows[0].bare, "FID")), *lines]


def _accuracies(arms: list[Arm]) -> tuple[Cells, list[Cells]]:
    names = ("UA", "IRA", "CRA")
    lines = [
        (", ".join(row.name for row in _of_group(arm, "target")), *(_number(arm.summary, n, 100) for n in names))
        for arm in arms
    ]
    return ("target", *names), lines


LAYOUTS: dict[str, Layout] = {
    "targets and others": _targets_and_others,
    "parts": _parts,
    "eta": _eta,
    "exposed": _exposed,
    "similarity": _similarity,
    "captions": _captions,
    "accuracies": _accuracies,
}
