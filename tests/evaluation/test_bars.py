"""The terrarium's bars are read off a report of fidelity."""

import pytest

from semiperm.errors import ReportError
from semiperm.evaluation.bars import BARS, SECONDS, Measured, bars, table
from semiperm.evaluation.estimate import Estimate
from semiperm.evaluation.protocols.fidelity import MEMORISED, PLAIN, STYLE
from semiperm.evaluation.report import Arm, Proof, Report, Row


def row(name: str, group: str, figure: str, value: float, pictures: int) -> Row:
    found = {figure: Estimate(value=value, low=value, high=value, count=pictures)}
    return Row(name=name, group=group, expected="kept", pictures=pictures, opened=0, figures=found, bare=found)


def report_of(rows: list[Row], protocol: str = "fidelity") -> Report:
    arm = Arm(
        name="bare model", model="m", erasures={}, gate="", pictures=1, rows=rows, summary={},
        bare_summary={}, closed=0, proof=Proof(), permeability={},
    )  # fmt: skip
    return Report(
        protocol=protocol, protocol_version=1, shows="", world="terrarium", model="m", settings={}, judge={},
        versions={}, revision="", device="cpu", date="", seconds=1, pictures=1, arms=[arm],
    )  # fmt: skip


ROWS = [
    row("cat", PLAIN, "found", 0.75, 8),
    row("dog", PLAIN, "found", 1.0, 8),
    row("fox", PLAIN, "found", 0.5, 8),
    row("style, neon", STYLE, "found", 1.0, 100),
    row("The Great Tide", MEMORISED, "deviation", 0.02, 10),
    row("The Last Lantern", MEMORISED, "deviation", 0.05, 30),
]


def test_groups_are_pooled_over_their_pictures_and_the_worst_rows_are_named() -> None:
    plain, style, memorised = bars(report_of(ROWS))
    assert (plain.name, plain.value, plain.pictures, plain.worst) == (PLAIN, 0.75, 24, "fox 4, cat 2")
    assert not plain.reached
    assert (style.value, style.worst, style.reached) == (1.0, "", True)
    assert memorised.value == pytest.approx((0.02 * 10 + 0.05 * 30) / 40)
    assert memorised.worst == "The Last Lantern 0.050" and memorised.reached


def test_the_table_has_a_line_for_each_figure() -> None:
    found = [*bars(report_of(ROWS)), Measured(SECONDS, 0.7, 32, "batches of 8")]
    head, _, *lines = table(found).splitlines()
    assert head == "| figure | measured | bar | reached | pictures | most missed |"
    assert lines[0] == f"| {PLAIN} | 75.0% | >= 95% | no | 24 | fox 4, cat 2 |"
    assert lines[-1] == f"| {SECONDS} | 0.700 | <= 0.5 | no | 32 | batches of 8 |"
    assert {line.split(" | ")[0].removeprefix("| ") for line in lines} < BARS.keys()


def test_other_reports_have_no_bars() -> None:
    with pytest.raises(ReportError, match="this report is of 'objects'"):
        bars(report_of(ROWS, "objects"))
