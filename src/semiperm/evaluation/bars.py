"""The bars that the terrarium must reach, beside what the protocol `fidelity` measured."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from semiperm.errors import ReportError
from semiperm.evaluation.protocols.fidelity import MEMORISED, PLAIN, STYLE, STYLED, SYNONYM, TWO
from semiperm.evaluation.report import Report, Row
from semiperm.models.model import DiffusionModel
from semiperm.pictures import BATCH, generate

SECONDS = f"seconds a picture, batch of {BATCH}"
BARS = {PLAIN: 0.95, STYLED: 0.90, STYLE: 0.97, TWO: 0.60, SYNONYM: 0.90, MEMORISED: 0.05, SECONDS: 0.5}
LOWER_IS_BETTER = (MEMORISED, SECONDS)
WORST = 4


@dataclass(frozen=True)
class Measured:
    """A measured figure beside its bar.

    Attributes:
        value: a share, a mean absolute error or seconds.
        pictures: number of pictures that it rests on.
        worst: the rows that fell short most.
    """

    name: str
    value: float
    pictures: int
    worst: str = ""

    @property
    def bar(self) -> float:
        return BARS[self.name]

    @property
    def reached(self) -> bool:
        return self.value <= self.bar if self.name in LOWER_IS_BETTER else self.value >= self.bar


def bars(report: Report) -> list[Measured]:
    """Return the figures of a report of `fidelity` beside their bars.

    Raises:
        ReportError: the report is of another protocol.
    """
    if report.protocol != "fidelity":
        raise ReportError(f"the bars are those of the protocol 'fidelity', and this report is of {report.protocol!r}")
    groups: dict[str, list[Row]] = {}
    for row in report.arms[0].rows:
        groups.setdefault(row.group, []).append(row)
    return [_error(rows) if name == MEMORISED else _share(name, rows) for name, rows in groups.items()]


def speed(model: DiffusionModel, batches: int = 4) -> Measured:
    """Measure the seconds that one picture of a batch takes; a first batch warms up and does not count."""
    seeds = range(BATCH)
    generate(model.pipeline, ["a cat"] * BATCH, seeds)
    began = time.perf_counter()
    for _ in range(batches):
        generate(model.pipeline, ["a cat"] * BATCH, seeds)
    count = batches * BATCH
    return Measured(SECONDS, (time.perf_counter() - began) / count, count, f"batches of {BATCH}")


def table(found: Sequence[Measured]) -> str:
    """Return figures and bars as a Markdown table."""
    lines = ["| figure | measured | bar | reached | pictures | most missed |", "|---|---|---|---|---|---|"]
    for one in found:
        lower = one.name in LOWER_IS_BETTER
        shown = f"{one.value:.3f}" if lower else f"{one.value:.1%}"
        wanted = f"<= {one.bar}" if lower else f">= {one.bar:.0%}"
        reached = "yes" if one.reached else "no"
        lines.append(f"| {one.name} | {shown} | {wanted} | {reached} | {one.pictures} | {one.worst} |")
    return "\n".join(lines)


def _share(name: str, rows: Sequence[Row]) -> Measured:
    pictures = sum(row.pictures for row in rows)
    missed = {row.name: round((1 - row.figures["found"].value) * row.pictures) for row in rows}
    worst = sorted((row for row in missed if missed[row]), key=lambda row: -missed[row])[:WORST]
    value = 1 - sum(missed.values()) / pictures
    return Measured(name, value, pictures, ", ".join(f"{row} {missed[row]}" for row in worst))


def _error(rows: Sequence[Row]) -> Measured:
    errors = {row.name: row.figures["deviation"].value for row in rows}
    value = float(np.average(list(errors.values()), weights=[row.pictures for row in rows]))
    worst = max(errors, key=lambda row: errors[row])
    return Measured(MEMORISED, value, sum(row.pictures for row in rows), f"{worst} {errors[worst]:.3f}")
