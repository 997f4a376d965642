"""A library: a folder of erasures with an index that says what they are and detects files that changed."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from semiperm.erasure import Erasure
from semiperm.errors import LibraryError, clipped, listed
from semiperm.files.container import SUFFIX
from semiperm.files.safetensors import load
from semiperm.files.strict import from_json
from semiperm.paths import LONGEST_NAME, opened, read_text, whole, write

INDEX = "index.json"
LOCK = ".lock"
MAX_INDEX_BYTES = 64 * 1024**2
# how long to wait for another process that changes the library
PATIENCE = 120.0


class Entry(BaseModel):
    """What the index says of one erasure.

    Attributes:
        file: name of its file in the folder.
        name: name of its concept, or of its first concepts.
        kind: kind of its first concept.
        base_model, architecture, fingerprint: from its card, what it was made for.
        sha256: hash of the file when it was added.
        bytes: size of the file.
        date, licence: from its card.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    file: Annotated[str, Field(max_length=LONGEST_NAME)]
    name: str
    kind: str
    base_model: str
    architecture: str
    fingerprint: str
    sha256: str
    bytes: Annotated[int, Field(ge=0, lt=2**63)]
    date: str
    licence: str

    @field_validator("file")
    @classmethod
    def _is_in_the_folder(cls, file: str) -> str:
        if Path(file).name != file or not file.endswith(SUFFIX) or not file.isprintable():
            raise ValueError(f"{clipped(file)!r} is not the name of a {SUFFIX} file in the library's folder")
        return file


class Library:
    """Erasures in a folder with an index; a file whose hash changed since it was added is not loaded.

    Several processes may change a library at the same time: each holds the folder's lock and reads the index again.

    Raises:
        LibraryError: the index cannot be read.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self._entries = _read(self.folder / INDEX)

    def __len__(self) -> int:
        return len(self._entries)

    def entries(self) -> list[Entry]:
        """Return the entries, sorted by name."""
        return _sorted(self._entries)

    def search(self, text: str) -> list[Entry]:
        """Return the entries with a text in their name, kind, base model or architecture, in any case."""
        wanted = text.lower()
        return [
            entry
            for entry in self.entries()
            if any(wanted in value.lower() for value in (entry.name, entry.kind, entry.base_model, entry.architecture))
        ]

    def add(self, paths: Iterable[Path | str]) -> list[Entry]:
        """Copy the files of erasures into the library and index them, all or none.

        A file that is already in the folder is indexed in place.

        Raises:
            MembraneFileError: a file is not a sound erasure.
            LibraryError: another file of that name is in the library or its folder, or the library stays locked.
        """
        found = [(_entry(path), path) for path in map(Path, paths)]
        added: dict[str, Entry] = {}
        copied: list[Path] = []
        with self._locked():
            for entry, path in found:
                self._check_new(entry, path, added.get(entry.file) or self._entries.get(entry.file))
                added[entry.file] = entry
            try:
                for file, path in {entry.file: path for entry, path in found}.items():
                    target = self.folder / file
                    if not target.exists():
                        with whole(target) as draft:
                            shutil.copyfile(path, draft)
                        copied.append(target)
                self._write(self._entries | added)
            except BaseException:
                for target in copied:
                    target.unlink(missing_ok=True)
                raise
        return list(added.values())

    def remove(self, name: str) -> Entry:
        """Delete an erasure by its file's name, or by a concept's name that only one erasure has.

        Raises:
            LibraryError: there is none, several have that name, or the library stays locked.
        """
        # Look first without a lock, which would make the folder.
        self._entries = _read(self.folder / INDEX)
        self.find(name)
        with self._locked():
            entry = self.find(name)
            self._write({file: other for file, other in self._entries.items() if file != entry.file})
            (self.folder / entry.file).unlink(missing_ok=True)
        return entry

    def find(self, name: str) -> Entry:
        """Return the entry of a file's name or a concept's name.

        Raises:
            LibraryError: there is none, or several concepts have that name.
        """
        if name in self._entries:
            return self._entries[name]
        found = [entry for entry in self._entries.values() if entry.name.lower() == name.lower()]
        if not found:
            raise LibraryError(f"{self.folder} has no erasure {name!r}; it has {len(self)} others.")
        if len(found) > 1:
            files = listed(sorted(entry.file for entry in found))
            raise LibraryError(f"{self.folder} has several erasures for {name!r}: name one by its file: {files}.")
        return found[0]

    def verify(self) -> dict[str, str]:
        """Return what is wrong, by file: missing, changed since it was added, or not in the index; empty if nothing."""
        wrong = {}
        for entry in self.entries():
            path = self.folder / entry.file
            if not path.exists():
                wrong[entry.file] = "is missing"
            elif not path.is_file():
                wrong[entry.file] = "is not a file"
            elif _hash(path) != entry.sha256:
                wrong[entry.file] = "was changed since it was added"
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            if path.name not in self._entries:
                wrong[path.name] = "is not in the index"
        return wrong

    def load(self, names: Sequence[str] | None = None) -> list[Erasure]:
        """Load erasures by file or concept name, in the order of the names; all of them without names.

        Raises:
            LibraryError: a file is missing or was changed.
        """
        entries = self.entries() if names is None else [self.find(name) for name in names]
        return [self._load(entry) for entry in entries]

    def _load(self, entry: Entry) -> Erasure:
        path = self.folder / entry.file
        if not path.exists():
            raise LibraryError(f"{path} is in the index, but the file is missing.")
        if _hash(path) != entry.sha256:
            raise LibraryError(
                f"{path} was changed since it was added, so it is not loaded. To accept the change, copy the file "
                "elsewhere, remove the entry and add the copy."
            )
        return load(path)

    def _check_new(self, entry: Entry, path: Path, known: Entry | None) -> None:
        """Check that adding a file would replace no other one."""
        target = self.folder / entry.file
        there = target.exists() and _hash(target) != entry.sha256
        if there or (known is not None and known.sha256 != entry.sha256):
            other = f" ({known.name})" if known is not None else ""
            raise LibraryError(
                f"{self.folder} has another file {entry.file}{other}: remove it first, or rename {path}."
            )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes from changing the library, and read the index as they left it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.folder / LOCK, timeout=PATIENCE):
                self._entries = _read(self.folder / INDEX)
                yield
        except Timeout:
            raise LibraryError(
                f"Another process has changed {self.folder} for {PATIENCE:.0f} seconds: wait until it is done."
            ) from None

    def _write(self, entries: dict[str, Entry]) -> None:
        """Write the index, and remember the entries only if that succeeds."""
        rows = [entry.model_dump() for entry in _sorted(entries)]
        write(self.folder / INDEX, json.dumps(rows, indent=1) + "\n")
        self._entries = entries


def _read(index: Path) -> dict[str, Entry]:
    # A link that leads nowhere is not an empty library.
    if not os.path.lexists(index):
        return {}
    entries: dict[str, Entry] = {}
    try:
        rows = from_json(read_text(index, MAX_INDEX_BYTES))
        if not isinstance(rows, list):
            raise ValueError("it is not a list")
        for number, row in enumerate(rows, 1):
            entry = _checked(row, number)
            if entries.setdefault(entry.file, entry) is not entry:
                raise ValueError(f"entry {number} has the file {clipped(entry.file)!r} of another one")
    except ValueError as error:
        raise LibraryError(f"{index} cannot be read as the index of a library: {error}") from None
    return entries


def _checked(row: object, number: int) -> Entry:
    try:
        return Entry.model_validate(row)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"entry {number}: {clipped(where)}: {clipped(first['msg'])}") from None


def _sorted(entries: dict[str, Entry]) -> list[Entry]:
    return sorted(entries.values(), key=lambda entry: (entry.name.lower(), entry.file))


def _hash(path: Path) -> str:
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _entry(path: Path) -> Entry:
    card = load(path).card
    return Entry(
        file=path.name,
        name=card.title,
        kind=card.concept.kind,
        base_model=card.base_model,
        architecture=card.architecture,
        fingerprint=card.fingerprint,
        sha256=_hash(path),
        bytes=path.stat().st_size,
        date=card.date,
        licence=card.licence,
    )
