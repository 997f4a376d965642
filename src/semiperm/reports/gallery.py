"""Which pictures a page shows: a row for each group, from several of its rows."""

from collections.abc import Iterator, Sequence
from itertools import zip_longest

from semiperm.evaluation.example import Example
from semiperm.reports.blocks import Gallery, Shelf, Shown, shown
from semiperm.reports.words import GROUPS, capital

COLUMNS = 8
TITLES = {
    "target": "The target, by its name",
    "paraphrase": "The target in other words, or beside something else",
    "not asked": "Close to the target, but not asked for",
    "same kind": "Nearest neighbours and others of the same kind",
    "other kinds": "Other kinds",
}
LEGEND = (
    "Above the bare model's picture, below it the same prompt and seed with the erasures on, and how far they open "
    "(0 to 1)."
)
BARE_LEGEND = "The bare model's pictures."


def gallery(arm: str, examples: Sequence[Example], *, columns: int = COLUMNS) -> Gallery | None:
    """Return the pictures of an arm, a shelf for each group of rows; None where there are none."""
    own = [one for one in examples if one.arm == arm]
    groups = sorted({one.group for one in own}, key=lambda group: ([*GROUPS, group].index(group), group))
    shelves = [Shelf(TITLES.get(group, capital(group)), _picked(own, group, columns)) for group in groups]
    shelves = [shelf for shelf in shelves if shelf.pictures]
    if not shelves:
        return None
    erased = any(len(one.erased) for one in own)
    return Gallery(shelves, LEGEND if erased else BARE_LEGEND)


def _picked(examples: Sequence[Example], group: str, columns: int) -> list[Shown]:
    # one of each row, then the second of each, so that a group's rows are all seen; new prompts first
    turns = zip_longest(*(_pairs(one) for one in examples if one.group == group))
    queue = [pair for turn in turns for pair in turn if pair is not None]
    seen: set[str] = set()
    fresh, again = [], []
    for one, number in queue:
        (again if one.prompts[number] in seen else fresh).append((one, number))
        seen.add(one.prompts[number])
    return [_shown(one, number) for one, number in (fresh + again)[:columns]]


def _pairs(example: Example) -> Iterator[tuple[Example, int]]:
    return ((example, number) for number in range(len(example.bare)))


def _shown(example: Example, number: int) -> Shown:
    erased = example.erased[number] if number < len(example.erased) else None
    note = example.opened[number] if number < len(example.opened) else ""
    return shown(example.prompts[number], example.bare[number], erased, note)
