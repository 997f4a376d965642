"""Settings by name, from YAML and from a card; an error names the field and the place where it stands."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from semiperm.concept import Concept
from semiperm.erasure import Card
from semiperm.errors import MethodError, SettingsError
from semiperm.methods.method import METHODS, Settings, find, settings_file, settings_of, settings_on
from semiperm.methods.spm.settings import LOW_VRAM, SpmSettings
from semiperm.methods.spm_published import PublishedSettings

SPM = find("spm")


def from_file(path: Path, **changes: Any) -> Settings:
    return settings_of(SPM, settings_file(path) | changes, str(path))


def test_without_values_settings_are_the_defaults() -> None:
    assert settings_of(SPM) == settings_of(SPM, {}) == SpmSettings()
    assert settings_of(find("spm-published")) == PublishedSettings()


def test_settings_are_returned_as_they_are_and_only_to_their_own_method() -> None:
    own = SpmSettings(rank=3)
    assert settings_of(SPM, own) is own
    with pytest.raises(SettingsError, match="settings of PublishedSettings, not of the method 'spm'"):
        settings_of(SPM, PublishedSettings())


def test_the_published_method_has_the_papers_settings() -> None:
    settings = PublishedSettings()
    assert (settings.eta, settings.anchor_weight, settings.anchors, settings.rank) == (1.0, 1000.0, 4, 1)
    assert (settings.steps, settings.learning_rate) == (3000, 1e-4)
    assert (settings.guidance, settings.trajectory_steps) == (3.0, 30)


def test_the_preset_for_little_memory_is_made_of_settings() -> None:
    settings = settings_of(SPM, LOW_VRAM)
    assert {name: getattr(settings, name) for name in LOW_VRAM} == LOW_VRAM
    assert settings != SpmSettings()


def test_yaml_overrides_the_defaults_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("eta: 3\nsteps: 12\nmore_anchors: [a dog, a kite]\nlearning_rate: 0.002\nprecision: bfloat16\n")
    changed = {"eta": 3.0, "steps": 12, "more_anchors": ("a dog", "a kite")}
    changed |= {"learning_rate": 0.002, "precision": "bfloat16"}
    settings = from_file(file)
    for name in SpmSettings.model_fields:
        assert getattr(settings, name) == changed.get(name, getattr(SpmSettings(), name))


def test_an_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("# nothing yet\n")
    assert from_file(tmp_path / "empty.yaml") == SpmSettings()


def test_changes_override_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("steps: 12\neta: 2.0\n")
    assert from_file(tmp_path / "a.yaml", steps=3) == SpmSettings(steps=3, eta=2.0)


@pytest.mark.parametrize("name", METHODS)
def test_settings_survive_their_own_yaml(tmp_path: Path, name: str) -> None:
    method = find(name)
    settings = method.settings(seed=7)
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    assert settings_of(method, settings_file(tmp_path / "own.yaml")) == settings


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("stpes: 3\n", "stpes"),
        ("steps: many\n", "steps"),
        ("precision: float8\n", "precision"),
        ("steps: -1\n", "steps"),
        ("anchors: 0\n", "anchors"),
        ("states: 0\n", "states"),
        ("rank: 0\n", "rank"),
        ("refresh: 0\n", "refresh"),
        ("checkpoint_every: 0\n", "checkpoint_every"),
        ("neighbours: 1.5\n", "neighbours"),
        # One step has only pure noise, which is not trained on.
        ("trajectory_steps: 1\n", "trajectory_steps"),
        ("instant_ridge: 0\n", "instant_ridge"),
        ("eta: .nan\n", "eta"),
        ("eta: .inf\n", "eta"),
        ("more_anchors: [a dog, 3]\n", "more_anchors.1"),
        ("3: 4\n", "by name"),
        ("- steps\n", "by name"),
        ("just words\n", "by name"),
        ("steps: [1\n", "not YAML"),
    ],
)
def test_a_malformed_file_is_refused_with_file_and_field(tmp_path: Path, text: str, field: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(SettingsError) as refused:
        from_file(file)
    assert field in str(refused.value) and str(file) in str(refused.value)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_bytes(b"\xff\xfe\x00steps")
    with pytest.raises(SettingsError, match="not YAML"):
        settings_file(tmp_path / "bad.yaml")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(SettingsError, match=f"no settings file {path}"):
            settings_file(path)


def test_a_misspelt_setting_is_refused_with_the_closest_one() -> None:
    with pytest.raises(SettingsError, match="the method 'spm' has no setting 'stpes'. Did you mean 'steps'"):
        settings_of(SPM, {"stpes": 3})
    with pytest.raises(SettingsError, match="has no setting 'learningrate'. Did you mean 'learning_rate'"):
        settings_of(find("spm-published"), {"learningrate": 1e-3})
    with pytest.raises(SettingsError) as refused:
        settings_of(SPM, {"colour": 1}, "--set")
    assert "--set" in str(refused.value)
    assert all(name in str(refused.value) for name in SpmSettings.model_fields), "all settings are listed"


@pytest.mark.parametrize("changes", [{"steps": -3}, {"seed": "x"}, {"rank": 1.5}])
def test_wrong_values_are_refused_with_their_field(changes: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=f"the settings: {next(iter(changes))}: "):
        settings_of(SPM, changes)


@pytest.mark.parametrize("name", METHODS)
def test_settings_do_not_change(name: str) -> None:
    settings: Any = find(name).settings()
    with pytest.raises(ValidationError):
        settings.seed = 3


def test_a_card_of_another_version_is_read_as_far_as_it_is_understood() -> None:
    kept = {"steps": 7, "rank": 1}
    card = Card(concepts=(Concept(name="cat"),), method="spm", settings={**kept, "of another version": 1})
    assert settings_on(card) == kept
    assert settings_of(SPM, settings_on(card) | {"seed": 3}) == SpmSettings(steps=7, rank=1, seed=3)
    with pytest.raises(SettingsError, match="its card: steps"):
        settings_of(SPM, settings_on(card.model_copy(update={"settings": {"steps": -7}})), "its card")


def test_the_card_of_an_erasure_gives_its_settings_back() -> None:
    settings = SpmSettings(steps=7, more_anchors=("a kite",), at_once=3)
    card = Card(concepts=(Concept(name="cat"),), method="spm", settings=settings.model_dump())
    again = Card.model_validate_json(card.model_dump_json())
    assert settings_of(SPM, settings_on(again)) == settings


@pytest.mark.parametrize("facts", [{}, {"method": "spm"}, {"settings": {"steps": 3}}])
def test_a_card_that_does_not_say_how_is_refused(facts: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="The card of 'cat' does not say how it was made"):
        settings_on(Card(concepts=(Concept(name="cat"),), **facts))


def test_a_card_of_an_unknown_method_is_refused() -> None:
    with pytest.raises(MethodError, match="no method 'spn'"):
        settings_on(Card(concepts=(Concept(name="cat"),), method="spn", settings={"steps": 3}))


def test_every_phrase_has_a_rank_of_its_own_and_the_phrases_share_the_learning_rate() -> None:
    weapons = Concept(name="weapon", targets=("bomb", "knife", "axe"), kind="explicit")
    assert SpmSettings(rank=3).rank_for(weapons) == 9 and SpmSettings(rank=3).rank_for(Concept(name="cat")) == 3
    assert SpmSettings(learning_rate=6e-3).learning_rate_for(weapons) == pytest.approx(2e-3)
    assert SpmSettings().learning_rate_for(Concept(name="cat")) == SpmSettings().learning_rate
