"""The three to six figures that sum up an arm."""

from dataclasses import dataclass

from semiperm.evaluation.estimate import Estimate
from semiperm.evaluation.report import Arm, Row
from semiperm.reports import outcomes
from semiperm.reports.intervals import complement
from semiperm.reports.words import GROUPS

FEWEST, MOST = 3, 6
# figures of a row that say something of it even where nothing was erased
OTHERWISE = ("CS", "FID", "KID", "similarity", "deviation", "error")


@dataclass(frozen=True)
class Figure:
    """One figure of an arm beside the bare model's.

    Attributes:
        name: the figure's name, which decides how it is written.
        title: what it is, in words.
        wanted: "low", "high", or empty where neither is better in itself.
        now, bare: the arm's figure and the bare model's, None where the bare model can have none.
        rows, bare_rows: the figures of the single rows that it is made of.
    """

    name: str
    title: str
    wanted: str
    now: Estimate
    bare: Estimate | None
    rows: tuple[float, ...] = ()
    bare_rows: tuple[float, ...] = ()


def summary(arm: Arm) -> list[Figure]:
    """Return the figures that sum up an arm, the most telling first; fewer than three only where there are no more."""
    gone = [row for row in arm.rows if row.expected == "gone"]
    kept = [row for row in arm.rows if row.expected == "kept"]
    alone = outcomes.untouched(arm)
    found = [
        _of_summary(arm, "exposed", "Exposed, where prompts lead to it", "low", gone),
        _of_rows("copies", "Target copied", "low", gone),
        _target_found(arm, gone),
        _of_rows("became", "Surrogate found in its place", "high", gone),
        _of_summary(arm, "IRA", "Same kind found", "high", [row for row in kept if row.group == "same kind"]),
        _of_summary(arm, "CRA", "Other kinds found", "high", [row for row in kept if row.group == "other kinds"]),
        *(
            _of_rows("found", f"Found: {group}", "high", [row for row in kept if row.group == group])
            for group in dict.fromkeys(row.group for row in kept if row.group not in GROUPS)
        ),
        _of_rows("opens", "Prompts that open, though they ask for something else", "low", alone),
        _of_rows("unchanged", "Unchanged, where nothing should change", "high", alone),
        _of_summary(arm, "H", "Harmonic mean of gone and kept (H)", "high", []) if outcomes.acts(arm) else None,
    ]
    figures = [figure for figure in found if figure]
    if len(figures) < FEWEST:
        # where no classifier can tell, the distances and similarities of all rows have to do
        rows = {"error": alone}
        figures += [
            figure for name in OTHERWISE if (figure := _of_rows(name, _plain(name), "", rows.get(name, arm.rows)))
        ]
    return figures[:MOST]


def classes(arm: Arm) -> list[Figure]:
    """Return what a detector counts, class by class, over the rows whose target should be gone."""
    gone = [row for row in arm.rows if row.expected == "gone"]
    return [figure for name in outcomes.classes(gone) if (figure := _of_rows(name, name, "low", gone))]


def _plain(name: str) -> str:
    return {
        "CS": "CLIP score: how well pictures match their prompts",
        "FID": "FID: distance to the reference pictures",
        "KID": "KID: distance to the reference pictures",
        "similarity": "Similarity to the original",
        "deviation": "Mean deviation from the original",
        "error": "Mean pixel error, where nothing should change",
    }[name]


def _target_found(arm: Arm, gone: list[Row]) -> Figure | None:
    if "UA" not in arm.summary:
        return None
    bare = arm.bare_summary.get("UA")
    return Figure(
        "found",
        "Target found",
        "low",
        complement(arm.summary["UA"]),
        complement(bare) if bare else None,
        *_dots("found", gone),
    )


def _of_summary(arm: Arm, name: str, title: str, wanted: str, rows: list[Row]) -> Figure | None:
    if name not in arm.summary:
        return None
    dots = _dots("exposed" if name == "exposed" else "found", rows)
    return Figure(name, title, wanted, arm.summary[name], arm.bare_summary.get(name), *dots)


def _of_rows(name: str, title: str, wanted: str, rows: list[Row]) -> Figure | None:
    now = outcomes.pooled(rows, name)
    if now is None:
        return None
    return Figure(name, title, wanted, now, outcomes.pooled(rows, name, bare=True), *_dots(name, rows))


def _dots(name: str, rows: list[Row]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return (
        tuple(row.figures[name].value for row in rows if name in row.figures),
        tuple(row.bare[name].value for row in rows if name in row.bare),
    )
