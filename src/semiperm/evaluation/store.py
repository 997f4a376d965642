"""Pictures on disk with a manifest, so that a stopped run resumes and bare pictures are generated once."""

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, ValidationError

from semiperm.errors import StoreError, clipped
from semiperm.files.strict import from_json
from semiperm.paths import inside, read, read_text, whole, write
from semiperm.pictures import MAX_BYTES, Shot, decoded

MANIFEST = "manifest.jsonl"
SETTINGS = "settings.json"
MAX_MANIFEST_BYTES = 256 * 1024**2


@dataclass(frozen=True)
class Entry:
    """One line of a manifest: a picture in the folder."""

    file: str
    sha256: str
    shot: Shot
    permeability: dict[str, float] = field(default_factory=dict)


class Store:
    """A folder of pictures, each found by its shot.

    `manifest.jsonl` has one line a picture: `file`, `prompt` and `seed`, and where they are known `sha256`, `negative`,
    `guidance` and `permeability`. `settings.json` holds the settings that the pictures were generated with.

    Args:
        settings: those of the pictures that are added; a last line that a crash left incomplete is then dropped.
            Without them the folder may be another tool's and is only read.

    Raises:
        StoreError: the folder holds pictures that were made with other settings, or a file in it cannot be read.
    """

    def __init__(self, folder: Path, settings: dict[str, Any] | None = None) -> None:
        self.folder = folder
        self.entries: dict[Shot, Entry] = {}
        recorded = folder / SETTINGS
        if settings is not None:
            # as JSON has them, so that a tuple equals the list that is read back
            wanted: dict[str, Any] = json.loads(json.dumps(settings))
            if os.path.lexists(recorded):
                found = _settings(recorded)
                other = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
                if other:
                    raise StoreError(
                        f"{folder} holds pictures that were generated with another {other[0]} "
                        f"({_short(found.get(other[0]))}, not {_short(wanted.get(other[0]))}): choose another folder "
                        "or delete it"
                    )
            else:
                write(recorded, json.dumps(wanted, indent=1))
        for entry in _read(folder / MANIFEST, ours=settings is not None):
            self.entries[entry.shot] = entry

    def __contains__(self, shot: Shot) -> bool:
        entry = self.entries.get(shot)
        return entry is not None and self._path(entry).exists()

    def load(self, shot: Shot) -> np.ndarray:
        """Return a picture: (H, W, 3) uint8.

        Raises:
            StoreError: there is no such picture, or its file has changed since it was written.
        """
        entry = self.entries.get(shot)
        if entry is None:
            raise StoreError(f"{self.folder} has no picture of {shot.prompt!r} with seed {shot.seed}")
        path = self._path(entry)
        if not path.exists():
            raise StoreError(f"{path} is in the manifest, but the file is missing: restore it or delete the line")
        content = read(path, MAX_BYTES)
        if entry.sha256 and hashlib.sha256(content).hexdigest() != entry.sha256:
            raise StoreError(
                f"{path} was changed since it was written (its hash differs from the manifest's): delete it"
            )
        return decoded(content, path)

    def _path(self, entry: Entry) -> Path:
        # Here as well as in the manifest: a link may have been put in the place of a file.
        try:
            return inside(self.folder, entry.file)
        except ValueError as error:
            raise StoreError(f"{self.folder / MANIFEST}: {error}; only pictures in the folder are read") from None

    def add(self, shots: Sequence[Shot], pictures: Sequence[np.ndarray], opened: Sequence[dict[str, float]]) -> None:
        """Write a batch of pictures, then their lines of the manifest at once."""
        lines = []
        for shot, picture, permeability in zip(shots, pictures, opened, strict=True):
            content = _png(picture)
            entry = Entry(f"{_name(shot)}.png", hashlib.sha256(content).hexdigest(), shot, permeability)
            with whole(self.folder / entry.file) as draft:
                draft.write_bytes(content)
            self.entries[shot] = entry
            lines.append(_line(entry))
        with open(self.folder / MANIFEST, "a", encoding="utf-8") as manifest:
            manifest.write("".join(lines))
            manifest.flush()
            os.fsync(manifest.fileno())


class Pictures:
    """Some pictures that are read from disk when they are needed, a chunk at a time."""

    def __init__(self, load: Callable[[int], np.ndarray], count: int) -> None:
        self.load, self.count = load, count

    def __len__(self) -> int:
        return self.count

    def chunks(self, size: int = 50) -> Iterator[np.ndarray]:
        """Yield the pictures in their order, `size` at a time: (N, H, W, 3) uint8."""
        for start in range(0, self.count, size):
            yield _stacked([self.load(number) for number in range(start, min(start + size, self.count))])

    def some(self, count: int) -> np.ndarray:
        """Return the first `count` pictures."""
        return _stacked([self.load(number) for number in range(min(count, self.count))])


def batches(shots: Iterable[Shot], size: int) -> list[list[Shot]]:
    """Return distinct shots in batches that agree in guidance and in having a negative prompt.

    Batches depend only on the shots, so a resumed run is identical.
    """
    distinct = list(dict.fromkeys(shots))
    groups: dict[tuple[float | None, bool], list[Shot]] = {}
    for shot in distinct:
        groups.setdefault((shot.guidance, bool(shot.negative)), []).append(shot)
    return [group[start : start + size] for group in groups.values() for start in range(0, len(group), size)]


def fill(
    store: Store,
    shots: Iterable[Shot],
    make: Callable[[list[Shot]], tuple[np.ndarray, Sequence[dict[str, float]]]],
    *,
    batch: int,
    done: Callable[[int], None] = lambda count: None,
) -> None:
    """Generate the pictures that a store lacks, batch by batch.

    Args:
        done: called with the number of pictures after each batch, generated or found.
    """
    for group in batches(shots, batch):
        if not all(shot in store for shot in group):
            pictures, opened = make(group)
            store.add(group, list(pictures), opened)
        done(len(group))


def _png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return buffer.getvalue()


def _name(shot: Shot) -> str:
    return hashlib.sha256(json.dumps(asdict(shot), sort_keys=True).encode()).hexdigest()[:24]


def _line(entry: Entry) -> str:
    shot = asdict(entry.shot)
    return json.dumps({"file": entry.file, "sha256": entry.sha256, **shot, "permeability": entry.permeability}) + "\n"


def _read(manifest: Path, *, ours: bool) -> list[Entry]:
    """Return the lines of a manifest; of ours, a last line that is not complete is deleted."""
    if not os.path.lexists(manifest):
        return []
    found: list[Entry] = []
    try:
        # Not splitlines(), which takes characters that prompts may have for line ends.
        lines = list(io.StringIO(read_text(manifest, MAX_MANIFEST_BYTES)))
    except UnicodeDecodeError as error:
        raise StoreError(f"{manifest} is not text in UTF-8: {error.reason}") from None
    for number, line in enumerate(lines, 1):
        try:
            entry = _entry(from_json(line), manifest.parent)
        except ValueError as error:
            if ours and number == len(lines) and not line.endswith("\n"):
                # the last line of a run that was killed while writing it
                write(manifest, "".join(lines[:-1]))
                break
            raise StoreError(
                f"{manifest}, line {number}: not a picture with file, prompt and seed ({clipped(error)})"
            ) from None
        found.append(entry)
    return found


class _Line(BaseModel):
    """A line of a manifest; other tools may say more than is read."""

    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)

    file: str
    prompt: str
    seed: int
    sha256: str = ""
    negative: str = ""
    guidance: float | None = None
    permeability: dict[str, float] = {}


def _entry(row: object, folder: Path) -> Entry:
    try:
        line = _Line.model_validate(row)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the line"
        raise ValueError(f"{clipped(where)}: {clipped(first['msg'])}") from None
    inside(folder, line.file)
    shot = Shot(line.prompt, line.seed, line.negative, line.guidance)
    return Entry(line.file, line.sha256, shot, line.permeability)


def _settings(path: Path) -> dict[str, Any]:
    try:
        found = from_json(read_text(path, MAX_MANIFEST_BYTES))
        if not isinstance(found, dict):
            raise ValueError("it is no object")
    except ValueError as error:
        raise StoreError(f"{path} is not the settings of some pictures: {clipped(error)}") from None
    return found


def _short(value: object) -> str:
    return clipped(repr(value))


def _stacked(pictures: Sequence[np.ndarray]) -> np.ndarray:
    if len(sizes := dict.fromkeys(picture.shape[:2] for picture in pictures)) > 1:
        (height, width), (other_height, other_width), *_ = sizes
        raise StoreError(
            f"pictures that are measured together must have one size, but there are {width} x {height} and "
            f"{other_width} x {other_height} pixels"
        )
    return np.stack(pictures)
