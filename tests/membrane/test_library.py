"""A library knows what it holds and refuses what it did not take in."""

import json
from pathlib import Path

import pytest
import torch

from semiperm.concept import Concept
from semiperm.membrane.files import MembraneFileError, save
from semiperm.membrane.library import INDEX, Library, LibraryError
from semiperm.membrane.membrane import Card, Membrane

LAYER = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"


def written(path: Path, name: str, seed: int = 0, **facts: str) -> Path:
    generator = torch.Generator().manual_seed(seed)
    down, up = torch.randn(1, 4, generator=generator), torch.randn(6, 1, generator=generator)
    return save(Membrane(Card(concept=Concept(name=name), **facts), {LAYER: down}, {LAYER: up}), path)  # pyright: ignore[reportArgumentType]


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


def test_what_was_added_is_there_for_the_next_who_opens_it(library: Library, tmp_path: Path) -> None:
    again = Library(library.folder)
    assert again.entries() == library.entries() and len(again) == 3
    assert [entry.name for entry in again.entries()] == ["Cat", "cat", "Van Gogh"]
    gogh = again.find("van gogh")
    assert (gogh.file, gogh.base_model, gogh.licence) == ("gogh.safetensors", "sd14", "MIT")
    assert gogh.bytes == (tmp_path / "gogh.safetensors").stat().st_size
    assert again.verify() == {}


def test_membranes_are_loaded_bit_for_bit_in_the_order_asked(library: Library) -> None:
    gogh, cat = library.load(["Van Gogh", "cat.safetensors"])
    assert (gogh.card.concept.name, cat.card.concept.name) == ("Van Gogh", "cat")
    wanted = torch.randn(1, 4, generator=torch.Generator().manual_seed(1))
    assert torch.equal(cat.down[LAYER], wanted)
    assert len(library.load()) == 3


def test_search_looks_at_names_and_bases(library: Library) -> None:
    assert {entry.file for entry in library.search("CAT")} == {"cat.safetensors", "cat-2.safetensors"}
    assert {entry.file for entry in library.search("sd14")} == {"gogh.safetensors", "cat-2.safetensors"}
    assert library.search("dog") == []


def test_a_file_that_changed_is_refused_and_told(library: Library) -> None:
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


def test_a_name_that_several_have_must_be_a_files(library: Library) -> None:
    with pytest.raises(LibraryError, match="several membranes for 'cat': .*cat-2.safetensors, cat.safetensors"):
        library.find("cat")
    with pytest.raises(LibraryError, match="no membrane 'dog'"):
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


def test_what_lies_in_the_folder_is_indexed_where_it_lies(library: Library) -> None:
    stray = written(library.folder / "stray.safetensors", "stray", 4)
    before = stray.stat().st_mtime_ns
    library.add([stray])
    assert stray.stat().st_mtime_ns == before and library.verify() == {}


def test_what_is_no_membrane_is_not_added(library: Library, tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    with pytest.raises(MembraneFileError):
        library.add([tmp_path / "x.safetensors"])
    assert len(Library(library.folder)) == 3


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
