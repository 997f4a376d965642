"""Files that are written whole or not at all, file names made of text, and the user's cache folder."""

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield the path of a draft, and put the draft in the place of `path` once it is complete and on the disk.

    If writing fails, what stood at `path` stays as it was and no draft is left behind. Parent folders are made. A file
    that is replaced keeps its permissions.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    os.close(descriptor)
    draft = Path(name)
    try:
        yield draft
        draft.chmod(_mode(path))
        _sync(draft)
        draft.replace(path)
        _sync(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def write(path: Path, text: str) -> None:
    """Write a text in UTF-8, whole or not at all."""
    with whole(path) as draft:
        draft.write_text(text, encoding="utf-8")


def file_name(text: str) -> str:
    """Return a text as a file name without suffix that is valid on any system; empty if nothing is left."""
    return re.sub(r"[^\w.-]+", "-", text.lower()).strip(".-")


def cache_folder() -> Path:
    """Return the folder for what can be made again: $SEMIPERM_CACHE, or the user's cache folder."""
    chosen = os.environ.get("SEMIPERM_CACHE")
    return Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("semiperm", appauthor=False)


def _mode(path: Path) -> int:
    if path.exists():
        return path.stat().st_mode & 0o7777
    # the umask can only be read by setting it
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
