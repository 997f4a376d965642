"""The rows of an arm as blocks of a page: what changed, outliers first, and everything else in one line."""

from collections.abc import Sequence

from semiperm.evaluation.report import Arm, Row
from semiperm.reports import plots
from semiperm.reports.blocks import Block, Cell, Folded, Table, Text
from semiperm.reports.outcomes import Outcome, acts, classes, headline, outcomes
from semiperm.reports.words import GROUPS, capital, count, expectation, full, heading, interval, joined, size, value

# longer tables are folded
ROWS = 12
# figures that only say that nothing changed, where nothing did
TRIVIAL = ("unchanged", "error", "FID", "KID")


def changes(arm: Arm) -> list[Block]:
    """Return the rows of an arm that changed, outliers first, and all others in one line that opens.

    The rows of a bare model cannot have changed: all of them are shown, those where the least was found first.
    """
    if not acts(arm):
        names = _names(arm.rows)
        lines = [_plain(row, names) for row in _by_headline(arm.rows)]
        return [*_in_part(lines, _head(arm.rows, beside=False, gated=False)), *_classes(arm.rows)]
    found = outcomes(arm)
    moved = [one for one in found if one.state != "same"]
    same = [one.row for one in found if one.state == "same"]
    gated = any(row.opened for row in arm.rows)
    rows = [one.row for one in moved]
    names = _names(rows)
    lines = [_moved(one, names, svg, gated) for one, svg in zip(moved, _drawn(rows), strict=True)]
    blocks = _in_part(lines, _head(rows, beside=True, gated=gated))
    return [*blocks, *_classes(rows), *_same(same, alone=not moved), *_opened(arm)]


def tally(arm: Arm) -> str:
    """Return how many rows of an arm had which outcome."""
    found = outcomes(arm)
    numbers = {
        "not as expected": sum(one.missed for one in found),
        "gone as expected": sum(one.state == "gone" for one in found),
        "changed": sum(one.state == "changed" for one in found),
        "unchanged": sum(one.state == "same" for one in found),
    }
    return (
        f"of {count(len(found), 'row')}, {joined([f'{number} {what}' for what, number in numbers.items() if number])}"
    )


def _in_part(lines: list[list[str | Cell]], head: list[str]) -> list[Block]:
    if not lines:
        return []
    blocks: list[Block] = [Table(head, lines[:ROWS])]
    if lines[ROWS:]:
        blocks.append(Folded(count(len(lines) - ROWS, "more row"), [Table(head, lines[ROWS:])]))
    return blocks


def _names(rows: Sequence[Row]) -> list[str]:
    """Return the figures that have a column; a detector's classes have a table of their own."""
    apart = classes(rows)
    return [name for name in dict.fromkeys(name for row in rows for name in row.figures) if name not in apart]


def _head(rows: Sequence[Row], *, beside: bool, gated: bool) -> list[str]:
    return [
        "row",
        *(["outcome"] if beside else []),
        *(["permeability"] if gated else []),
        *(heading(name) for name in _names(rows)),
    ]


def _first(row: Row) -> Cell:
    return Cell(row.name, expectation(row), size(row))


def _moved(one: Outcome, names: Sequence[str], svg: str, gated: bool) -> list[str | Cell]:
    row, decides = one.row, headline(one.row)
    cells: list[str | Cell] = [_first(row), Cell(capital(one.state), tone="bad" if one.missed else "")]
    if gated:
        cells.append(f"{row.opened:.2f}")
    for name in names:
        now, before = row.figures.get(name), row.bare.get(name)
        if now is None:
            cells.append("")
            continue
        reach = interval(name, now)
        bare = f"bare {value(name, before)}" if before and before != now else ""
        cells.append(Cell(value(name, now), f"({reach})" if reach else "", bare, svg if name == decides else ""))
    return cells


def _drawn(rows: Sequence[Row]) -> list[str]:
    """Return a drawing of each row's deciding figure beside the bare model's, all on one axis; empty where alike."""
    pairs: list[list[plots.Line]] = []
    for row in rows:
        now, before = row.figures.get(headline(row)), row.bare.get(headline(row))
        tone = "gone" if row.expected == "gone" else "kept"
        if now and before and now != before:
            pairs.append([plots.Line("bare", before, "bare"), plots.Line("erased", now, tone)])
        else:
            pairs.append([])
    if not any(pairs):
        return [""] * len(rows)
    ends = plots.span("found", [line for pair in pairs for line in pair])
    texts = [", ".join(f"{one.label} {full('found', one.estimate)}" for one in pair) for pair in pairs]
    return [plots.strip(pair, ends, text) if pair else "" for pair, text in zip(pairs, texts, strict=True)]


def _classes(rows: Sequence[Row]) -> list[Block]:
    names = classes(rows)
    lines = [
        [
            row.name,
            *(
                Cell(
                    full(name, row.figures[name]) if name in row.figures else "",
                    f"bare {value(name, row.bare[name])}" if name in row.bare else "",
                )
                for name in names
            ),
        ]
        for row in rows
        if any(name in row.figures for name in names)
    ]
    return [Folded("Row by row and class by class", [Table(["row", *names], lines)])] if lines else []


def _same(rows: Sequence[Row], *, alone: bool) -> list[Block]:
    if not rows:
        return []
    pictures = count(sum(row.pictures for row in rows), "picture")
    title = f"{count(len(rows), 'row')} with {pictures} stayed the bare model's, bit for bit"
    blocks: list[Block] = []
    for group in dict.fromkeys(row.group for row in rows):
        names = ", ".join(row.name for row in rows if row.group == group)
        blocks.append(Text(f"{capital(GROUPS.get(group, group))}: {names}."))
    names = [name for name in _names(rows) if name not in TRIVIAL]
    lines = [
        [_first(row), *(full(name, row.figures[name]) if name in row.figures else "" for name in names)] for row in rows
    ]
    if names:
        blocks.append(Folded("Their figures", [Table(["row", *map(heading, names)], lines)], paper=False))
    return [Folded(f"Nothing changed: {title}" if alone else capital(title), blocks)]


def _opened(arm: Arm) -> list[Block]:
    """Return how many pictures of each group open the erasures how far."""
    if not arm.gate or not arm.permeability:
        return []
    lines = []
    for group, counts in sorted(arm.permeability.items(), key=lambda item: [*GROUPS, item[0]].index(item[0])):
        between = sum(counts[1:-1])
        lines.append([GROUPS.get(group, group), *(f"{number:,}" for number in (counts[0], between, counts[-1]))])
    head = ["pictures that open to", "less than 0.1", "0.1 to 0.9", "0.9 or more"]
    return [Folded("How far the gate opened", [Table(head, lines)])]


def _by_headline(rows: Sequence[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: row.figures[headline(row)].value if headline(row) else float("inf"))


def _plain(row: Row, names: Sequence[str]) -> list[str | Cell]:
    cells: list[str | Cell] = [_first(row)]
    for name in names:
        now = row.figures.get(name)
        cells.append(Cell(value(name, now), interval(name, now)) if now else "")
    return cells
