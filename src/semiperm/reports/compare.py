"""What differs between two reports, with its uncertainty: as data, as a page, and as lines for a terminal."""

from collections.abc import Sequence
from dataclasses import dataclass

from semiperm.errors import ReportError
from semiperm.evaluation.estimate import Estimate
from semiperm.evaluation.report import Arm, Report
from semiperm.reports import plots
from semiperm.reports.blocks import Block, Cell, Facts, Folded, Section, Table, Text, Tile, Tiles, Verdict, document
from semiperm.reports.intervals import difference
from semiperm.reports.tiles import tile
from semiperm.reports.verdict import Finding
from semiperm.reports.words import FIGURES, capital, change, count, full, heading, joined, value

HEAD = ("arm", "row", "figure", "first", "second", "change")
# what must agree before figures may be compared
SAME = ("protocol", "protocol_version", "world")
NAMED = 3
# longer tables are folded
ROWS = 12
DECIDING = ("found", "exposed", "copies", "became")


@dataclass(frozen=True)
class Difference:
    """One figure of two reports.

    Attributes:
        arm, row, figure: where it belongs; the row is empty for figures of a whole arm.
        first, second: the two figures.
        change: second minus first, with an interval.
    """

    arm: str
    row: str
    figure: str
    first: Estimate
    second: Estimate
    change: Estimate

    @property
    def certain(self) -> bool:
        """Whether the interval of the change leaves 0 out."""
        return self.change.low > 0 or self.change.high < 0

    @property
    def cells(self) -> tuple[str, ...]:
        """The difference as texts, in the columns of `HEAD`."""
        return (
            self.arm,
            self.row or "all rows",
            heading(self.figure),
            full(self.figure, self.first),
            full(self.figure, self.second),
            change(self.figure, self.change),
        )


def compare(first: Report, second: Report) -> list[Difference]:
    """Return the differences of all figures that two reports share, arm by arm in their order.

    Arms are matched by their names; two reports with one arm each are compared whatever these are called.

    Raises:
        ReportError: the reports are of different protocols, versions or worlds, or share nothing.
    """
    for name in SAME:
        one, other = getattr(first, name), getattr(second, name)
        if one != other:
            raise ReportError(
                f"The reports differ in their {name.replace('_', ' ')}: {one} and {other}. Compare reports of the same "
                "protocol, version and world."
            )
    found: list[Difference] = []
    for one, other in _pairs(first, second):
        found += _shared(one.name, "", one.summary, other.summary)
        rows = {row.name: row for row in other.rows}
        for row in one.rows:
            if row.name in rows:
                found += _shared(one.name, row.name, row.figures, rows[row.name].figures)
    if not found:
        raise ReportError("The reports have no figure in common: compare runs of the same arms and rows.")
    return found


def summed_up(differences: Sequence[Difference]) -> str:
    """Return in one sentence how many figures differ beyond chance, and the largest of these changes."""
    certain = ordered(differences)
    of = count(len(differences), "figure")
    if not certain:
        return f"None of {of} differs beyond chance."
    named = [f"{_where(one)} {change(one.figure, one.change)}" for one in certain[:NAMED]]
    verb = "differs" if len(certain) == 1 else "differ"
    most = "" if len(certain) <= NAMED else ", most of all"
    return f"{len(certain):,} of {of} {verb} beyond chance{most}: {joined(named)}."


def ordered(differences: Sequence[Difference]) -> list[Difference]:
    """Return the differences beyond chance: figures of whole arms first, then what was found, then the clearest."""
    certain = [one for one in differences if one.certain]
    return sorted(certain, key=lambda one: (bool(one.row), one.figure not in DECIDING, -_clarity(one)))


def page(first: Report, second: Report, names: tuple[str, str] = ("first", "second")) -> str:
    """Return the comparison as a page of the same form as a report's.

    Args:
        names: what the reports are called, their files for example.

    Raises:
        ReportError: the reports cannot be compared.
    """
    found = compare(first, second)
    certain = ordered(found)
    blocks: list[Block] = [Verdict([Finding("", summed_up(found), _chance(found))])]
    if tiles := _tiles(found):
        blocks.append(Section("Summary", [Tiles(tiles, wide=True)]))
    blocks += _changed([one for one in certain if one.row])
    rest: list[Block] = []
    unclear = [one for one in found if one.row and not one.certain and one.first != one.second]
    if unclear:
        rest.append(Folded(f"{count(len(unclear), 'figure')} of rows within chance", [_list(unclear)]))
    if same := [one for one in found if one.row and one.first == one.second]:
        rest.append(Folded(f"{count(len(same), 'figure')} of rows exactly the same", [_list(same)], paper=False))
    if alone := _alone(first, second):
        rest.append(Folded("Only in one of the reports", [Text(line) for line in alone]))
    rest.append(Folded("How both were measured", [Facts(_facts(first, second, names))]))
    blocks.append(Section("Everything else", rest))
    return document(f"{first.protocol}: two reports compared", blocks, lead=f"First {names[0]}, then {names[1]}")


def _chance(differences: Sequence[Difference]) -> tuple[str, ...]:
    """Return how many changes an even comparison would show, so that nobody makes much of a few."""
    number = sum(one.first != one.second for one in differences)
    if not number:
        return ()
    expected = max(1, round(number / 20))
    return (f"Of {count(number, 'figure')} that are not the same, about {expected:,} would seem to differ by chance.",)


def _pairs(first: Report, second: Report) -> list[tuple[Arm, Arm]]:
    others = {arm.name: arm for arm in second.arms}
    named = [(arm, others[arm.name]) for arm in first.arms if arm.name in others]
    if not named and len(first.arms) == len(second.arms) == 1:
        return [(first.arms[0], second.arms[0])]
    return named


def _shared(arm: str, row: str, first: dict[str, Estimate], second: dict[str, Estimate]) -> list[Difference]:
    return [
        Difference(arm, row, name, value, second[name], difference(value, second[name]))
        for name, value in first.items()
        if name in second
    ]


def _clarity(one: Difference) -> float:
    reach = (one.change.high - one.change.low) / 2
    return abs(one.change.value) / reach if reach else float("inf")


def _where(one: Difference) -> str:
    return f"{one.row}: {heading(one.figure)}" if one.row else heading(one.figure)


def _tiles(differences: Sequence[Difference]) -> list[Tile]:
    """Return the figures of whole arms, the first report's above the second's."""
    tiles = []
    several = len({one.arm for one in differences}) > 1
    for name in dict.fromkeys(one.figure for one in differences if not one.row):
        own = [one for one in differences if not one.row and one.figure == name]
        lines = [
            plots.Line(f"{one.arm}, {which}" if several else which, estimate, tone)
            for one in own
            for which, estimate, tone in (("first", one.first, "bare"), ("second", one.second, "kept"))
        ]
        note = "" if several else f"Change: {change(name, own[0].change)}"
        tiles.append(tile(name, capital(heading(name)), lines, same="The same in both reports.", note=note))
    return tiles


def _changed(certain: Sequence[Difference]) -> list[Block]:
    """Return the rows that changed beyond chance, a line each."""
    if not certain:
        return []
    several = len({one.arm for one in certain}) > 1
    names = sorted({one.figure for one in certain}, key=lambda name: ([*FIGURES, name].index(name), name))
    lines: list[list[str | Cell]] = []
    for arm, row in dict.fromkeys((one.arm, one.row) for one in certain):
        own = {one.figure: one for one in certain if (one.arm, one.row) == (arm, row)}
        lines.append([Cell(row, arm if several else ""), *(_moved(own[name]) if name in own else "" for name in names)])
    head = ["row", *map(heading, names)]
    blocks: list[Block] = [Table(head, lines[:ROWS], "The second report's figure, the change, and the first's.")]
    if lines[ROWS:]:
        blocks.append(Folded(count(len(lines) - ROWS, "more row"), [Table(head, lines[ROWS:])]))
    return [Section("What changed", blocks)]


def _moved(one: Difference) -> Cell:
    return Cell(value(one.figure, one.second), change(one.figure, one.change), f"was {value(one.figure, one.first)}")


def _list(differences: Sequence[Difference]) -> Table:
    return Table(HEAD[1:], [one.cells[1:] for one in differences])


def _alone(first: Report, second: Report) -> list[str]:
    """Return which arms and rows have no partner in the other report."""
    pairs = _pairs(first, second)
    told = []
    for which, report, used in (
        ("first", first, {one.name for one, _ in pairs}),
        ("second", second, {other.name for _, other in pairs}),
    ):
        arms = [arm.name for arm in report.arms if arm.name not in used]
        if arms:
            told.append(f"Only the {which} report has the arms {joined(arms)}.")
    for one, other in pairs:
        for which, rows, beside in (("first", one.rows, other.rows), ("second", other.rows, one.rows)):
            names = {row.name for row in beside}
            alone = [row.name for row in rows if row.name not in names]
            if alone:
                told.append(f"Only the {which} report has the rows {joined(alone)} of {one.name}.")
    return told


def _facts(first: Report, second: Report, names: tuple[str, str]) -> list[tuple[str, str]]:
    return [
        (f"{which} ({name})", f"{report.model}, {count(report.pictures, 'picture')}, revision "
         f"{report.revision or 'unknown'}, {report.device}, {report.date}")
        for which, name, report in (("first", names[0], first), ("second", names[1], second))
    ] + [("intervals of the changes", "95 %, as if the two runs were independent")]  # fmt: skip
