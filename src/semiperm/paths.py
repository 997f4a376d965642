"""Files: written whole or not at all, read only if they are files and not too large; file names made of text."""

import errno
import io
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import platformdirs

from semiperm.errors import SemipermError, clipped

# as long as file systems allow
LONGEST_NAME = 255


def claim(path: Path, *, force: bool = False, ours: Callable[[Path], bool] = lambda _: False) -> Path:
    """Check that an output may be written at `path`, before work is spent on it; make its folder, return the path.

    A file that is there is replaced only by force. Links, devices, pipes and folders never are: a file is put in the
    place of what stands at its path, so that a link would be lost and its target keep its old contents.

    Args:
        force: replace a file.
        ours: whether a file that is there is an older output of the same work, which needs no force.

    Raises:
        SemipermError: the path cannot be written to, or a file is there.
    """
    try:
        if path.parent.exists() and not path.parent.is_dir():
            raise SemipermError(f"{path} cannot be written: {path.parent} is not a folder.")
        path.parent.mkdir(parents=True, exist_ok=True)
        mode = _mode(path)
        _draft(path, mode).unlink()
    except (OSError, ValueError) as error:
        raise SemipermError(f"{path} cannot be written: {getattr(error, 'strerror', None) or error}.") from None
    if mode is not None and not force and not ours(path):
        raise SemipermError(f"{path} exists and is not replaced: name another file, or replace it with --force.")
    return path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield the path of a draft, and put the draft in the place of `path` once it is complete and on the disk.

    Parent folders are made. If writing fails, what stood at `path` stays as it was, and neither a draft nor a new
    folder is left behind. A file that is replaced keeps its permissions.

    Raises:
        SemipermError: a link, a device, a pipe or a folder stands at `path`; it is not replaced, nor a link followed.
        OSError: the file cannot be written; the error has its path.
    """
    new = [folder for folder in path.parents if not folder.exists()]
    with _naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        mode = _mode(path)
        draft = _draft(path, mode)
    try:
        with _naming(path, draft):
            yield draft
            if mode is not None:
                draft.chmod(mode)
            _sync(draft)
            # What stands there may have changed meanwhile.
            _mode(path)
            draft.replace(path)
            _sync(path.parent)
    except BaseException:
        draft.unlink(missing_ok=True)
        for folder in new:
            # Another file may be there by now.
            with suppress(OSError):
                folder.rmdir()
        raise


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a draft of a folder, and rename it to `path` once it is complete; a failed one is deleted.

    Raises:
        FileExistsError: `path` exists.
        OSError: the folder cannot be written; the error has its path.
    """
    draft = _beside(path)
    with _naming(path, draft):
        draft.mkdir(parents=True)
        try:
            yield draft
            if os.path.lexists(path):
                raise FileExistsError(f"{path} exists.")
            draft.replace(path)
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def write(path: Path, text: str) -> None:
    """Write a text in UTF-8, whole or not at all."""
    with whole(path) as draft:
        draft.write_text(text, encoding="utf-8")


def opened(path: Path) -> io.BufferedReader:
    """Open a file for reading; pipes and devices, which may never answer or never end, are not read.

    Raises:
        OSError: it is not a file, or cannot be opened; the error has its path.
    """
    try:
        # Without O_NONBLOCK, opening a pipe waits for somebody who writes into it.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ValueError as error:
        raise OSError(errno.EINVAL, f"this is not a path ({error})", str(path)) from None
    found = os.fstat(descriptor).st_mode
    if stat.S_ISREG(found):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(found):
        raise IsADirectoryError(errno.EISDIR, "this is a folder, and a file is needed", str(path))
    raise OSError(errno.EINVAL, "this is a device, a pipe or a socket, and a file is needed", str(path))


def read(path: Path, limit: int) -> bytes:
    """Return the contents of a file of at most `limit` bytes.

    Raises:
        OSError: it is not a file, is larger, or cannot be read; the error has its path.
    """
    with opened(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"this is another kind of file: it has more than {limit:,} bytes", str(path))
    return data


def read_text(path: Path, limit: int) -> str:
    """Return the text in a file of at most `limit` bytes in UTF-8, without a byte order mark.

    Raises:
        OSError: it is not a file, is larger, or cannot be read; the error has its path.
        UnicodeDecodeError: it is not in UTF-8.
    """
    return read(path, limit).decode("utf-8-sig")


def inside(folder: Path, name: str) -> Path:
    """Return the path of a file that an index in a folder names; it must lie in that folder, links followed.

    Raises:
        ValueError: it does not, or no file can have that name.
    """
    path = folder / name
    # PurePath knows no links; os.path.realpath() knows no loops, where Path.resolve() raises.
    if not name or not name.isprintable() or ".." in path.parts or max(map(len, path.parts)) > LONGEST_NAME:
        raise ValueError(f"{clipped(name)!r} is not the name of a file in the folder")
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise ValueError(f"{clipped(name)!r} lies outside of the folder")
    return path


def file_name(text: str) -> str:
    """Return a text as a file name without suffix that is valid on any system; empty if nothing is left."""
    return re.sub(r"[^\w.-]+", "-", text.lower()).strip(".-")


def cache_folder() -> Path:
    """Return the folder for what can be made again: $SEMIPERM_CACHE, or the user's cache folder."""
    chosen = os.environ.get("SEMIPERM_CACHE")
    return Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("semiperm", appauthor=False)


def _mode(path: Path) -> int | None:
    """Return the permissions of a file, or None where there is none.

    Raises:
        SemipermError: what stands there is not a file.
    """
    try:
        found = path.lstat().st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISREG(found):
        return stat.S_IMODE(found)
    if stat.S_ISLNK(found):
        raise SemipermError(f"{path} cannot be written: it is a link to {path.readlink()}; name the file itself.")
    what = "a folder" if stat.S_ISDIR(found) else "a device, a pipe or a socket"
    raise SemipermError(f"{path} cannot be written: it is {what}.")


def _beside(path: Path) -> Path:
    # Cut the name, so that the draft's is not longer than file systems allow where the file's own is not.
    return path.with_name(f".{path.name[:40]}.{secrets.token_hex(8)}.partial")


def _draft(path: Path, mode: int | None) -> Path:
    """Make an empty file beside `path` whose name cannot be guessed, as private as the file that it will replace."""
    draft = _beside(path)
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
    os.close(os.open(draft, flags, 0o666 if mode is None else mode & 0o666 | stat.S_IWUSR))
    return draft


@contextmanager
def _naming(path: Path, draft: Path | None = None) -> Iterator[None]:
    """Name a file in the errors of the operating system that name none, or its draft."""
    try:
        yield
    except OSError as error:
        # An error that is only a text has no place for a file's name. That of a copy names the source first.
        if error.strerror and (error.filename is None or str(draft) in (str(error.filename), str(error.filename2))):
            error.filename = str(path)
        raise


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
