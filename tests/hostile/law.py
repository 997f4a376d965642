"""What every command and every function must do with hostile input: refuse it in a short sentence, at once."""

import hashlib
import os
import resource
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from semiperm.errors import SemipermError
from tests.cli.command import run

SECONDS = 5.0
LONGEST = 4000
LONGEST_TABLE = 40_000
MEMORY = 2 * 1024**3


class TooSlow(BaseException):
    """Input took longer than `SECONDS`; no `except Exception` may hide it."""


def refuses(folder: Path, *words: Any, names: object = "") -> str:
    """Run a command that must refuse its input, and return the sentence.

    Args:
        folder: where nothing may change.
        names: what the sentence must name, the file for instance.
    """
    result = _ran(folder, *words)
    text = spoken(result)
    assert result.exit_code == 1, text
    lines = [line for line in text.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, text
    assert str(names) in lines[0], text
    return lines[0]


def accepts(folder: Path, *words: Any) -> str:
    """Run a command that must do no harm with its input, and return what it prints."""
    result = _ran(folder, *words)
    text = spoken(result, LONGEST_TABLE)
    assert result.exit_code == 0, text
    return text


def spoken(result: Any, longest: int = LONGEST) -> str:
    """Return what a command printed, which must be short, harmless to a terminal, and about no bug."""
    text = result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    assert "Traceback" not in text and "This is a bug" not in text, text[:LONGEST]
    assert "not enough memory" not in text, text
    assert len(text) < longest, f"{len(text)} characters: {text[:500]}"
    assert not control_characters(text), sorted(control_characters(text))
    return text


def refuses_in_a_sentence(error: BaseException, names: object) -> None:
    """Check an exception of the library, whose message a program may log: short, and about the file."""
    assert isinstance(error, SemipermError | OSError), repr(error)
    assert str(names) in str(error)
    assert len(str(error)) < LONGEST


def control_characters(text: str) -> set[str]:
    """Return the characters of a text that steer a terminal, or cannot be printed."""
    return {one for one in text if not one.isprintable() and one not in "\n\t"}


@contextmanager
def in_time(seconds: float = SECONDS) -> Iterator[None]:
    """Raise TooSlow if the context takes longer, and MemoryError if it takes gigabytes."""

    def ring(_signal: int, _frame: FrameType | None) -> None:
        raise TooSlow(f"it took more than {seconds} seconds")

    before = signal.signal(signal.SIGALRM, ring)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, limits[1]))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, limits)


@contextmanager
def untouched(folder: Path) -> Iterator[None]:
    """Check that the context creates, changes and deletes no file in a folder."""
    before = contents(folder)
    yield
    assert contents(folder) == before


def contents(folder: Path) -> dict[str, str]:
    """Return what lies in a folder and below; no pipe is opened and no link followed. Empty folders do not count."""
    found: dict[str, str] = {}
    for path in folder.rglob("*"):
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            found[str(path)] = f"link to {os.readlink(path)}"
        elif stat.S_ISREG(mode):
            found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif not stat.S_ISDIR(mode):
            found[str(path)] = f"special {mode}"
    return found


def _ran(folder: Path, *words: Any) -> Any:
    with untouched(folder), in_time():
        return run(*words)
