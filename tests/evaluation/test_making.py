"""Erasures that runs make are made once, kept by model, and the same in a run that resumes."""

from pathlib import Path
from typing import Any

from semiperm.concept import Concept
from semiperm.evaluation import making
from semiperm.evaluation.making import maker
from semiperm.evaluation.sources import erasure_digest
from semiperm.methods.training import beside
from semiperm.models.load import model_of
from tests.tiny import tiny_pipeline

CAT = Concept(name="cat")
INSTANT = {"steps": 0}


def test_an_erasure_is_made_once_and_stays_the_same(tmp_path: Path) -> None:
    make = maker(model_of(tiny_pipeline(), "one"), tmp_path)
    made = make(CAT, settings=INSTANT)
    (path,) = tmp_path.glob("*.safetensors")
    when = path.stat().st_mtime_ns
    # stores compare erasures by this
    assert erasure_digest(make(CAT, settings=INSTANT)) == erasure_digest(made)
    assert path.stat().st_mtime_ns == when


def test_another_models_erasures_have_a_folder_of_their_own(tmp_path: Path) -> None:
    model, other = model_of(tiny_pipeline(), "one"), model_of(tiny_pipeline(), "terrarium:dusk")
    make = maker(model, tmp_path)
    assert make(CAT, settings=INSTANT, on=model).card.base_model == "one"
    assert make(CAT, settings=INSTANT, on=other).card.base_model == "terrarium:dusk"
    found = sorted(str(path.parent.relative_to(tmp_path)) for path in tmp_path.rglob("*.safetensors"))
    assert found == [".", "terrarium-dusk"]


def test_a_training_that_was_stopped_is_resumed(tmp_path: Path, monkeypatch: Any) -> None:
    asked: list[dict[str, Any]] = []
    real = making.erase

    def erase(*args: Any, **kwargs: Any) -> Any:
        asked.append(kwargs)
        if len(asked) == 1:
            beside(kwargs["out"]).touch()
            raise KeyboardInterrupt
        # The first call left no checkpoint that could be read.
        beside(kwargs["out"]).unlink()
        return real(*args, **{**kwargs, "resume": False})

    monkeypatch.setattr(making, "erase", erase)
    steps: list[Any] = []
    make = maker(model_of(tiny_pipeline(), "one"), tmp_path, progress=steps.append)
    try:
        make(CAT, settings=INSTANT)
    except KeyboardInterrupt:
        make(CAT, settings=INSTANT)
    assert [call["resume"] for call in asked] == [False, True]
    assert all(call["progress"] == steps.append for call in asked)
