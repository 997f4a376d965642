"""Libraries whose index or files somebody tampered with."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import run
from tests.hostile.law import accepts, refuses
from tests.hostile.special import SPECIAL
from tests.hostile.texts import DEEP, DEEP_OBJECT, ESCAPES, LONG, MANY, NUMBERS, PATHS

ROW: dict[str, Any] = {
    "file": "cat.safetensors", "name": "cat", "kind": "object", "base_model": "", "architecture": "", "fingerprint": "",
    "sha256": "0" * 64, "bytes": 1, "date": "", "licence": "",
}  # fmt: skip


def _rows(**changes: Any) -> str:
    return json.dumps([ROW | changes])


def _odd(number: str) -> str:
    return _rows(bytes="HERE").replace('"HERE"', number)


INDICES: dict[str, str | bytes] = {
    "no JSON": "{cat}",
    "empty": "",
    "an object": "{}",
    "a string": '"cat"',
    "null": "null",
    "a number": "1",
    "a list of numbers": "[1]",
    "a list of lists": "[[]]",
    "nested deep": DEEP,
    "objects nested deep": f"[{DEEP_OBJECT}]",
    "cut": _rows()[:-20],
    "two lists": _rows() + _rows(),
    "a file twice": json.dumps([ROW, ROW | {"name": "dog"}]),
    "a field twice": _rows().replace('"kind"', '"name": "dog", "kind"'),
    "a field too many": _rows(cat=1),
    "30,000 fields too many": json.dumps([ROW | dict.fromkeys(MANY, 1)]),
    "30,000 entries that are none": json.dumps(MANY),
    "an escape for a field": json.dumps([ROW | {"\x1b[2J": 1}]),
    "a field of a million characters": json.dumps([ROW | {LONG: 1}]),
    "a name that is a list": _rows(name=["cat"]),
    "a name that is null": _rows(name=None),
    "in UTF-16": _rows().encode("utf-16"),
    "in Latin-1": _rows(name="HERE").replace("HERE", "caf\xe9").encode("latin-1"),
    "of bytes": bytes(range(256)),
    **{f"bytes {what}": _odd(number) for what, number in NUMBERS.items()},
    **{f"a file that {what}": _rows(file=text) for what, text in PATHS.items()},
}
# On this system it is a plain name.
INDICES.pop("a file that is of another system")


@pytest.mark.parametrize("what", INDICES)
def test_a_tampered_index_is_refused(here: Path, what: str, cat: bytes) -> None:
    index = INDICES[what]
    Path("library").mkdir()
    Path("library/index.json").write_bytes(index if isinstance(index, bytes) else index.encode())
    Path("dog.safetensors").write_bytes(cat)
    for words in (("list",), ("search",), ("verify",), ("remove",), ("add",)):
        more = {"search": ("cat",), "remove": ("cat",), "add": ("dog.safetensors",)}.get(words[0], ())
        refuses(here, "library", *words, "library", *more, names="library/index.json")


@pytest.mark.parametrize("what", SPECIAL)
def test_an_index_that_is_no_file_is_refused(here: Path, what: str, cat: bytes) -> None:
    Path("library").mkdir()
    SPECIAL[what](Path("library/index.json"))
    Path("dog.safetensors").write_bytes(cat)
    for words in (("list", "library"), ("verify", "library"), ("add", "library", "dog.safetensors")):
        refuses(here, "library", *words, names="library/index.json")


@pytest.mark.parametrize("what", SPECIAL)
def test_a_file_of_a_library_that_is_no_file_is_found(here: Path, what: str, cat: bytes) -> None:
    Path("cat.safetensors").write_bytes(cat)
    assert run("library", "add", "library", "cat.safetensors").exit_code == 0
    Path("library/cat.safetensors").unlink()
    SPECIAL[what](Path("library/cat.safetensors"))
    found = run("library", "verify", "library")
    assert found.exit_code == 1 and "library/cat.safetensors is" in found.output
    Path("cat.safetensors").unlink()
    Path("other").mkdir()
    Path("other/cat.safetensors").write_bytes(cat + b" ")
    refuses(here, "library", "add", "library", "other/cat.safetensors")


@pytest.mark.parametrize("what", [what for what in SPECIAL if what not in ("a pipe", "a socket")])
def test_a_lock_that_is_no_file_changes_nothing(here: Path, what: str, cat: bytes) -> None:
    Path("cat.safetensors").write_bytes(cat)
    Path("library").mkdir()
    SPECIAL[what](Path("library/.lock"))
    refuses(here, "library", "add", "library", "cat.safetensors", names=".lock")


def test_a_lock_that_is_a_link_leaves_what_it_leads_to(here: Path, cat: bytes) -> None:
    Path("cat.safetensors").write_bytes(cat)
    Path("mine.txt").write_text("precious")
    Path("library").mkdir()
    Path("library/.lock").symlink_to("../mine.txt")
    refuses(here, "library", "add", "library", "cat.safetensors", names=".lock")


def test_a_long_index_is_not_repeated_in_an_error(here: Path) -> None:
    Path("library").mkdir()
    rows = [ROW | {"file": f"{number}.safetensors", "name": name} for number, name in enumerate(MANY[:300])]
    Path("library/index.json").write_text(json.dumps(rows))
    assert "300 others" in refuses(here, "library", "remove", "library", "dog")


@pytest.mark.parametrize("what", ESCAPES)
def test_an_index_of_escapes_is_listed_without_any(here: Path, what: str) -> None:
    text = ESCAPES[what]
    Path("library").mkdir()
    fields = ("name", "kind", "base_model", "architecture", "fingerprint", "sha256", "date", "licence")
    Path("library/index.json").write_text(_rows(**dict.fromkeys(fields, text)))
    accepts(here, "library", "list", "library")
    accepts(here, "library", "search", "library", "cat")
    refuses(here, "library", "remove", "library", "\x1b[2J")
