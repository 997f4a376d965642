"""A report as one self-contained page: verdict, pictures, summary, what changed; everything else is folded."""

from collections.abc import Sequence

from semiperm.evaluation.example import Example
from semiperm.evaluation.report import Arm, Report
from semiperm.reports import plots
from semiperm.reports.blocks import Apart, Block, Facts, Folded, Section, Table, Text, Tile, Tiles, Verdict, document
from semiperm.reports.changes import changes, tally
from semiperm.reports.gallery import COLUMNS, gallery
from semiperm.reports.outcomes import acts
from semiperm.reports.published import in_columns, published
from semiperm.reports.summary import classes, summary
from semiperm.reports.tiles import tile
from semiperm.reports.verdict import verdict
from semiperm.reports.words import count, full, joined

# longer lists are folded
SENTENCES = 5
NAMED = 3
PLOTS = "Lines are 95 % intervals, small dots the single rows."
# pictures a row for arms other than the first
OTHERS = 4


def page(report: Report, examples: Sequence[Example]) -> str:
    """Return the page of a report as HTML with everything in it.

    Raises:
        ReportError: an arm has no figure that a verdict could rest on.
    """
    blocks = [
        *_verdicts(report),
        *_pictures(report, examples),
        *_figures(report),
        *_rows(report),
        Section("Method", [*_published(report), _method(report)]),
    ]
    lead = f"Protocol: {report.shows}. {count(report.pictures, 'picture')}, {report.date[:10]}."
    return document(_title(report), blocks, lead=lead)


def _title(report: Report) -> str:
    names = list(dict.fromkeys(name for arm in report.arms for name in arm.erasures))
    if not names:
        return f"{report.protocol}: {report.model}"
    erased = joined(names) if len(names) <= NAMED else count(len(names), "concept")
    return f"{report.protocol}: {erased} erased from {report.model}"


def _verdicts(report: Report) -> list[Block]:
    findings = [verdict(report, arm) for arm in report.arms]
    if len(findings) <= SENTENCES:
        return [Verdict(findings)]
    # a warning is never folded
    first = [finding for number, finding in enumerate(findings) if number < SENTENCES - 1 or finding.warning]
    others = [finding for finding in findings if finding not in first]
    folded = Folded(f"The verdicts on {count(len(others), 'other arm')}", [Verdict(others)])
    return [Verdict(first), folded] if others else [Verdict(first)]


def _pictures(report: Report, examples: Sequence[Example]) -> list[Block]:
    shown = [(arm.name, gallery(arm.name, examples, columns=OTHERS if number else COLUMNS)) for number, arm in
             enumerate(report.arms)]  # fmt: skip
    found = [(name, pictures) for name, pictures in shown if pictures]
    if not found:
        return []
    (name, first), *others = found
    folds: list[Block] = [Folded(name, [pictures], paper=False) for name, pictures in others]
    if others:
        folds = [Folded(f"Pictures of {count(len(others), 'other arm')}", folds, paper=False)]
    return [Section(f"Pictures: {name}" if len(report.arms) > 1 else "Pictures", [first, *folds])]


def _figures(report: Report) -> list[Block]:
    names = dict.fromkeys((figure.name, figure.title) for arm in report.arms for figure in summary(arm))
    tiles = [_tile(report, name, title) for name, title in names]
    blocks: list[Block] = [Tiles(tiles, wide=len(report.arms) > 1)]
    if any(tile.strips for tile in tiles):
        blocks.append(Text(PLOTS, small=True))
    for arm in report.arms:
        exposed = classes(arm)
        if exposed:
            head = ("class", "bare model", "erased") if acts(arm) else ("class", "found in")
            lines = [
                [
                    one.name,
                    *([full("found", one.bare) if one.bare else ""] if acts(arm) else []),
                    full("found", one.now),
                ]
                for one in exposed
            ]
            title = "What the detector counts, by class" + (f": {arm.name}" if len(report.arms) > 1 else "")
            blocks.append(Folded(title, [Table(head, lines)]))
    return [Section("The arms compared" if len(report.arms) > 1 else "Summary", blocks)]


def _tile(report: Report, name: str, title: str) -> Tile:
    lines = plots.lines_of(report, name, title)
    if len(report.arms) == 1:
        return tile(name, title, lines, lead=lines[-1].estimate, same="The bare model's is the same.")
    bare = any(line.tone == "bare" for line in lines)
    return tile(name, title, lines, same=f"The same for all arms{' and the bare model' if bare else ''}.")


def _rows(report: Report) -> list[Block]:
    first, *others = report.arms
    several = bool(others)
    blocks = changes(first)
    folds: list[Block] = [Folded(f"{arm.name}: {tally(arm)}", [*_notes(report, arm), *changes(arm)]) for arm in others]
    if len(folds) > SENTENCES:
        folds = [Folded(f"The rows of {count(len(folds), 'other arm')}", folds)]
    blocks = [*(_notes(report, first) if several else []), *blocks, *folds]
    title = "What changed" if acts(first) else "Row by row"
    return [Section(f"{title}: {first.name}" if several else title, blocks)]


def _notes(report: Report, arm: Arm) -> list[Block]:
    return [Text(note, small=True) for note in verdict(report, arm).notes]


def _published(report: Report) -> list[Block]:
    if not report.published:
        return []
    beside = published(report.published)
    blocks: list[Block] = []
    if measured := in_columns(report):
        blocks.append(Table(*measured, caption="Measured here"))
    note = (
        f"Reported elsewhere ({beside.source}), not measured here: {beside.title}. Other models and other prompts: "
        "these figures are no comparison with the above unless model and prompts agree."
    )
    blocks.append(Apart([Text(note), Table(beside.columns, beside.rows)]))
    return [Folded(f"In the columns of a published table ({beside.source})", blocks)]


def _method(report: Report) -> Block:
    return Folded("How it was measured", [Facts(_facts(report))])


def _facts(report: Report) -> list[tuple[str, str]]:
    return [
        ("protocol", f"{report.protocol}, version {report.protocol_version}"),
        ("world", report.world),
        ("model", report.model),
        *(
            (f"erasures of {arm.name}", ", ".join(f"{name} ({digest})" for name, digest in arm.erasures.items())
             + (f"; gate: {arm.gate}" if arm.gate else ""))
            for arm in report.arms
            if arm.erasures
        ),
        *((name, _plain(setting)) for name, setting in report.settings.items() if setting is not None),
        *((f"judge: {name}", _plain(fact)) for name, fact in report.judge.items()),
        *report.versions.items(),
        ("revision", report.revision or "unknown"),
        ("device", report.device),
        ("date", report.date),
        ("seconds", f"{report.seconds:.0f}"),
        ("intervals", "95 %"),
    ]  # fmt: skip


def _plain(fact: object) -> str:
    return ", ".join(map(str, fact)) if isinstance(fact, list | tuple) else str(fact)
