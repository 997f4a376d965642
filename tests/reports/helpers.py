"""Reports made by hand, and a reader of the pages that are made of them."""

import math
from dataclasses import dataclass, field
from html.parser import HTMLParser

import numpy as np

from semiperm.evaluation.estimate import Estimate
from semiperm.evaluation.example import Example
from semiperm.evaluation.report import Arm, Proof, Report, Row

EXPECTED = {"target": "gone", "paraphrase": "gone"}
HOSTILE = "<script>alert('a|b')</script>\n\"*x*\" & [y](z)"


def share(value: float, count: int = 100) -> Estimate:
    reach = 1.96 * math.sqrt(value * (1 - value) / count) if 0 < value < 1 else 1 - 0.05 ** (1 / count)
    return Estimate(value=value, low=max(value - reach, 0), high=min(value + reach, 1), count=count)


def exact(**values: float) -> dict[str, Estimate]:
    return {name: Estimate(value=value, low=value, high=value, count=10) for name, value in values.items()}


def row_of(
    name: str,
    group: str,
    figures: dict[str, Estimate],
    bare: dict[str, Estimate] | None = None,
    pictures: int = 10,
    opened: float = 0.0,
) -> Row:
    return Row.model_validate(
        {
            "name": name,
            "group": group,
            "expected": EXPECTED.get(group, "kept"),
            "pictures": pictures,
            "opened": opened,
            "figures": figures,
            "bare": figures if bare is None else bare,
        }
    )


def arm_of(name: str, rows: list[Row], **changes: object) -> Arm:
    facts: dict[str, object] = {
        "name": name, "model": "m", "erasures": {"cat": "abc"}, "gate": "fitted", "pictures": 150, "rows": rows,
        "summary": {}, "bare_summary": {}, "closed": 50, "proof": Proof(checked=4, identical=4),
        "permeability": {"target": [0] * 9 + [100], "same kind": [50] + [0] * 9}, **changes,
    }  # fmt: skip
    return Arm.model_validate(facts)


def report_of(*arms: Arm, **changes: object) -> Report:
    facts: dict[str, object] = {
        "protocol": "objects", "protocol_version": 1, "shows": "a thing is gone", "world": "terrarium", "model": "m",
        "settings": {"steps": 25}, "judge": {}, "versions": {}, "revision": "r", "device": "cpu", "date": "today",
        "seconds": 1.0, "pictures": 150, "published": "objects", "arms": list(arms), **changes,
    }  # fmt: skip
    return Report.model_validate(facts)


def cat_erased(left: float = 0.02, name: str = "erased", *, changed: bool = False, others: int = 30) -> Arm:
    """Return an arm as most runs give it: the target gone, and many rows that stayed the bare model's."""
    rows = [
        row_of(
            "cat",
            "target",
            {"found": share(left), "CS": share(0.5), "unchanged": share(0), "error": share(0.2)},
            {"found": share(0.9), "CS": share(0.7)},
            pictures=100,
            opened=1,
        )
    ]
    for number in range(others):
        kept = {"found": share(0.8, 50), "CS": Estimate(value=61.5, low=60, high=63, count=50)}
        altered = share(0.98, 50) if changed and number == 3 else share(1, 50)
        rows.append(
            row_of(f"other {number}", "same kind" if number < others // 2 else "other kinds",
                   {**kept, "unchanged": altered, "error": share(0.004, 50)}, kept, pictures=50)
        )  # fmt: skip
    return arm_of(
        name,
        rows,
        summary={"UA": share(1 - left), "IRA": share(0.8)},
        bare_summary={"UA": share(0.1), "IRA": share(0.8)},
    )


def example_of(arm: str = "erased", row: str = "cat", group: str = "target", count: int = 8, side: int = 64) -> Example:
    rng = np.random.default_rng(len(row))
    bare, erased = rng.integers(0, 256, (2, count, side, side, 3)).astype(np.uint8)
    if group != "target":
        erased = bare
    return Example(arm, row, group, bare, erased, [f"{row} {number}" for number in range(count)], [f"{row} 1"] * count)


@dataclass
class Node:
    """An element of a page."""

    tag: str
    attributes: dict[str, str]
    inside: list["Node | str"] = field(default_factory=list)

    @property
    def text(self) -> str:
        parts = [one if isinstance(one, str) else one.text for one in self.inside]
        return " ".join(" ".join(parts).replace("\xa0", " ").split())

    def all(self, tag: str, **attributes: str) -> list["Node"]:
        """Return the elements inside, in their order, with a tag and, among their classes and so on, some words."""
        found: list[Node] = []
        for one in self.inside:
            if isinstance(one, Node):
                wanted = {("class" if key == "class_" else key): value for key, value in attributes.items()}
                if one.tag == tag and all(
                    value in one.attributes.get(key, "").split() for key, value in wanted.items()
                ):
                    found.append(one)
                found += one.all(tag, **attributes)
        return found

    def one(self, tag: str, **attributes: str) -> "Node":
        (found,) = self.all(tag, **attributes)
        return found

    @property
    def shown(self) -> str:
        """The text outside of what is folded, and the folds' own titles."""
        parts = []
        for one in self.inside:
            if isinstance(one, str):
                parts.append(one)
            elif one.tag == "details":
                parts.append(one.one_child("summary").text)
            elif one.tag != "style":
                parts.append(one.shown)
        return " ".join(" ".join(parts).replace("\xa0", " ").split())

    def one_child(self, tag: str) -> "Node":
        (found,) = (one for one in self.inside if isinstance(one, Node) and one.tag == tag)
        return found


class _Reader(HTMLParser):
    VOID = ("meta", "img", "br", "link", "input", "hr")

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open = [Node("page", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = Node(tag, {name: value or "" for name, value in attrs})
        self.open[-1].inside.append(node)
        if tag not in self.VOID:
            self.open.append(node)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].inside.append(Node(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].inside.append(data)


def read(html: str) -> Node:
    """Return a page as its elements; elements that are not closed in order are an error."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    (page,) = reader.open
    return page
