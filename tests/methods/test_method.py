"""Methods: every name resolves, settings are documented, and concepts, models and dates are checked in one place."""

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from semiperm.concept import Concept
from semiperm.erasure import Erasure, Kind
from semiperm.errors import CheckpointError, MethodError, StackError
from semiperm.methods import method as module
from semiperm.methods.method import METHODS, Method, Settings, card_of, find
from semiperm.methods.training import Run
from semiperm.models.load import model_of
from tests.tiny import tiny_pipeline

CONCEPTS = [Concept(name="cat"), Concept(name="dog")]


@pytest.fixture(scope="module")
def model() -> Any:
    return model_of(tiny_pipeline(), "tiny")


@pytest.mark.parametrize("name", METHODS)
def test_a_name_gives_its_method_with_all_that_the_list_of_methods_shows(name: str) -> None:
    method = find(name)
    assert method.name == name and method.kind in get_args(Kind)
    for text in (method.paper, method.needs, method.cost):
        assert text.strip() == text != ""
    assert issubclass(method.settings, Settings)
    assert method.settings().model_dump(mode="json"), "the defaults are valid and survive JSON"


def test_an_unknown_name_is_refused_with_the_closest_one_and_all() -> None:
    with pytest.raises(MethodError, match=f"no method 'smp'; there are {', '.join(METHODS)}. Did you mean 'spm'?"):
        find("smp")
    with pytest.raises(MethodError) as refused:
        find("hypnosis")
    assert "Did you mean" not in str(refused.value)


def attributes(documented: type) -> dict[str, str]:
    """Parse the Attributes section of a class's docstring: the text of each field."""
    _, _, section = inspect.cleandoc(documented.__doc__ or "").partition("Attributes:\n")
    found: dict[str, str] = {}
    name = ""
    for line in section.split("\n\n")[0].splitlines():
        if match := re.fullmatch(r"    (\w+): (\S.*)", line):
            name, found[match[1]] = match[1], match[2]
        else:
            assert line.startswith("        ") and name, f"{documented.__name__}: {line!r} documents no field"
            found[name] += f" {line.strip()}"
    return found


@pytest.mark.parametrize("name", METHODS)
def test_every_setting_is_documented_once(name: str) -> None:
    settings = find(name).settings
    own = [one for one in settings.__mro__ if issubclass(one, Settings)]
    named = [field for one in own for field in attributes(one)]
    assert sorted(named) == sorted(settings.model_fields)
    for one in own:
        for field, text in attributes(one).items():
            assert text.endswith("."), f"{one.__name__}.{field}: {text!r} is no sentence"


def test_several_concepts_are_refused_by_a_method_that_takes_one(monkeypatch: pytest.MonkeyPatch, model: Any) -> None:
    for name in METHODS:
        method = dataclasses.replace(find(name), make=lambda *_: pytest.fail("nothing is to be made"))
        with pytest.raises(MethodError, match="Name at least one concept"):
            method.erase(model, [], method.settings(), Run())
        if not method.many:
            with pytest.raises(MethodError, match=f"{name!r} makes one erasure for each concept, but it got 2"):
                method.erase(model, CONCEPTS, method.settings(), Run())


def test_a_method_that_takes_several_concepts_gets_all_of_them(model: Any) -> None:
    seen: list[Any] = []
    made: Any = object()

    def make(*arguments: Any) -> Erasure:
        seen.extend(arguments)
        return made

    method = Method("both", "none", "delta", "nothing", "nothing", Settings, make, many=True)
    settings, run = Settings(seed=3), Run()
    assert method.erase(model, CONCEPTS, settings, run) is made
    assert seen == [model, CONCEPTS, settings, run]


def test_a_run_that_has_nothing_to_resume_does_not_start(tmp_path: Path, model: Any) -> None:
    method = dataclasses.replace(find("spm"), make=lambda *_: pytest.fail("nothing is to be made"))
    with pytest.raises(CheckpointError, match="nothing to resume"):
        method.erase(model, CONCEPTS[:1], method.settings(), Run(tmp_path / "none.safetensors", resume=True))


@pytest.mark.parametrize("name", METHODS)
def test_other_adapters_on_the_denoiser_are_refused(name: str) -> None:
    from peft import LoraConfig

    model = model_of(tiny_pipeline())
    unet: Any = model.denoiser
    unet.add_adapter(LoraConfig(r=1, target_modules=["to_q"]))
    with pytest.raises(StackError, match=r"PEFT's \(LoRA\).*to_q"):
        find(name).erase(model, CONCEPTS[:1], find(name).settings(), Run())


# the card


def test_a_card_says_what_made_the_erasure_and_from_what(model: Any) -> None:
    settings = find("spm").settings(seed=5)
    card = card_of("spm", model, CONCEPTS, settings, kind="delta", licence="CC0-1.0")
    assert card.concepts == tuple(CONCEPTS) and card.kind == "delta"
    assert (card.base_model, card.architecture, card.fingerprint) == ("tiny", model.architecture, model.fingerprint())
    assert (card.method, card.seed, card.licence, card.gate) == ("spm", 5, "CC0-1.0", None)
    assert card.settings == settings.model_dump(mode="json")
    assert card.versions["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert card.versions.keys() == {"semiperm", "torch", "diffusers", "transformers"}


def test_source_date_epoch_gives_equal_cards_on_different_days(monkeypatch: pytest.MonkeyPatch, model: Any) -> None:
    class Clock(module.datetime.datetime):
        number = 1

        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return cls(2031, 5, cls.number, tzinfo=tz)

    monkeypatch.setattr(module.datetime, "datetime", Clock)
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)

    def card(day: int) -> Any:
        Clock.number = day
        return card_of("spm", model, CONCEPTS[:1], find("spm").settings())

    assert (card(1).date, card(2).date) == ("2031-05-01", "2031-05-02")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert card(1) == card(2) and card(1).date == "2023-11-14"
