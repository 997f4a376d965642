"""A folder of membranes as a collection: what is in it, whether it is still what was put in, and loading many."""

import hashlib
import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from semiperm.atomic import whole, write
from semiperm.membrane.files import SUFFIX, load
from semiperm.membrane.membrane import Membrane

INDEX = "index.json"


class LibraryError(ValueError):
    """A library cannot do what was asked; the message says which membrane and why."""


class Entry(BaseModel):
    """What the index says of one membrane.

    Attributes:
        file: its file's name in the folder.
        name: the concept's name.
        kind: the concept's kind.
        base_model, architecture, fingerprint: what it was made for, from its card.
        sha256: hash of the file as it was when it was added.
        bytes: size of the file.
        date, licence: from its card.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str
    name: str
    kind: str
    base_model: str
    architecture: str
    fingerprint: str
    sha256: str
    bytes: int
    date: str
    licence: str

    @field_validator("file")
    @classmethod
    def _lies_in_the_folder(cls, file: str) -> str:
        if Path(file).name != file or not file.endswith(SUFFIX):
            raise ValueError(f"{file!r} is not the name of a {SUFFIX} file in the library's folder")
        return file


class Library:
    """Membranes in a folder with an index; a file whose hash changed since it was added is refused.

    Raises:
        LibraryError: the index cannot be read.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self._entries: dict[str, Entry] = {}
        index = self.folder / INDEX
        if index.exists():
            try:
                rows = [Entry.model_validate(row) for row in json.loads(index.read_text(encoding="utf-8"))]
            except (ValidationError, ValueError, TypeError) as error:
                raise LibraryError(f"{index} cannot be read as the index of a library: {error}") from error
            self._entries = {entry.file: entry for entry in rows}

    def __len__(self) -> int:
        return len(self._entries)

    def entries(self) -> list[Entry]:
        """Return what is in the library, by name."""
        return sorted(self._entries.values(), key=lambda entry: (entry.name.lower(), entry.file))

    def search(self, text: str) -> list[Entry]:
        """Return the entries that have a text in name, kind, base model or architecture, whatever the case."""
        wanted = text.lower()
        return [
            entry
            for entry in self.entries()
            if any(wanted in value.lower() for value in (entry.name, entry.kind, entry.base_model, entry.architecture))
        ]

    def add(self, paths: Iterable[Path | str]) -> list[Entry]:
        """Copy membranes' files into the library and index them; a file that lies there already stays where it is.

        Raises:
            MembraneFileError: a file is not a sound membrane; nothing of it is added.
            LibraryError: another file of that name is in the library.
        """
        added = []
        for path in map(Path, paths):
            entry = _entry(path)
            known = self._entries.get(entry.file)
            if known is not None and known.sha256 != entry.sha256:
                raise LibraryError(
                    f"{self.folder} has another file {entry.file} ({known.name}): remove it first, or rename {path}"
                )
            target = self.folder / entry.file
            if target.resolve() != path.resolve():
                with whole(target) as draft:
                    shutil.copyfile(path, draft)
            self._entries[entry.file] = entry
            added.append(entry)
        self._write()
        return added

    def remove(self, name: str) -> Entry:
        """Delete a membrane, given by its file's name or by a concept's name that only one membrane has."""
        entry = self.find(name)
        del self._entries[entry.file]
        self._write()
        (self.folder / entry.file).unlink(missing_ok=True)
        return entry

    def find(self, name: str) -> Entry:
        """Return the entry of a file's name or of a concept's name.

        Raises:
            LibraryError: there is none, or several concepts have that name.
        """
        if name in self._entries:
            return self._entries[name]
        found = [entry for entry in self._entries.values() if entry.name.lower() == name.lower()]
        if not found:
            raise LibraryError(f"{self.folder} has no membrane {name!r}; it has {len(self)} others")
        if len(found) > 1:
            files = ", ".join(sorted(entry.file for entry in found))
            raise LibraryError(f"{self.folder} has several membranes for {name!r}: name one by its file: {files}")
        return found[0]

    def verify(self) -> dict[str, str]:
        """Return what is wrong, by file: missing, changed since it was added, or not in the index; empty if nothing."""
        wrong = {}
        for entry in self.entries():
            path = self.folder / entry.file
            if not path.exists():
                wrong[entry.file] = "is missing"
            elif _hash(path) != entry.sha256:
                wrong[entry.file] = "was changed since it was added"
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            if path.name not in self._entries:
                wrong[path.name] = "is not in the index"
        return wrong

    def load(self, names: Sequence[str] | None = None) -> list[Membrane]:
        """Load membranes by file or concept name, or all of them, in the order that was asked for.

        Raises:
            LibraryError: a file is missing, or is not the one that was added.
        """
        entries = self.entries() if names is None else [self.find(name) for name in names]
        return [self._load(entry) for entry in entries]

    def _load(self, entry: Entry) -> Membrane:
        path = self.folder / entry.file
        if not path.exists():
            raise LibraryError(f"{path} is in the index, but the file is missing")
        if _hash(path) != entry.sha256:
            raise LibraryError(
                f"{path} was changed since it was added: it is not loaded; add it again if that is right"
            )
        return load(path)

    def _write(self) -> None:
        rows = [entry.model_dump() for entry in self.entries()]
        write(self.folder / INDEX, json.dumps(rows, indent=1) + "\n")


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _entry(path: Path) -> Entry:
    card = load(path).card
    return Entry(
        file=path.name,
        name=card.concept.name,
        kind=card.concept.kind,
        base_model=card.base_model,
        architecture=card.architecture,
        fingerprint=card.fingerprint,
        sha256=_hash(path),
        bytes=path.stat().st_size,
        date=card.date,
        licence=card.licence,
    )
