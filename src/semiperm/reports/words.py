"""How figures, counts and expectations are written for people."""

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from semiperm.evaluation.estimate import Estimate
from semiperm.evaluation.figures import NO_SHARES
from semiperm.evaluation.report import Row

if TYPE_CHECKING:
    import inflect

FIGURES = {
    "found": "found",
    "became": "surrogate found",
    "exposed": "exposed",
    "copies": "copied",
    "similarity": "similarity",
    "CS": "CLIP score",
    "CER": "CLIP error",
    "FID": "FID",
    "KID": "KID",
    "unchanged": "unchanged",
    "error": "pixel error",
    "deviation": "deviation from the original",
    "opens": "prompts that open",
    "UA": "target gone (UA)",
    "IRA": "same kind kept (IRA)",
    "CRA": "other kinds kept (CRA)",
    "H": "harmonic mean (H)",
}
"""Headings of the figures; a figure that is not listed (a class of a detector) is called by its own name."""

GROUPS = {
    "target": "target",
    "paraphrase": "paraphrase",
    "not asked": "not asked for",
    "same kind": "same kind",
    "other kinds": "other kinds",
}
"""The groups of rows in the order in which a reader wants them."""

MEANS = ("error", "deviation")
"""Shares of the brightness: means over pictures, not numbers of pictures."""

# shares of fewer pictures than this have no use for a decimal
MANY = 200


def heading(name: str) -> str:
    """Return what a figure is called in a heading."""
    return FIGURES.get(name, name)


def is_share(name: str) -> bool:
    """Return whether a figure is a share, written in percent; others are numbers of their own scale."""
    return name not in NO_SHARES


def value(name: str, estimate: Estimate) -> str:
    """Return a figure without its interval: "98 %" or "61.50"."""
    return f"{_number(name, estimate.value, _decimals(name, estimate))}{_unit(name)}"


def interval(name: str, estimate: Estimate) -> str:
    """Return the 95 % interval of a figure: "95 to 100 %"; empty where it has no width that could be seen."""
    decimals = _decimals(name, estimate)
    low, high = _number(name, estimate.low, decimals), _number(name, estimate.high, decimals)
    return "" if low == high else f"{low} to {high}{_unit(name)}"


def full(name: str, estimate: Estimate) -> str:
    """Return a figure with its interval: "0 % (0 to 5 %)"."""
    reach = interval(name, estimate)
    return f"{value(name, estimate)} ({reach})" if reach else value(name, estimate)


def change(name: str, estimate: Estimate) -> str:
    """Return a difference with its interval and its sign, a share's in points: "−48 points (−58 to −38)"."""
    decimals = _decimals(name, estimate)
    middle, low, high = (
        _number(name, number, decimals, sign="+") for number in (estimate.value, estimate.low, estimate.high)
    )
    return f"{middle}{' points' if is_share(name) else ''}" + (f" ({low} to {high})" if low != high else "")


def count(number: int, noun: str) -> str:
    """Return a number with its noun: "1 picture", "1,200 pictures"."""
    return f"{number:,} {_engine().plural(noun, number)}"


def joined(names: Sequence[str]) -> str:
    """Return names as a list in a sentence: "a, b and c"."""
    return _engine().join(list(names), final_sep="")


def size(row: Row) -> str:
    """Return how many pictures a row has, or how many prompts where it has none: "10 pictures"."""
    if not row.pictures and "opens" in row.figures:
        return count(row.figures["opens"].count, "prompt")
    return count(row.pictures, "picture")


def expectation(row: Row) -> str:
    """Return what a protocol expects of a row: "expected: gone (paraphrase)"."""
    expected = "gone or kept" if row.expected == "either" else row.expected
    return f"expected: {expected} ({GROUPS.get(row.group, row.group)})"


def capital(text: str) -> str:
    """Return a text with its first letter in upper case and the others as they are."""
    return text[:1].upper() + text[1:]


def _unit(name: str) -> str:
    return " %" if is_share(name) else ""


def _decimals(name: str, estimate: Estimate) -> int:
    if not is_share(name):
        size = max(abs(estimate.value), abs(estimate.low), abs(estimate.high))
        return 0 if size >= 1000 else 4 if 0 < size < 0.1 else 2
    if name in MEANS:
        return 1
    part = abs(100 * estimate.value)
    # "0 %" and "100 %" mean exactly that
    fewest = 0 if estimate.count < MANY else 1
    return next((n for n in (fewest, 1, 2) if round(part, n) not in (0, 100) or part in (0, 100)), 2)


def _number(name: str, number: float, decimals: int, *, sign: str = "") -> str:
    scaled = 100 * number if is_share(name) else number
    text = f"{scaled:{sign},.{decimals}f}"
    plain = float(text.replace(",", ""))
    if plain == 0:
        return "0"
    if is_share(name) and abs(plain) == 100:
        text = text.split(".")[0]
    return text.replace("-", "−")


@cache
def _engine() -> "inflect.engine":
    # inflect takes more than a second to import
    import inflect

    return inflect.engine()
