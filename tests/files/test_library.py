"""A library lists its erasures and refuses files that changed."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from semiperm.concept import Concept
from semiperm.erasure import Card, WeightDelta
from semiperm.errors import LibraryError, MembraneFileError
from semiperm.files import library as module
from semiperm.files.library import INDEX, LOCK, Library
from semiperm.files.safetensors import save
from semiperm.membrane import Membrane

LAYER = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"


def written(path: Path, name: str, seed: int = 0, **facts: str) -> Path:
    generator = torch.Generator().manual_seed(seed)
    down, up = torch.randn(1, 4, generator=generator), torch.randn(6, 1, generator=generator)
    return save(Membrane(Card(concepts=(Concept(name=name),), **facts), {LAYER: down}, {LAYER: up}), path)  # pyright: ignore[reportArgumentType]


@pytest.fixture
def library(tmp_path: Path) -> Library:
    files = [
        written(tmp_path / "cat.safetensors", "cat", 1, base_model="terrarium"),
        written(tmp_path / "gogh.safetensors", "Van Gogh", 2, base_model="sd14", licence="MIT"),
        written(tmp_path / "cat-2.safetensors", "Cat", 3, base_model="sd14"),
    ]
    found = Library(tmp_path / "library")
    found.add(files)
    return found


def test_entries_are_there_when_the_library_is_opened_again(library: Library, tmp_path: Path) -> None:
    again = Library(library.folder)
    assert again.entries() == library.entries() and len(again) == 3
    assert [entry.name for entry in again.entries()] == ["Cat", "cat", "Van Gogh"]
    gogh = again.find("van gogh")
    assert (gogh.file, gogh.base_model, gogh.licence) == ("gogh.safetensors", "sd14", "MIT")
    assert gogh.bytes == (tmp_path / "gogh.safetensors").stat().st_size
    assert again.verify() == {}


def test_membranes_are_loaded_bit_for_bit_in_the_order_of_the_names(library: Library) -> None:
    gogh, cat = library.load(["Van Gogh", "cat.safetensors"])
    assert isinstance(cat, Membrane)
    assert (gogh.card.concept.name, cat.card.concept.name) == ("Van Gogh", "cat")
    wanted = torch.randn(1, 4, generator=torch.Generator().manual_seed(1))
    assert torch.equal(cat.down[LAYER], wanted)
    assert len(library.load()) == 3


def test_search_looks_at_names_and_bases(library: Library) -> None:
    assert {entry.file for entry in library.search("CAT")} == {"cat.safetensors", "cat-2.safetensors"}
    assert {entry.file for entry in library.search("sd14")} == {"gogh.safetensors", "cat-2.safetensors"}
    assert library.search("dog") == []


def test_changed_missing_and_stray_files_are_named_and_not_loaded(library: Library) -> None:
    written(library.folder / "gogh.safetensors", "Van Gogh", 9)
    (library.folder / "cat-2.safetensors").unlink()
    written(library.folder / "stray.safetensors", "stray", 4)
    assert library.verify() == {
        "gogh.safetensors": "was changed since it was added",
        "cat-2.safetensors": "is missing",
        "stray.safetensors": "is not in the index",
    }
    with pytest.raises(LibraryError, match="gogh.safetensors was changed"):
        library.load(["Van Gogh"])
    with pytest.raises(LibraryError, match="cat-2.safetensors is in the index"):
        library.load(["cat-2.safetensors"])
    assert library.load(["cat.safetensors"])


def test_an_ambiguous_name_is_refused(library: Library) -> None:
    with pytest.raises(LibraryError, match="several erasures for 'cat': .*cat-2.safetensors, cat.safetensors"):
        library.find("cat")
    with pytest.raises(LibraryError, match="no erasure 'dog'"):
        library.find("dog")


def test_removing_deletes_the_file_and_the_line(library: Library) -> None:
    assert library.remove("Van Gogh").file == "gogh.safetensors"
    assert not (library.folder / "gogh.safetensors").exists()
    assert len(Library(library.folder)) == 2 and library.verify() == {}


def test_another_file_of_the_same_name_is_not_overwritten(library: Library, tmp_path: Path) -> None:
    other = written(tmp_path / "elsewhere" / "cat.safetensors", "tiger", 8)
    with pytest.raises(LibraryError, match="another file cat.safetensors"):
        library.add([other])
    library.add([tmp_path / "cat.safetensors"])
    assert library.verify() == {} and len(library) == 3


def test_a_file_in_the_folder_that_is_not_in_the_index_is_not_overwritten(library: Library, tmp_path: Path) -> None:
    stray = written(library.folder / "stray.safetensors", "stray", 4)
    before = stray.read_bytes()
    with pytest.raises(LibraryError, match="another file stray.safetensors"):
        library.add([written(tmp_path / "stray.safetensors", "stray", 5)])
    assert stray.read_bytes() == before


def test_a_file_that_was_changed_in_the_library_is_not_overwritten(library: Library, tmp_path: Path) -> None:
    changed = written(library.folder / "cat.safetensors", "cat", 9).read_bytes()
    with pytest.raises(LibraryError, match="another file cat.safetensors"):
        library.add([tmp_path / "cat.safetensors"])
    assert (library.folder / "cat.safetensors").read_bytes() == changed


def test_a_file_that_is_missing_is_restored(library: Library, tmp_path: Path) -> None:
    (library.folder / "cat.safetensors").unlink()
    library.add([tmp_path / "cat.safetensors"])
    assert library.verify() == {}


@pytest.mark.parametrize("fails", ["new-1.safetensors", INDEX])
def test_nothing_is_added_to_a_full_disk(
    fails: str, library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = module.whole

    @contextmanager
    def whole(path: Path) -> Iterator[Path]:
        with real(path) as draft:
            yield draft
            if path.name == fails:
                raise OSError(28, os.strerror(28))

    def write(path: Path, text: str) -> None:
        with whole(path) as draft:
            draft.write_text(text)

    before = {path.name: path.read_bytes() for path in library.folder.iterdir()}
    more = [written(tmp_path / f"new-{number}.safetensors", f"new {number}") for number in range(3)]
    with monkeypatch.context() as patch:
        patch.setattr(module, "whole", whole)
        patch.setattr(module, "write", write)
        with pytest.raises(OSError, match=fails):
            library.add(more)
    assert {path.name: path.read_bytes() for path in library.folder.iterdir()} == before
    assert len(library) == 3 and library.verify() == {}
    assert len(library.add(more)) == 3 and library.verify() == {}


# several processes

ADD = """
import sys
from semiperm.files.library import Library
library = Library(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for path in sys.argv[2:]:
    library.add([path])
"""


def test_processes_that_add_at_the_same_time_lose_no_entry(tmp_path: Path) -> None:
    files = [written(tmp_path / f"{number:02d}.safetensors", f"concept {number:02d}", number) for number in range(20)]
    folder = tmp_path / "library"
    adding = [
        subprocess.Popen(
            [sys.executable, "-c", ADD, str(folder), *map(str, part)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for part in (files[:10], files[10:])
    ]
    for process in adding:
        assert process.stdout and process.stdout.readline() == b"ready\n"
    # Both go at once.
    for process in adding:
        assert process.stdin
        process.stdin.write(b"go\n")
        process.stdin.flush()
    for process in adding:
        process.communicate()
        assert process.returncode == 0
    assert [entry.file for entry in Library(folder).entries()] == [path.name for path in files]
    assert Library(folder).verify() == {}


def test_a_library_knows_what_others_added_and_removed_before_it_changes_anything(
    library: Library, tmp_path: Path
) -> None:
    other = Library(library.folder)
    other.add([written(tmp_path / "fox.safetensors", "fox", 5)])
    with pytest.raises(LibraryError, match="another file fox.safetensors"):
        library.add([written(tmp_path / "elsewhere" / "fox.safetensors", "fox", 6)])
    other.remove("Van Gogh")
    library.add([written(tmp_path / "dog.safetensors", "dog", 7)])
    names = [entry.name for entry in Library(library.folder).entries()]
    assert names == [entry.name for entry in library.entries()] == ["Cat", "cat", "dog", "fox"]
    assert other.remove("dog").file == "dog.safetensors"


def test_a_library_that_stays_locked_is_an_error(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.1)
    fox = written(tmp_path / "fox.safetensors", "fox", 5)
    with module.FileLock(library.folder / LOCK), pytest.raises(LibraryError, match="Another process"):
        library.add([fox])
    assert library.add([fox])


def test_a_file_in_the_folder_is_indexed_in_place(library: Library) -> None:
    stray = written(library.folder / "stray.safetensors", "stray", 4)
    before = stray.stat().st_mtime_ns
    library.add([stray])
    assert stray.stat().st_mtime_ns == before and library.verify() == {}


def test_nothing_is_added_with_an_unsound_file(library: Library, tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    sound = written(tmp_path / "sound.safetensors", "sound")
    with pytest.raises(MembraneFileError):
        library.add([sound, tmp_path / "x.safetensors"])
    assert len(Library(library.folder)) == 3 and library.verify() == {}


def test_two_files_of_one_name_are_not_added_together(library: Library, tmp_path: Path) -> None:
    files = [written(tmp_path / folder / "fox.safetensors", "fox", seed) for seed, folder in enumerate("ab")]
    with pytest.raises(LibraryError, match="another file fox.safetensors"):
        library.add(files)
    assert len(library) == 3 and library.verify() == {}
    assert len(library.add([files[0], files[0]])) == 1


def test_a_library_holds_weight_deltas_too(library: Library, tmp_path: Path) -> None:
    card = Card(concepts=(Concept(name="cat"), Concept(name="dog")), kind="delta")
    delta = WeightDelta(card, {"unet.conv_in.weight": torch.ones(2)}, "0" * 64)
    library.add([save(delta, tmp_path / "pets.safetensors")])
    (back,) = library.load(["cat, dog"])
    assert isinstance(back, WeightDelta) and back.card == card


@pytest.mark.parametrize("text", ["{", '{"a": 1}', '[{"file": "a"}]', "[1]"])
def test_a_broken_index_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(LibraryError, match="cannot be read as the index"):
        Library(tmp_path)


def test_an_index_that_points_out_of_the_folder_is_refused(library: Library) -> None:
    index = library.folder / INDEX
    index.write_text(index.read_text().replace('"cat.safetensors"', '"../cat.safetensors"'))
    with pytest.raises(LibraryError, match="not the name of a .safetensors file"):
        Library(library.folder)


def test_the_index_is_plain_json(library: Library) -> None:
    rows = json.loads((library.folder / INDEX).read_text())
    assert {row["file"] for row in rows} == {"cat.safetensors", "gogh.safetensors", "cat-2.safetensors"}
