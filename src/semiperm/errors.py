"""All exceptions that semiperm raises for its users.

SemipermError
  ModelLoadError        a model cannot be loaded
    RelativeError       a relative of the terrarium is unknown or not built
  CoverageError         an erasure and a model disagree about the layers
  BaseModelError        a weight delta was made for other base weights
  StackError            membranes cannot be put on a denoiser exactly
  GateError             a permeability cannot be computed
  GuardError            a guarded pipeline cannot be sure that its erasures act
  MembraneFileError     a file is not a sound erasure
  HubError              an erasure cannot be fetched or published
  LibraryError          a library cannot do what was asked
  MethodError           a method is unknown, or cannot erase this concept from this model
  SettingsError         a method's settings are wrong
  CheckpointError       a checkpoint cannot be resumed
  ProtocolError         a protocol lacks something that it needs
  StoreError            a folder of pictures is not what it should be
  ReportError           a report cannot be read or compared
  JudgeError            a metric's model or package is missing
  ExtraError            an optional package is missing

`Stopped` is not an error: it says that a run was stopped on request.
"""

import difflib
from collections.abc import Iterable, Sequence


class SemipermError(Exception):
    """The root of all errors that a user can cause; the message says what is wrong, where, and what to do."""


class ModelLoadError(SemipermError):
    """A model cannot be loaded."""


class RelativeError(ModelLoadError):
    """A relative of the terrarium is unknown or not built."""


class CoverageError(SemipermError):
    """An erasure and a model disagree about the layers.

    Attributes:
        missing: layers of the model that the erasure lacks.
        foreign: layers of the erasure that the model lacks.
        misshapen: layers of both whose sizes differ.
    """

    def __init__(
        self, message: str, *, missing: Sequence[str] = (), foreign: Sequence[str] = (), misshapen: Sequence[str] = ()
    ) -> None:
        super().__init__(message)
        self.missing, self.foreign, self.misshapen = tuple(missing), tuple(foreign), tuple(misshapen)


class BaseModelError(SemipermError):
    """A weight delta was made for other base weights than the model has."""


class StackError(SemipermError):
    """Membranes cannot be put on a denoiser exactly."""


class GateError(SemipermError):
    """A permeability cannot be computed."""


class GuardError(SemipermError):
    """A guarded pipeline cannot be sure that its erasures act, and so makes no pictures."""


class MembraneFileError(SemipermError):
    """A file is not a sound erasure."""


class HubError(SemipermError):
    """An erasure cannot be fetched from the Hub or published there."""


class LibraryError(SemipermError):
    """A library cannot do what was asked."""


class MethodError(SemipermError):
    """A method is unknown, or cannot erase this concept from this model."""


class SettingsError(SemipermError):
    """A method's settings are wrong; the message names the field and where it stands."""


class CheckpointError(SemipermError):
    """A checkpoint cannot be resumed."""


class ProtocolError(SemipermError):
    """A protocol lacks something that it needs."""


class StoreError(SemipermError):
    """A folder of pictures is not what it should be."""


class ReportError(SemipermError):
    """A report cannot be read, or two of them cannot be compared."""


class JudgeError(SemipermError):
    """A model or package that a metric needs is missing."""


class ExtraError(SemipermError):
    """An optional package is missing; the message names the extra that installs it."""


class Stopped(Exception):
    """A run was stopped on request, between two steps; its checkpoint, if it keeps one, is written."""


def clipped(text: object, limit: int = 200) -> str:
    """Return a text for a message, cut where it is too long to be read."""
    whole = str(text)
    return whole if len(whole) <= limit else f"{whole[:limit]}..."


def printable(text: object) -> str:
    """Return a text with escapes, as in repr(), for all characters that could control a terminal or hide others."""
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in str(text))


def listed(names: Iterable[str], limit: int = 6) -> str:
    """Return the first names for a message, and how many more there are."""
    found = list(names)
    rest = len(found) - limit
    return ", ".join(map(clipped, found[:limit])) + (f" and {rest} more" if rest > 0 else "")


def close_match(name: str, names: Iterable[str]) -> str:
    """Return " Did you mean ...?" with the closest of some names, or nothing if none is close."""
    close = difflib.get_close_matches(name, list(names), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
