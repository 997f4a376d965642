"""Outputs: what may be written where is found out first, and nothing is replaced by accident or left half-written."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from semiperm import paths
from semiperm.errors import SemipermError
from semiperm.paths import claim, whole, whole_folder, write


def below_a_file(folder: Path) -> Path:
    (folder / "file").write_text("kept")
    return folder / "file" / "out.png"


def a_folder(folder: Path) -> Path:
    (folder / "out.png").mkdir()
    return folder / "out.png"


def a_pipe(folder: Path) -> Path:
    os.mkfifo(folder / "out.png")
    return folder / "out.png"


def a_dangling_link(folder: Path) -> Path:
    (folder / "out.png").symlink_to(folder / "elsewhere")
    return folder / "out.png"


def a_link_to_a_file(folder: Path) -> Path:
    (folder / "elsewhere").write_text("kept")
    (folder / "out.png").symlink_to(folder / "elsewhere")
    return folder / "out.png"


def a_link_to_a_folder(folder: Path) -> Path:
    (folder / "elsewhere").mkdir()
    (folder / "out.png").symlink_to(folder / "elsewhere")
    return folder / "out.png"


def a_link_to_a_device(folder: Path) -> Path:
    (folder / "out.png").symlink_to("/dev/null")
    return folder / "out.png"


NEVER: list[Callable[[Path], Path]] = [
    below_a_file,
    a_folder,
    a_pipe,
    a_dangling_link,
    a_link_to_a_file,
    a_link_to_a_folder,
    a_link_to_a_device,
    lambda _: Path("/dev/null"),
    lambda _: Path("/dev/full"),
    lambda _: Path("/dev/null/out.png"),
    lambda folder: folder / ("x" * 256),
    lambda folder: folder / "null\0byte",
]


def state(folder: Path) -> dict[str, Any]:
    """All that is in a folder: modes, links and contents."""
    return {
        str(path): (path.lstat().st_mode, path.read_bytes() if path.is_file() else b"", path.is_symlink())
        for path in folder.rglob("*")
    }


# claim


@pytest.mark.parametrize("where", NEVER)
@pytest.mark.parametrize("force", [False, True])
def test_what_cannot_be_written_is_refused_even_by_force(
    where: Callable[[Path], Path], force: bool, tmp_path: Path
) -> None:
    path = where(tmp_path)
    before = state(tmp_path)
    with pytest.raises(SemipermError, match="cannot be written: ") as refusal:
        claim(path, force=force, ours=lambda _: True)
    assert str(path) in str(refusal.value)
    assert state(tmp_path) == before


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_a_folder_that_no_file_can_be_made_in_is_refused(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(SemipermError, match=f"out.png cannot be written: {os.strerror(code)}"):
        claim(tmp_path / "out.png")


def test_missing_folders_are_made_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "out.png"
    assert claim(path) == path
    assert path.parent.is_dir() and list(path.parent.iterdir()) == []


def test_a_name_as_long_as_file_systems_allow_can_be_written(tmp_path: Path) -> None:
    path = claim(tmp_path / ("猫" * 85))
    write(path, "text")
    assert path.read_text() == "text" and list(tmp_path.iterdir()) == [path]


def test_a_file_is_replaced_by_force_alone(tmp_path: Path) -> None:
    path = tmp_path / "out.png"
    path.write_text("kept")
    with pytest.raises(SemipermError, match="out.png exists and is not replaced.*--force"):
        claim(path)
    assert claim(path, force=True) == path
    assert path.read_text() == "kept" and list(tmp_path.iterdir()) == [path]


def test_an_older_output_of_the_same_work_needs_no_force(tmp_path: Path) -> None:
    path = tmp_path / "out.png"
    path.write_text("ours")
    assert claim(path, ours=lambda found: found.read_text() == "ours") == path
    with pytest.raises(SemipermError, match="exists"):
        claim(path, ours=lambda found: found.read_text() == "other")


# whole


@pytest.mark.parametrize("where", NEVER[1:9])
def test_links_devices_pipes_and_folders_are_never_replaced(where: Callable[[Path], Path], tmp_path: Path) -> None:
    path = where(tmp_path)
    before = state(tmp_path)
    with pytest.raises(SemipermError, match="cannot be written: it is "):
        write(path, "text")
    assert state(tmp_path) == before


def test_a_link_that_appears_while_a_file_is_written_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "out.png"
    with pytest.raises(SemipermError, match="it is a link to"), whole(path) as draft:
        draft.write_text("text")
        a_link_to_a_file(tmp_path)
    assert path.is_symlink() and path.read_text() == "kept"
    assert sorted(tmp_path.iterdir()) == [tmp_path / "elsewhere", path]


def test_a_folder_may_be_reached_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write(claim(tmp_path / "link" / "out.txt"), "text")
    assert (tmp_path / "real" / "out.txt").read_text() == "text"


def test_a_full_disk_leaves_what_was_there_and_is_an_error_with_the_files_name(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    path.write_text("kept")
    with pytest.raises(OSError) as failure, whole(path) as draft:
        draft.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert failure.value.filename == str(path)
    assert path.read_text() == "kept" and list(tmp_path.iterdir()) == [path]


def test_a_failed_file_leaves_no_new_folder(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        with pytest.raises(OSError, match="No space left"), whole(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    fail(tmp_path / "new" / "deep" / "file")
    assert not list(tmp_path.iterdir())
    write(tmp_path / "there" / "other", "kept")
    fail(tmp_path / "there" / "deep" / "file")
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["other"]


def test_an_error_about_the_draft_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr(paths, "_sync", full)
    with pytest.raises(OSError) as failure:
        write(tmp_path / "out.txt", "text")
    assert failure.value.filename == str(tmp_path / "out.txt")
    assert list(tmp_path.iterdir()) == []


def test_permissions_are_kept_and_new_files_have_those_of_the_umask(tmp_path: Path) -> None:
    private, ordinary = tmp_path / "private", tmp_path / "ordinary"
    private.write_text("")
    private.chmod(0o600)
    with whole(private) as draft:
        # Nobody may read the draft of a private file either.
        assert draft.stat().st_mode & 0o777 == 0o600
    assert private.stat().st_mode & 0o7777 == 0o600
    before = os.umask(0o027)
    try:
        write(ordinary, "text")
    finally:
        os.umask(before)
    assert ordinary.stat().st_mode & 0o7777 == 0o640


def test_drafts_have_names_that_cannot_be_guessed(tmp_path: Path) -> None:
    with whole(tmp_path / "out") as first, whole(tmp_path / "out") as second:
        assert first != second
        assert first.parent == second.parent == tmp_path


# whole_folder


def test_a_folder_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a" / "folder"
    with pytest.raises(OSError) as failure, whole_folder(path) as draft:
        (draft / "half").write_text("")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert failure.value.filename == str(path)
    assert list(path.parent.iterdir()) == []
    with whole_folder(path) as draft:
        (draft / "file").write_text("text")
        assert not path.exists()
    assert (path / "file").read_text() == "text" and list(path.parent.iterdir()) == [path]
    with pytest.raises(FileExistsError), whole_folder(path):
        pass
    assert (path / "file").read_text() == "text" and list(path.parent.iterdir()) == [path]
