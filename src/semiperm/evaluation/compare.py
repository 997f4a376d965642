"""What differs between two reports, with its uncertainty."""

from dataclasses import dataclass

from semiperm.evaluation.estimate import Estimate
from semiperm.evaluation.report import Report, ReportError


@dataclass(frozen=True)
class Difference:
    """One figure of two reports.

    Attributes:
        part, row, figure: where it stands; the row is empty for figures of a whole part.
        first, second: the two figures.
        change: second minus first, with an interval.
    """

    part: str
    row: str
    figure: str
    first: Estimate
    second: Estimate
    change: Estimate

    @property
    def certain(self) -> bool:
        """Whether the interval of the change leaves 0 out."""
        return self.change.low > 0 or self.change.high < 0


def difference(first: Estimate, second: Estimate) -> Estimate:
    """Return second minus first; the distances to the intervals' ends add up as independent errors do.

    The method of variance estimates recovery for two independent figures (Newcombe, Statistics in Medicine 17, 1998).
    """
    value = second.value - first.value
    down = ((second.value - second.low) ** 2 + (first.high - first.value) ** 2) ** 0.5
    up = ((second.high - second.value) ** 2 + (first.value - first.low) ** 2) ** 0.5
    return Estimate(value=value, low=value - down, high=value + up, count=min(first.count, second.count))


def compare(first: Report, second: Report) -> list[Difference]:
    """Return the differences of all figures that two reports share, part by part in their order.

    Raises:
        ReportError: the reports are of different protocols, versions or forms, or share nothing.
    """
    for name in ("protocol", "protocol_version", "form"):
        one, other = getattr(first, name), getattr(second, name)
        if one != other:
            raise ReportError(f"the reports differ in their {name.replace('_', ' ')}: {one} and {other}")
    found = []
    for one, other in zip(first.parts, second.parts, strict=False):
        rows = {row.name: row for row in other.rows}
        found += _shared(one.name, "", one.summary, other.summary)
        for row in one.rows:
            if row.name in rows:
                found += _shared(one.name, row.name, row.figures, rows[row.name].figures)
    if not found:
        raise ReportError("the reports have no figure in common")
    return found


def _shared(part: str, row: str, first: dict[str, Estimate], second: dict[str, Estimate]) -> list[Difference]:
    return [
        Difference(part, row, name, value, second[name], difference(value, second[name]))
        for name, value in first.items()
        if name in second
    ]
