"""Which rows of an arm missed what was expected of them, which changed, and which stayed the bare model's."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from semiperm.evaluation.estimate import Estimate
from semiperm.evaluation.report import Arm, Row
from semiperm.reports.intervals import difference, pooled_mean, pooled_share
from semiperm.reports.words import FIGURES, MEANS

State = Literal["not gone", "not kept", "changed", "gone", "same"]

TOLERANCE = 0.1
"""A target counts as gone up to this share of the pictures; what must stay may be found this much less often."""

UNTOUCHED = ("not asked", "same kind", "other kinds")
"""The groups of rows that do not ask for a target at all, so that nothing should open or change."""

GONE = ("exposed", "copies", "found")
KEPT = ("found", "exposed", "copies")


@dataclass(frozen=True)
class Outcome:
    """What became of a row.

    Attributes:
        state: "not gone" and "not kept" missed the expectation; "same" means all pictures are the bare model's.
        weight: rows of the same state are shown by it, the heaviest first.
    """

    row: Row
    state: State
    weight: float

    @property
    def missed(self) -> bool:
        """Whether the row is not what the protocol expects."""
        return self.state in ("not gone", "not kept")


def acts(arm: Arm) -> bool:
    """Return whether an arm was measured beside the bare model: with erasures, or as a folder of other pictures."""
    return bool(arm.erasures) or any(row.figures != row.bare for row in arm.rows)


def outcomes(arm: Arm) -> list[Outcome]:
    """Return what became of each row of an arm, outliers first: missed, then changed, then gone, then the same."""
    order: list[State] = ["not gone", "not kept", "changed", "gone", "same"]
    return sorted((_outcome(row) for row in arm.rows), key=lambda one: (order.index(one.state), -one.weight))


def headline(row: Row) -> str:
    """Return the name of the figure that decides about a row; empty where none does."""
    return next((name for name in (GONE if row.expected == "gone" else KEPT) if name in row.figures), "")


def untouched(arm: Arm) -> list[Row]:
    """Return the rows of an arm in whose pictures nothing should change."""
    return [row for row in arm.rows if row.expected == "kept" and row.group in UNTOUCHED]


def classes(rows: Sequence[Row]) -> list[str]:
    """Return the names of the figures that are the classes of a detector."""
    found = dict.fromkeys(name for row in rows if "exposed" in row.figures for name in row.figures)
    return [name for name in found if name not in FIGURES]


def pooled(rows: Sequence[Row], name: str, *, bare: bool = False) -> Estimate | None:
    """Return a figure of rows over all of their pictures; None where no row has it, or where it cannot be pooled."""
    found = [figures[name] for row in rows if name in (figures := row.bare if bare else row.figures)]
    if name in (*MEANS, "CS", "similarity"):
        return pooled_mean(found)
    if name in ("FID", "KID"):
        # distances between sets: that of one row is no distance of the others
        return found[0] if len(found) == sum(row.pictures > 0 for row in rows) == 1 else None
    return pooled_share(found)


def _outcome(row: Row) -> Outcome:
    name = headline(row)
    now, before = row.figures.get(name), row.bare.get(name)
    if row.expected == "gone" and now and now.value > TOLERANCE:
        return Outcome(row, "not gone", now.value)
    if row.expected == "kept" and now and before and (loss := _loss(name, before, now)):
        return Outcome(row, "not kept", loss)
    if _is_same(row):
        return Outcome(row, "same", 0)
    if row.expected == "gone":
        return Outcome(row, "gone", now.value if now else 0)
    moved = abs(now.value - before.value) if now and before else 0
    changed = 1 - row.figures["unchanged"].value if "unchanged" in row.figures else 0
    error, opens = (row.figures[name].value if name in row.figures else 0 for name in ("error", "opens"))
    return Outcome(row, "changed", 100 * moved + changed + error + opens)


def _loss(name: str, before: Estimate, now: Estimate) -> float:
    """Return how much worse a row that must stay has become, or 0 where it is within the tolerance and by chance."""
    apart = difference(before, now) if name == "found" else difference(now, before)
    return -apart.value if apart.value < -TOLERANCE or apart.high < 0 else 0


def _is_same(row: Row) -> bool:
    if "unchanged" in row.figures:
        return row.figures["unchanged"].value == 1
    return row.opened == 0 and all(row.figures.get(name) == figure for name, figure in row.bare.items())
