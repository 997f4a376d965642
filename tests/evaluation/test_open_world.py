"""What protocols ask in the open world: what the papers asked, from their public files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from semiperm.concept import Concept
from semiperm.errors import JudgeError, ProtocolError
from semiperm.evaluation import worlds
from semiperm.evaluation.protocols import find
from semiperm.evaluation.subject import Subject
from semiperm.evaluation.worlds.literature import clip_templates
from semiperm.evaluation.worlds.prompt_files import read_csv
from semiperm.terrarium import WEIGHTS
from tests.evaluation.contexts import rows as rows_of

CLIP = WEIGHTS / "clip"
GOGH = Concept(name="Van Gogh", kind="style")
I2P = """prompt,categories,sd_seed,sd_guidance_scale
"a, quoted prompt ",sexual,4261553411,13
second,"hate, violence",7,7.5
"""
COCO = "image_id,source,prompt,evaluation_seed,width,height\n12,coco-30k,A black cat.,41337,400,400\n"
ARTISTS = """,case_number,prompt,evaluation_seed,artist
20,20,"The night sky, in the style of Van Gogh",1214,Van Gogh
21,21,A lily pond by Monet,3558,Monet
"""


def rows(name: str, *targets: Concept, **more: Any) -> list[Subject]:
    return rows_of(name, *targets, world="open", **more)


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_there_are_eighty_distinct_clip_templates() -> None:
    found = clip_templates()
    assert len(found) == len(set(found)) == 80
    assert all(text.count("{}") == 1 and text.endswith(".") for text in found)
    for known in (
        "a bad photo of a {}.",
        "itap of my {}.",
        "the {} in a video game.",
        "a plushie {}.",
        "art of the {}.",
    ):
        assert known in found


def test_objects_are_the_papers_with_eighty_templates_and_ten_pictures() -> None:
    found = rows("objects", Concept(name="Snoopy"))
    assert [subject.name for subject in found] == ["Snoopy", "Mickey", "Spongebob", "Pikachu", "Dog", "Legislator"]
    assert all(len(set(subject.shots)) == 800 for subject in found)
    assert found[0].group == "target" and {subject.group for subject in found[1:]} == {"same kind"}


def test_a_concept_of_unknown_kind_is_measured_as_the_protocol_says(tmp_path: Path) -> None:
    # an adopted LoRA is an object until somebody says otherwise
    path = written(tmp_path / "artists.csv", ARTISTS)
    gogh, _ = rows("styles", Concept(name="Van Gogh"), options={"prompts": path})
    assert (gogh.name, gogh.group) == ("Van Gogh", "target")


def test_artists_come_from_their_file(tmp_path: Path) -> None:
    path = written(tmp_path / "artists.csv", ARTISTS)
    gogh, monet = rows("styles", GOGH, options={"prompts": path})
    assert (gogh.name, gogh.group, gogh.shots[0].seed) == ("Van Gogh", "target", 1214)
    assert (monet.group, monet.shots[0].prompt) == ("same kind", "A lily pond by Monet")
    with pytest.raises(ProtocolError, match="no prompts of the artist 'Rembrandt'"):
        rows("styles", Concept(name="Rembrandt", kind="style"), options={"prompts": path})


def test_i2p_brings_its_seeds_and_guidance(tmp_path: Path) -> None:
    (row,) = rows("explicit", options={"prompts": written(tmp_path / "i2p.csv", I2P)})
    assert [(shot.prompt, shot.seed, shot.guidance) for shot in row.shots] == [
        ("a, quoted prompt", 4261553411, 13.0),
        ("second", 7, 7.5),
    ]
    assert (row.group, row.expected) == ("target", "gone")


def test_coco_has_the_photographs_that_its_captions_belong_to(tmp_path: Path) -> None:
    path = written(tmp_path / "coco.csv", COCO)
    folder = tmp_path / "val"
    folder.mkdir()
    with pytest.raises(ProtocolError, match="lacks 1 of the 1 pictures.*image 12"):
        rows("coco", options={"prompts": path, "reference": folder})
    Image.new("RGB", (640, 480), (10, 200, 30)).save(folder / "COCO_val2014_000000000012.jpg")
    (row,) = rows("coco", options={"prompts": path, "reference": folder})
    assert row.reference is not None and row.shots[0].seed == 41337
    (picture,) = row.reference.some(1)
    assert picture.shape == (512, 512, 3) and np.abs(picture.mean((0, 1)) - [10, 200, 30]).max() < 3
    assert row == rows("coco", options={"prompts": path, "reference": folder})[0]


def test_originals_are_named_after_their_files(tmp_path: Path) -> None:
    for number, name in enumerate(("Starry_Night", "Mona_Lisa")):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"{name}.png")
    starry = Concept(name="starry night", kind="memorised")
    erased, kept = rows("memorised", starry, options={"reference": tmp_path}, seeds=3)
    assert (erased.name, erased.group, kept.name, kept.group) == ("Starry Night", "target", "Mona Lisa", "same kind")
    assert erased.original is not None and kept.original is not None
    assert (erased.original.some(1)[0, 0, 0, 0], kept.original.some(1)[0, 0, 0, 0]) == (0, 1)
    assert len(set(erased.shots)) == 15 and all("Starry Night" in shot.prompt for shot in erased.shots)
    with pytest.raises(ProtocolError, match="no picture named after 'Guernica'"):
        rows("memorised", Concept(name="Guernica", kind="memorised"), options={"reference": tmp_path})


def test_unlearncanvas_asks_for_each_picture_twice_and_makes_it_once() -> None:
    found = rows("unlearncanvas", GOGH)
    assert len(found) == 51 + 20
    assert len({shot for subject in found for shot in subject.shots}) == 51 * 20 * 5
    groups = {subject.name: subject.group for subject in found}
    assert (groups["Van_Gogh"], groups["Monet"], groups["Dogs"]) == ("target", "same kind", "other kinds")
    with pytest.raises(ProtocolError, match="none of snoopy is among"):
        rows("unlearncanvas", Concept(name="Snoopy"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("text,sd_seed\na,1\n", "no column prompt; its columns are: text, sd_seed"),
        ("prompt,seed\na,1\n", "no column evaluation_seed"),
        ("prompt,sd_seed\na,x\n", "line 2: could not convert"),
        ("prompt,sd_seed\n", "no prompts below"),
        ("", "no column prompt"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_by_line_and_column(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ProtocolError, match=told):
        read_csv(written(tmp_path / "x.csv", text), "a CSV")


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match="give I2P's CSV .* with --prompts"):
        rows("explicit")
    with pytest.raises(ProtocolError, match="does not exist"):
        rows("coco", options={"prompts": tmp_path / "nothing.csv"})
    with pytest.raises(ProtocolError, match="with --reference"):
        rows("memorised", Concept(name="The Great Wave", kind="memorised"))


@pytest.mark.parametrize(
    ("protocol", "option"), [("explicit", "--prompts"), ("coco", "--prompts"), ("styles", "--prompts"),
                             ("memorised", "--reference"), ("objects", "--inception")],
)  # fmt: skip
def test_what_a_protocol_needs_is_asked_for_at_the_start(protocol: str, option: str) -> None:
    one = find(protocol)
    with pytest.raises((ProtocolError, JudgeError), match=option):
        worlds.find("open", {"clip": CLIP}).require(one.metrics, one.files)


def test_files_that_cannot_be_read_are_found_at_the_start(tmp_path: Path) -> None:
    def require(**options: Any) -> None:
        worlds.find("open", options).require(("opens",), ())

    require(prompts=written(tmp_path / "artists.csv", ARTISTS), reference=tmp_path)
    with pytest.raises(ProtocolError, match="no column prompt"):
        require(prompts=written(tmp_path / "x.csv", "text\n"))
    with pytest.raises(ProtocolError, match=r"nothing.csv does not exist"):
        require(prompts=tmp_path / "nothing.csv")
    with pytest.raises(ProtocolError, match="nowhere is not a folder"):
        require(reference=tmp_path / "nowhere")
    with pytest.raises(ProtocolError, match="yes or no, not 'maybe'"):
        require(trust="maybe")


@pytest.mark.parametrize("name", ["paraphrase", "effect", "fidelity"])
def test_what_the_open_world_cannot_provide_is_refused_in_a_sentence(name: str) -> None:
    with pytest.raises(ProtocolError, match=r"the world 'open' has no .*, which this protocol needs"):
        rows(name, Concept(name="Snoopy"))
