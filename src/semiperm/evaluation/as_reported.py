"""What was measured, in the columns of a paper's table, so that the two can stand one above the other."""

from collections.abc import Callable

from semiperm.evaluation.estimate import Estimate
from semiperm.evaluation.report import Part, Report, Row

Cells = tuple[str, ...]

# more columns are no table that a person reads; the report has them all
TARGETS = 3
OTHERS = 6
WAYS = {"neither": ("no", "no"), "anchoring": ("yes", "no"), "transport": ("no", "yes"), "both": ("yes", "yes")}


def in_columns(report: Report) -> tuple[Cells, list[Cells]] | None:
    """Return the head and the lines of what a report measured in the columns of the table that it names.

    CS, CER and FID have the papers' units; None where no published table is named, or nothing was erased.
    """
    lay = LAYOUTS.get(report.reported)
    if lay is None or not any(part.membranes for part in report.parts):
        return None
    return lay(report.parts)


def _of_role(part: Part, *roles: str) -> list[Row]:
    return [row for row in part.rows if row.role in roles]


def _erased(part: Part) -> list[Row]:
    return _of_role(part, "erased")[:TARGETS]


def _others(part: Part) -> list[Row]:
    return _of_role(part, "kept", "other domain")[:OTHERS]


def _number(figures: dict[str, Estimate], name: str, scale: float = 1) -> str:
    return f"{scale * figures[name].value:.2f}" if name in figures else ""


def _gone(figures: dict[str, Estimate]) -> Cells:
    return _number(figures, "CS"), _number(figures, "CER", 100)


def _targets_and_others(parts: list[Part]) -> tuple[Cells, list[Cells]]:
    """CS and CER of each target, FID of everything else; what one part does not erase yet has no CER there."""
    targets = {row.name: row for part in parts for row in part.rows if row.role == "erased"}
    erased = list(targets.values())[:TARGETS]
    others = [row.name for row in _of_role(parts[0], "kept", "other domain") if row.name not in targets][:OTHERS]
    heads = [f"{name} {row.name}" if len(erased) > 1 else name for row in erased for name in ("CS", "CER")]
    lines = [("bare model", *(cell for row in erased for cell in _gone(row.bare)), *[""] * len(others))]
    for part in parts:
        by_name = {row.name: row.figures for row in part.rows}
        told = [cell for row in erased for cell in _gone(by_name[row.name])]
        lines.append((part.name, *told, *(_number(by_name[name], "FID") for name in others)))
    return ("method", *heads, *(f"FID {name}" for name in others)), lines


def _ablation(parts: list[Part]) -> tuple[Cells, list[Cells]]:
    lines = [
        (*WAYS[part.name], *_gone(_erased(part)[0].figures), _number(_others(part)[0].figures, "FID")) for part in parts
    ]
    return ("anchoring", "transport", "CS", "CER", f"FID {_others(parts[0])[0].name}"), lines


def _eta(parts: list[Part]) -> tuple[Cells, list[Cells]]:
    return ("eta", "CS"), [(p.name.removeprefix("eta "), _number(_erased(p)[0].figures, "CS")) for p in parts]


def _explicit(parts: list[Part]) -> tuple[Cells, list[Cells]]:
    lines = []
    for part in parts:
        rows = _of_role(part, "erased", "asked otherwise")
        before = sum(row.bare["exposed"].value * row.pictures for row in rows)
        after = sum(row.figures["exposed"].value * row.pictures for row in rows)
        lines.append((part.name, f"{100 * (after / before - 1):+.1f} %" if before else "none found before"))
    return ("method", "change"), lines


def _memorised(parts: list[Part]) -> tuple[Cells, list[Cells]]:
    lines = []
    for part in parts:
        kept = [row.figures["similarity"].value for row in _of_role(part, "kept")]
        keeps = f"{min(kept):.2f} to {max(kept):.2f}" if kept else ""
        whose = f", {part.name}" if len(parts) > 1 else ""
        lines += [(row.name + whose, _number(row.figures, "similarity"), keeps) for row in _of_role(part, "erased")]
    return ("picture", "erased", "others keep"), lines


def _coco(parts: list[Part]) -> tuple[Cells, list[Cells]]:
    row = parts[0].rows[0]
    told = [(part.name, _number(part.rows[0].figures, "FID")) for part in parts]
    return ("method", "FIDg"), [("bare model", _number(row.bare, "FID")), *told]


def _unlearncanvas(parts: list[Part]) -> tuple[Cells, list[Cells]]:
    names = ("UA", "IRA", "CRA")
    lines = [
        (", ".join(row.name for row in _of_role(part, "erased")), *(_number(part.summary, n, 100) for n in names))
        for part in parts
    ]
    return ("target", *names), lines


LAYOUTS: dict[str, Callable[[list[Part]], tuple[Cells, list[Cells]]]] = {
    "objects": _targets_and_others,
    "multi": _targets_and_others,
    "ablation": _ablation,
    "eta": _eta,
    "explicit": _explicit,
    "memorised": _memorised,
    "coco": _coco,
    "unlearncanvas": _unlearncanvas,
}
