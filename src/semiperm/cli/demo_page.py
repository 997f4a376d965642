"""The demo's page: verdicts and a table, then the pictures of each concept, then the times."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from semiperm.concept import Concept
from semiperm.evaluation.example import Example
from semiperm.evaluation.protocols.effect import ALWAYS, BESIDE, OPENED
from semiperm.evaluation.report import Arm, Report, Row
from semiperm.reports.blocks import (
    Block,
    Cell,
    Facts,
    Folded,
    Gallery,
    Section,
    Shelf,
    Table,
    Text,
    Verdict,
    document,
    shown,
)
from semiperm.reports.changes import changes
from semiperm.reports.gallery import LEGEND
from semiperm.reports.outcomes import outcomes
from semiperm.reports.verdict import Finding, verdict
from semiperm.reports.words import count, value

# for each column of the table: its heading, and its row in the protocol `effect`
OF_TARGET = {
    "target by name": "{}: by name",
    "target in other words": "{}: in other words",
    "target beside another object": "{}: beside another",
    "the object beside it": "beside {}",
}
OF_OTHERS = {
    "nearest neighbours": "nearest neighbours",
    "other objects": "other objects",
    "other styles": "other styles",
}
ORDINARY = "ordinary prompts"
EXPLAINED = (
    "In how many of the pictures the oracle finds what the column names, and the bare model's share below. The target "
    "should be gone, and everything else found as often as by the bare model. The last column counts everyday prompts "
    "that ask for none of the concepts."
)
UNGATED = "Always open, the membranes act on every prompt: this shows what the adapters alone do."


@dataclass(frozen=True)
class Measured:
    """What was measured of one concept, or of all together.

    Attributes:
        erasing, measuring: seconds.
    """

    title: str
    report: Report
    examples: Sequence[Example]
    measuring: float
    erasing: float = 0.0


def finding(found: Measured) -> Finding:
    """Return the verdict on erasures as the gate opens them, without the notes that are the same for all."""
    return replace(verdict(found.report, _arm(found, OPENED)), arm=found.title, notes=())


def page(concepts: Sequence[Concept], alone: Sequence[Measured], together: Measured, seconds: float) -> str:
    """Return the page as HTML.

    Args:
        alone: the concepts one by one, in their order.
        seconds: what everything took.
    """
    blocks: list[Block] = [
        Verdict([finding(one) for one in (*alone, together)]),
        Section("What the oracle finds", _found(concepts, alone, together)),
        *(
            Section(f"{one.title} ({concept.kind})", _pictures(one))
            for one, concept in zip(alone, concepts, strict=True)
        ),
        Section("All three together", _pictures(together)),
        Section("Time", [_times(alone, together, seconds), Facts(_facts(together.report))]),
    ]
    names = ", ".join(concept.name for concept in concepts)
    lead = "Everything on this page was made and measured by one run of the command: semiperm demo."
    return document(f"Erased from the terrarium: {names}", blocks, lead=lead)


def _arm(found: Measured, name: str) -> Arm:
    return next(arm for arm in found.report.arms if arm.name == name)


def _found(concepts: Sequence[Concept], alone: Sequence[Measured], together: Measured) -> list[Block]:
    """Return the table of shares, and that of membranes that are always open, folded."""
    both = {
        name: [
            [one.title, *_of_target(_arm(one, name), concept), *_of_others(_arm(one, name))]
            for one, concept in zip(alone, concepts, strict=True)
        ]
        for name in (OPENED, ALWAYS)
    }
    # Together, the targets have a line each, and everything else is the same for all of them.
    arm, blank = _arm(together, OPENED), [""] * (len(OF_OTHERS) + 1)
    lines = [[Cell(concept.name, together.title), *_of_target(arm, concept), *blank] for concept in concepts]
    lines.append([Cell("everything else", together.title), *[""] * len(OF_TARGET), *_of_others(arm)])
    head = ["", *OF_TARGET, *OF_OTHERS, "ordinary prompts that open it"]
    return [
        Table(head, [*both[OPENED], *lines]),
        Text(EXPLAINED, small=True),
        Folded("The same with the gates switched off", [Text(UNGATED, small=True), Table(head, both[ALWAYS])]),
    ]


def _of_target(arm: Arm, concept: Concept) -> list[str | Cell]:
    return _cells(arm, [name.format(concept.name) for name in OF_TARGET.values()])


def _of_others(arm: Arm) -> list[str | Cell]:
    ordinary = next(row for row in arm.rows if row.name == ORDINARY).figures["opens"]
    opened = f"{round(ordinary.value * ordinary.count):,} of {ordinary.count:,}"
    return [*_cells(arm, list(OF_OTHERS.values())), "all" if arm.gate == "always" else opened]


def _cells(arm: Arm, names: Sequence[str]) -> list[str | Cell]:
    missed = {one.row.name for one in outcomes(arm) if one.missed}
    rows = {row.name: row for row in arm.rows}
    return [_cell(rows[name], name in missed) if name in rows else "" for name in names]


def _cell(row: Row, missed: bool) -> Cell:
    now, bare = row.figures["found"], row.bare["found"]
    return Cell(value("found", now), f"bare {value('found', bare)}", tone="bad" if missed else "")


def _pictures(found: Measured) -> list[Block]:
    """Return the pictures of the first arm, those of others folded, and what changed row by row."""
    blocks: list[Block] = []
    for arm in found.report.arms:
        drawn = Gallery(_shelves(found, arm), LEGEND)
        blocks.append(
            drawn if arm.name == OPENED else Folded("Pictures with the gate switched off", [drawn], paper=False)
        )
    first = _arm(found, OPENED)
    notes = verdict(found.report, first).notes
    return [
        *blocks,
        Folded("Row by row", [*map(Text, notes), *changes(first)]),
    ]


def _shelves(found: Measured, arm: Arm) -> list[Shelf]:
    shelves = []
    for one in found.examples:
        # The other objects of a pair are in the same pictures as the target.
        if one.arm != arm.name or one.group == BESIDE:
            continue
        pictures = [
            shown(one.prompts[number], one.bare[number], one.erased[number], one.opened[number])
            for number in range(len(one.bare))
        ]
        shelves.append(Shelf(one.row, pictures))
    return shelves


def _times(alone: Sequence[Measured], together: Measured, seconds: float) -> Table:
    lines = [
        [one.title, f"{one.erasing:.0f} s", f"{one.measuring:.0f} s", count(one.report.pictures, "prompt and seed")]
        for one in alone
    ]
    lines += [
        [together.title, "", f"{together.measuring:.0f} s", count(together.report.pictures, "prompt and seed")],
        ["everything", "", f"{seconds:.0f} s", ""],
    ]
    return Table(["", "erasing", "measuring", "of"], lines)


def _facts(report: Report) -> list[tuple[str, str]]:
    return [
        ("threads", str(torch.get_num_threads())),
        ("device", report.device),
        *report.versions.items(),
        ("revision", report.revision or "unknown"),
        ("date", report.date),
    ]
