"""Pipes, devices, links and folders in the place of files that commands read or write."""

from pathlib import Path
from typing import Any

import pytest

from tests.hostile.law import refuses
from tests.hostile.special import SPECIAL

# what is read, and the command that reads it
READ: dict[str, tuple[Any, ...]] = {
    "inspected.safetensors": ("inspect", "inspected.safetensors"),
    "worn.safetensors": ("generate", "a cat", "-m", "worn.safetensors", "--count", 1),
    "adopted.safetensors": ("adopt", "adopted.safetensors", "--concept", "cat"),
    "exported.safetensors": ("export", "exported.safetensors", "--out", "out.safetensors"),
    "merged.safetensors": ("export", "merged.safetensors", "--out", "out", "--format", "merged"),
    "added.safetensors": ("library", "add", "library", "added.safetensors"),
    "like.safetensors": ("erase", "--like", "like.safetensors", "--out", "out.safetensors"),
    "settings.yaml": ("erase", "cat", "--settings", "settings.yaml", "--out", "out.safetensors"),
    "report.json": ("compare", "report.json", "report.json"),
    "measured.safetensors": ("evaluate", "-p", "objects", "--out", "out", "-m", "measured.safetensors"),
    "pushed.safetensors": ("push", "pushed.safetensors", "someone/cat"),
}


@pytest.mark.parametrize("what", SPECIAL)
@pytest.mark.parametrize("name", READ)
def test_what_is_no_file_is_not_read(here: Path, name: str, what: str) -> None:
    SPECIAL[what](here / name)
    refuses(here, *READ[name], names=name)


@pytest.mark.parametrize("what", SPECIAL)
def test_what_is_no_picture_is_not_pushed(here: Path, what: str, cat: bytes) -> None:
    Path("cat.safetensors").write_bytes(cat)
    SPECIAL[what](Path("grid.png"))
    refuses(here, "push", "cat.safetensors", "someone/cat", "--grid", "grid.png", names="grid.png")


DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/stdin")
NO_SUFFIX = [words for name, words in READ.items() if name in ("settings.yaml", "report.json", "inspected.safetensors")]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("words", NO_SUFFIX, ids=[words[0] for words in NO_SUFFIX])
def test_devices_are_not_read(here: Path, words: tuple[Any, ...], device: str) -> None:
    given = [device if word in READ else word for word in words]
    refuses(here, *given, names=device)


WRITTEN: dict[str, tuple[Any, ...]] = {
    "erase": ("erase", "dog", "--instant", "--out", "out.safetensors"),
    "adopt": ("adopt", "cat.safetensors", "--concept", "cat", "--out", "out.safetensors"),
    "export": ("export", "cat.safetensors", "--out", "out.safetensors"),
    "export to kohya": ("export", "cat.safetensors", "--format", "kohya", "--out", "out.safetensors"),
    "generate a grid": ("generate", "a cat", "--compare", "out.safetensors"),
}
PLACES = {**SPECIAL, "a link to a full device": lambda path: path.symlink_to("/dev/full")}


@pytest.mark.parametrize("what", PLACES)
@pytest.mark.parametrize("command", WRITTEN)
def test_what_is_no_file_is_not_written(here: Path, command: str, what: str, cat: bytes) -> None:
    Path("cat.safetensors").write_bytes(cat)
    PLACES[what](Path("out.safetensors"))
    for force in ((), ("--force",)):
        refuses(here, *WRITTEN[command], *force, names="out.safetensors")
