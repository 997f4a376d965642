"""Membranes that protocols make are made once, kept by model, and the same in a run that goes on."""

from pathlib import Path

from semiperm.concept import Concept
from semiperm.evaluation.making import maker
from semiperm.evaluation.sources import membrane_digest
from semiperm.models.load import model_of
from tests.tiny import tiny_pipeline

CAT = Concept(name="cat")


def test_a_membrane_is_made_once_and_stays_the_same(tmp_path: Path) -> None:
    make = maker(model_of(tiny_pipeline(), "one"), tmp_path)
    made = make(CAT, "instant")
    (path,) = tmp_path.glob("*.safetensors")
    when = path.stat().st_mtime_ns
    # stores tell membranes apart by this
    assert membrane_digest(make(CAT, "instant")) == membrane_digest(made)
    assert path.stat().st_mtime_ns == when


def test_another_models_membranes_have_a_folder_of_their_own(tmp_path: Path) -> None:
    model, other = model_of(tiny_pipeline(), "one"), model_of(tiny_pipeline(), "terrarium:dusk")
    make = maker(model, tmp_path)
    assert make(CAT, "instant", on=model).card.base_model == "one"
    assert make(CAT, "instant", on=other).card.base_model == "terrarium:dusk"
    found = sorted(str(path.parent.relative_to(tmp_path)) for path in tmp_path.rglob("*.safetensors"))
    assert found == [".", "terrarium-dusk"]
