"""Folders of pictures from strangers, as `evaluate --pictures` and the cache of pictures read them."""

import os
from pathlib import Path
from typing import Any

import pytest

from semiperm.errors import SemipermError
from semiperm.evaluation.sources import FolderSource
from semiperm.evaluation.store import Pictures, Store
from semiperm.pictures import Shot, read_picture
from tests.hostile import manifests
from tests.hostile.law import in_time, refuses, refuses_in_a_sentence, untouched
from tests.hostile.special import SPECIAL

SHOT = Shot("a cat", 0)


def _refused(here: Path, folder: Path, names: object) -> str:
    with untouched(here), in_time(), pytest.raises((SemipermError, OSError)) as caught:
        FolderSource(folder).make([SHOT])
    refuses_in_a_sentence(caught.value, names)
    return str(caught.value)


def test_a_sound_folder_is_read(here: Path) -> None:
    found = FolderSource(manifests.folder(here / "sound", manifests.line(), manifests.png()))
    assert found.make([SHOT]).shape == (1, 8, 8, 3)


@pytest.mark.parametrize("what", manifests.MANIFESTS)
def test_a_tampered_manifest_is_refused(here: Path, what: str) -> None:
    folder = manifests.folder(here / "made", manifests.MANIFESTS[what], manifests.png())
    _refused(here, folder, "made")


@pytest.mark.parametrize("what", manifests.PICTURES)
def test_what_is_no_picture_is_refused(here: Path, what: str) -> None:
    data = manifests.PICTURES[what]
    for number, sha256 in enumerate(("", manifests.digest(data))):
        _refused(here, manifests.folder(here / f"made{number}", manifests.line(sha256=sha256), data), "cat.png")
    with in_time(), pytest.raises(SemipermError) as caught:
        read_picture(here / "made0/cat.png")
    refuses_in_a_sentence(caught.value, "cat.png")


@pytest.mark.parametrize("what", SPECIAL)
@pytest.mark.parametrize("name", ["cat.png", "manifest.jsonl"])
def test_what_is_no_file_is_not_read(here: Path, name: str, what: str) -> None:
    folder = manifests.folder(here / "made", manifests.line(), manifests.png())
    (folder / name).unlink()
    SPECIAL[what](folder / name)
    _refused(here, folder, "made")


@pytest.mark.parametrize("name", ["../secret.png", "ABSOLUTE", "link.png", "folder/secret.png", "./../secret.png"])
def test_nothing_outside_of_the_folder_is_read(here: Path, name: str) -> None:
    (here / "secret.png").write_bytes(manifests.png())
    file = str(here / "secret.png") if name == "ABSOLUTE" else name
    folder = manifests.folder(here / "made", manifests.line(file=file))
    (folder / "link.png").symlink_to("../secret.png")
    (folder / "folder").symlink_to("..")
    assert "folder" in _refused(here, folder, "made")


def test_a_link_that_stays_in_the_folder_is_read(here: Path) -> None:
    folder = manifests.folder(here / "made", manifests.line(file="inside/link.png"), manifests.png())
    (folder / "inside").mkdir()
    (folder / "inside/link.png").symlink_to("../cat.png")
    assert FolderSource(folder).make([SHOT]).shape == (1, 8, 8, 3)


def test_pictures_of_several_sizes_are_refused(here: Path) -> None:
    rows = manifests.line() + manifests.line(file="dog.png", seed=1)
    folder = manifests.folder(here / "made", rows, manifests.png())
    (folder / "dog.png").write_bytes(manifests.png(16, 8))
    store = FolderSource(folder).store
    with pytest.raises(SemipermError, match="8 x 8 and 16 x 8"):
        list(Pictures(lambda number: store.load(Shot("a cat", number)), 2).chunks())


@pytest.mark.parametrize(
    "text", ["[]", "{cat}", "null", "", "[" * 100_000, '{"steps": NaN}', '{"steps": 1, "steps": 2}']
)
def test_tampered_settings_of_pictures_are_refused(here: Path, text: str) -> None:
    manifests.folder(here / "made", manifests.line(), manifests.png())
    (here / "made/settings.json").write_text(text)
    with untouched(here), in_time(), pytest.raises(SemipermError) as caught:
        Store(here / "made", {"steps": 1})
    refuses_in_a_sentence(caught.value, here / "made/settings.json")


@pytest.mark.parametrize("data", [*manifests.PICTURES.values()], ids=[*manifests.PICTURES])
def test_what_is_no_picture_is_not_pushed(here: Path, data: bytes, cat: bytes) -> None:
    Path("cat.safetensors").write_bytes(cat)
    Path("grid.png").write_bytes(data)
    refuses(here, "push", "cat.safetensors", "someone/cat", "--grid", "grid.png", names="grid.png")


# one of each kind, given to the command, with the pictures that its protocol asks for
FOLDERS: dict[str, Any] = {
    "a manifest that is none": ("{cat}", manifests.png()),
    "a seed of nothing": (manifests.MANIFESTS["a seed of NaN"], manifests.png()),
    "a file that leads up": (manifests.line(file="../../outside.png"), manifests.png()),
    "a file that is an escape": (manifests.line(file="\x1b[2J.png"), manifests.png()),
    "13,000 pixels": (None, manifests.PICTURES["13,000 pixels"]),
    "a picture that is cut": (None, manifests.SOUND[:40]),
    "a program": (None, manifests.PICTURES["a program of PostScript"]),
    "no picture": (None, None),
}


@pytest.fixture(scope="module")
def asked() -> str:
    """A manifest with all that `evaluate -p objects --target cat --seeds 1` asks for, each with the same picture."""
    from semiperm.evaluation.bench import shots_of
    from semiperm.evaluation.context import resolve
    from semiperm.evaluation.protocol import ArmPlan
    from semiperm.evaluation.protocols import find
    from semiperm.evaluation.task import Task

    task = Task(protocol="objects", targets=(manifests.CAT,), seeds=1)
    shots = shots_of(find("objects").rows(resolve(task, Path("none")), ArmPlan("folder")))
    return "".join(manifests.line(prompt=shot.prompt, seed=shot.seed, negative=shot.negative) for shot in shots)


@pytest.mark.parametrize("what", FOLDERS)
def test_the_command_refuses_a_folder(here: Path, what: str, asked: str) -> None:
    rows, picture = FOLDERS[what]
    manifests.folder(here / "made", asked if rows is None else rows, picture)
    words = ("--target", "cat", "--seeds", 1, "--pictures", "made", "--out", "out", "--cache", "cache")
    refuses(here, "evaluate", "-p", "objects", *words, names="made")


def test_a_folder_that_is_none_is_refused(here: Path) -> None:
    os.mkfifo("made")
    words = ("--target", "cat", "--seeds", 1, "--pictures", "made", "--out", "out", "--cache", "cache")
    refuses(here, "evaluate", "-p", "objects", *words, names="made")
