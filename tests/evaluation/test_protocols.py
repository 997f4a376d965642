"""Every protocol asks for what it says, in its small form and from the public files."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

from semiperm.concept import Concept
from semiperm.erasing.recipe import Recipe
from semiperm.evaluation.figures import FIGURES
from semiperm.evaluation.prompts import clip_templates, read_csv
from semiperm.evaluation.protocol import Form, Job, ProtocolError, Subject
from semiperm.evaluation.protocols import PROTOCOLS, find
from semiperm.evaluation.protocols.paraphrase import misspelt
from semiperm.evaluation.reported import REPORTED
from semiperm.membrane.membrane import Card, Membrane
from semiperm.terrarium import world

CAT, MOSAIC, TIDE = (
    Concept(name="cat", surrogate="dog"),
    Concept(name="mosaic", kind="style"),
    Concept(name="The Great Tide", kind="memorised"),
)
OF = {"styles": MOSAIC, "memorised": TIDE}
I2P = """prompt,categories,sd_seed,sd_guidance_scale
"a, quoted prompt ",sexual,4261553411,13
second,"hate, violence",7,7.5
"""
COCO = "image_id,source,prompt,evaluation_seed,width,height\n12,coco-30k,A black cat.,41337,400,400\n"
ARTISTS = """,case_number,prompt,evaluation_seed,artist
20,20,"The night sky, in the style of Van Gogh",1214,Van Gogh
21,21,A lily pond by Monet,3558,Monet
"""


def membrane_of(concept: Concept) -> Membrane:
    return Membrane(Card(concept=concept), {"layer": torch.zeros(1, 2)}, {"layer": torch.zeros(2, 1)})


def job(*targets: Concept, form: Form = "terrarium", **more: Any) -> Job:
    membranes = tuple(membrane_of(concept) for concept in targets)
    return Job(cast(Any, None), membranes, "calibrated", form, targets, **more)


def rows(name: str, *targets: Concept, **more: Any) -> list[Subject]:
    return find(name).subjects(job(*(targets or (OF.get(name, CAT),)), **more))


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_small_form_fits_into_ten_minutes_on_two_cores(name: str) -> None:
    found = rows(name)
    shots = {shot for subject in found for shot in subject.shots}
    # half a second a picture, bare and guarded, if every prompt opened a membrane
    assert 0 < len(shots) <= 600
    assert len({subject.name for subject in found}) == len(found)
    assert all(subject.shots for subject in found)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_measures_what_there_is(name: str) -> None:
    protocol = find(name)
    assert set(protocol.metrics) <= FIGURES.keys()
    assert protocol.version >= 1 and protocol.shows and protocol.cost
    assert protocol.guidance == 7.5 and protocol.steps == 30


@pytest.mark.parametrize("name", ["objects", "styles", "memorised", "unlearncanvas"])
def test_the_target_is_asked_for_and_all_else_is_asked_without_it(name: str) -> None:
    found = rows(name)
    target = OF.get(name, CAT)
    (erased,) = (subject for subject in found if subject.role == "erased")
    assert all(target.name.lower() in shot.prompt.lower() for shot in erased.shots)
    if name != "unlearncanvas":
        others = [shot.prompt for subject in found if subject.role != "erased" for shot in subject.shots]
        assert others and not any(target.name.lower() in prompt.lower() for prompt in others)
    assert {subject.role for subject in found} == {"erased", "kept", "other domain"}


def test_seeds_decide_how_many_pictures() -> None:
    few, many = (sum(len(subject.shots) for subject in rows("objects", seeds=seeds)) for seeds in (4, 20))
    assert few < many


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


def test_objects_in_full_are_the_papers_with_eighty_templates_and_ten_pictures() -> None:
    snoopy = Concept(name="Snoopy")
    found = rows("objects", snoopy, form="full")
    assert [subject.name for subject in found] == ["Snoopy", "Mickey", "Spongebob", "Pikachu", "Dog", "Legislator"]
    assert all(len(set(subject.shots)) == 800 for subject in found)
    assert found[0].role == "erased" and {subject.role for subject in found[1:]} == {"kept"}


def test_artists_come_from_their_file(tmp_path: Path) -> None:
    path = written(tmp_path / "artists.csv", ARTISTS)
    gogh, monet = rows("styles", Concept(name="Van Gogh", kind="style"), form="full", prompts=path)
    assert (gogh.name, gogh.role, gogh.shots[0].seed) == ("Van Gogh", "erased", 1214)
    assert (monet.role, monet.shots[0].prompt) == ("kept", "A lily pond by Monet")


def test_i2p_brings_its_seeds_and_guidance(tmp_path: Path) -> None:
    (row,) = rows("explicit", form="full", prompts=written(tmp_path / "i2p.csv", I2P))
    assert [(shot.prompt, shot.seed, shot.guidance) for shot in row.shots] == [
        ("a, quoted prompt", 4261553411, 13.0),
        ("second", 7, 7.5),
    ]


def test_coco_has_the_photographs_that_its_captions_belong_to(tmp_path: Path) -> None:
    path = written(tmp_path / "coco.csv", COCO)
    folder = tmp_path / "val"
    folder.mkdir()
    with pytest.raises(ProtocolError, match="lacks 1 of the 1 pictures.*image 12"):
        rows("coco", form="full", prompts=path, reference=folder)
    Image.new("RGB", (640, 480), (10, 200, 30)).save(folder / "COCO_val2014_000000000012.jpg")
    (row,) = rows("coco", form="full", prompts=path, reference=folder)
    assert row.reference is not None and row.shots[0].seed == 41337
    (picture,) = row.reference.some(1)
    assert picture.shape == (512, 512, 3) and np.abs(picture.mean((0, 1)) - [10, 200, 30]).max() < 3


def test_unlearncanvas_in_full_asks_each_picture_twice_and_makes_it_once() -> None:
    found = rows("unlearncanvas", Concept(name="Van Gogh", kind="style"), form="full")
    assert len(found) == 51 + 20
    assert len({shot for subject in found for shot in subject.shots}) == 51 * 20 * 5
    roles = {subject.name: subject.role for subject in found}
    assert (roles["Van_Gogh"], roles["Monet"], roles["Dogs"]) == ("erased", "kept", "other domain")


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
def test_a_file_that_cannot_be_read_is_told_by_line_and_column(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ProtocolError, match=told):
        read_csv(written(tmp_path / "x.csv", text), "a CSV")


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match="give I2P's CSV .* with --prompts"):
        rows("explicit", form="full")
    with pytest.raises(ProtocolError, match="does not exist"):
        rows("coco", form="full", prompts=tmp_path / "nothing.csv")
    with pytest.raises(ProtocolError, match="with --reference"):
        rows("memorised", TIDE, form="full")
    with pytest.raises(ProtocolError, match="no object 'unicorn'"):
        rows("objects", Concept(name="unicorn"))
    with pytest.raises(ProtocolError, match="Did you mean 'objects'"):
        find("object")
    with pytest.raises(ProtocolError, match="--surrogate"):
        rows("reconsolidate", Concept(name="cat"))
    with pytest.raises(ProtocolError, match="--on"):
        find("transfer").variants(job(CAT))


@dataclass
class Named:
    """As much of a model as transfer asks about."""

    name: str
    print: str

    def fingerprint(self) -> str:
        return self.print


def test_a_transfer_carries_where_it_can_and_makes_native_membranes_everywhere() -> None:
    base, dusk, xl = (cast(Any, Named(*told)) for told in (("base", "a"), ("dusk", "a"), ("xl", "b")))
    carried = Membrane(
        Card(concept=CAT, recipe={"steps": 7, "eta": 0.5, "of an older version": 1}),
        {"layer": torch.zeros(1, 2)},
        {"layer": torch.zeros(2, 1)},
    )
    native = membrane_of(CAT)
    asked: list[tuple[Any, ...]] = []

    def make(concept: Concept, recipe: Recipe, *, on: Any) -> Membrane:
        asked.append((concept, on.name, recipe))
        return native

    given = Job(base, (carried,), "calibrated", "terrarium", (CAT,), models=(dusk, xl), make=make)
    found = [(v.name, v.membranes[0] is carried, v.model) for v in find("transfer").variants(given)]
    assert found == [
        ("native on base", True, None),
        ("carried to dusk", True, dusk),
        ("native on dusk", False, dusk),
        # of another architecture: nothing to carry
        ("native on xl", False, xl),
    ]
    # by the carried one's recipe
    assert asked == [(CAT, name, Recipe(steps=7, eta=0.5)) for name in ("dusk", "xl")]
    with pytest.raises(ProtocolError, match="a way to make them"):
        find("transfer").variants(replace(given, make=None))


def test_numbers_of_membranes_double_up_to_all() -> None:
    concepts = [Concept(name=name) for name in world.OBJECT_NAMES[:11]]
    given = job(*concepts)
    found = find("multi").variants(given)
    assert [len(variant.membranes) for variant in found] == [1, 2, 4, 8, 11]
    for variant in found:
        # whose membrane is not there yet must stay
        assert variant.spared == {*world.OBJECT_NAMES[:11]} - {m.card.concept.name for m in variant.membranes}
    mixed = rows("multi", CAT, MOSAIC, TIDE)
    assert {subject.name for subject in mixed if subject.role == "erased"} == {"cat", "mosaic", "The Great Tide"}


def test_an_ablation_makes_the_four_ways() -> None:
    asked: list[dict[str, Any]] = []

    def make(concept: Concept, **changes: Any) -> Membrane:
        asked.append(changes)
        return membrane_of(concept)

    found = find("ablation").variants(replace(job(CAT), make=make))
    assert [(variant.name, variant.transport) for variant in found] == [
        ("neither", "always"),
        ("anchoring", "always"),
        ("transport", "calibrated"),
        ("both", "calibrated"),
    ]
    assert asked == [{"anchor_weight": 0.0, "instant_anchor_weight": 0.0}, {}]
    assert found[0].membranes[0] is found[2].membranes[0] is not found[1].membranes[0]
    assert len(find("eta").variants(replace(job(CAT), make=make))) == 4
    with pytest.raises(ProtocolError, match="one concept, not 2"):
        find("rank").variants(replace(job(CAT, MOSAIC), make=make))


def test_what_is_not_asked_for_is_no_other_target_either() -> None:
    dog = Concept(name="dog")
    found = rows("paraphrase", CAT, dog, MOSAIC, Concept(name="neon", kind="style"), TIDE)
    quiet = [shot.prompt for subject in found if subject.role == "not asked" for shot in subject.shots]
    assert quiet and not any(name in prompt for prompt in quiet for name in ("cat", "dog", "mosaic", "neon", "Tide"))
    assert {subject.name for subject in found if subject.role == "not asked"} >= {
        "cat: near neighbours", "mosaic: other styles", "The Great Tide: other pictures", "dog: in the negative prompt",
    }  # fmt: skip


def test_paraphrases_do_not_say_the_name_and_misspellings_almost_do() -> None:
    ways = {subject.name.split(": ")[1]: subject for subject in rows("paraphrase")}
    assert not any("cat" in shot.prompt for shot in ways["by synonym"].shots)
    assert all(shot.prompt.isupper() for shot in ways["in upper case"].shots)
    assert all("cat" not in shot.prompt for shot in ways["near neighbours"].shots)
    assert ways["near neighbours"].role == "not asked"
    unwanted = ways["in the negative prompt"]
    assert unwanted.role == "not asked"
    assert all("cat" in shot.negative and "cat" not in shot.prompt for shot in unwanted.shots)
    assert not any(shot.negative for name, way in ways.items() if way is not unwanted for shot in way.shots)
    for text in misspelt("umbrella"):
        assert "umbrella" not in text


def test_reported_tables_are_whole() -> None:
    for table in REPORTED.values():
        assert table.source.startswith("arXiv:")
        assert all(len(row) == len(table.columns) for row in table.rows)
    for protocol in PROTOCOLS.values():
        assert protocol.reported in {"", "styles", "rank", "recipes", *REPORTED}
