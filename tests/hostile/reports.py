"""Reports that somebody tampered with."""

import json
from typing import Any

from tests.hostile.texts import DEEP, DEEP_OBJECT, LONG, MANY, NUMBERS
from tests.reports.helpers import cat_erased, report_of

SOUND: dict[str, Any] = report_of(cat_erased(others=2)).model_dump(mode="json")


def with_texts(text: str) -> str:
    """Return a sound report in which every name and text is `text`."""
    arm = SOUND["arms"][0]
    rows = [row | {"name": f"{text} {number}", "group": text} for number, row in enumerate(arm["rows"])]
    named = arm | {"name": text, "model": text, "erasures": {text: text}, "gate": text, "rows": rows}
    facts = dict.fromkeys(("shows", "model", "revision", "device", "date"), text)
    return json.dumps(SOUND | facts | {"judge": {text: text}, "settings": {text: text}, "arms": [named]})


def with_number(text: str, *places: str | int) -> str:
    """Return the report with a number in this JSON at a place."""
    facts: Any = json.loads(json.dumps(SOUND))
    inner = facts
    for place in places[:-1]:
        inner = inner[place]
    inner[places[-1]] = "HERE"
    return json.dumps(facts).replace('"HERE"', text)


FIGURE = ("arms", 0, "rows", 0, "figures", "found")
COUNTS = (("pictures",), ("arms", 0, "closed"), (*FIGURE, "count"))
FLOATS = (("seconds",), (*FIGURE, "value"))
NEVER = ("NaN", "infinity", "minus infinity", "more than a float", "an integer that Python does not convert", "true",
         "null", "a string", "a list", "an object")  # fmt: skip
TEXT = json.dumps(SOUND)
TAMPERED: dict[str, str | bytes] = {
    "no JSON": "{cat}", "empty": "", "a list": "[]", "a string": '"cat"', "null": "null", "an object": "{}",
    "nested deep": DEEP, "objects nested deep": DEEP_OBJECT, "half": TEXT[: len(TEXT) // 2], "twice": TEXT * 2,
    "bytes": bytes(range(256)), "in UTF-16": TEXT.encode("utf-16"),
    "in Latin-1": TEXT.replace("cat", "\xe9").encode("latin-1"),
    "a field twice": TEXT[:-1] + ', "protocol": "objects"}',
    "an unknown field": json.dumps(SOUND | {"cat": 1}),
    "30,000 unknown fields": json.dumps(SOUND | dict.fromkeys(MANY, 1)),
    "a field of a million characters": json.dumps(SOUND | {LONG: 1}),
    "an escape for a field": json.dumps(SOUND | {"\x1b[2J": 1}),
    "of another format": json.dumps(SOUND | {"format": "semiperm-report/1"}),
    "of a format of a million characters": json.dumps(SOUND | {"format": LONG}),
    "of a format of escapes": json.dumps(SOUND | {"format": "\x1b[2J"}),
    "without arms that are a list": json.dumps(SOUND | {"arms": {}}),
    "with arms that are numbers": json.dumps(SOUND | {"arms": [1]}),
    **{
        f"{'.'.join(map(str, place))} {what}": with_number(NUMBERS[what], *place)
        for place in (*COUNTS, *FLOATS)
        for what in NEVER
    },
    **{f"{'.'.join(map(str, place))} half": with_number("0.5", *place) for place in COUNTS},
}  # fmt: skip
# sound to a reader of JSON, and no reason for a traceback
ODD = {
    "a share of millions": with_number("1e300", *FIGURE, "value"),
    "an interval of millions": with_number("1e300", *FIGURE, "high"),
    "an interval the wrong way": with_number("-1e300", *FIGURE, "high"),
    "a count below zero": with_number("-1", *FIGURE, "count"),
    "a count of zero": with_number("0", *FIGURE, "count"),
    "a huge count": with_number("9" * 400, *FIGURE, "count"),
    "a huge number of pictures": with_number("9" * 400, "pictures"),
    "pictures below zero": with_number("-1", "pictures"),
    "no rows": json.dumps(SOUND | {"arms": [SOUND["arms"][0] | {"rows": []}]}),
    "no arms": json.dumps(SOUND | {"arms": []}),
    "no permeability": json.dumps(SOUND | {"arms": [SOUND["arms"][0] | {"permeability": {}}]}),
    "a permeability of one bin": json.dumps(SOUND | {"arms": [SOUND["arms"][0] | {"permeability": {"target": [1]}}]}),
    "an unknown published table": json.dumps(SOUND | {"published": "../../cat"}),
    "an arm twice": json.dumps(SOUND | {"arms": SOUND["arms"] * 2}),
    "a name of a million characters": with_texts(LONG),
    "an unknown figure": json.dumps(SOUND).replace('"found"', '"x"'),
}
