"""Names of models: registered ones with their variants, Hub ids, and what is neither."""

from pathlib import Path

import pytest

from semiperm.errors import ModelLoadError, RelativeError
from semiperm.models import names
from semiperm.models.load import load_model
from semiperm.models.names import is_hub_id, locate, register, registered
from tests.tiny import tiny_pipeline


@pytest.fixture
def pond(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Registers "pond", a model with one variant, for one test."""
    monkeypatch.setattr(names, "_LOCATORS", dict(names._LOCATORS))

    def find(variant: str) -> Path:
        if variant not in ("", "deep"):
            raise ModelLoadError(f"The pond has no variant {variant!r}; it has 'deep'.")
        return tmp_path / (variant or "plain")

    register("pond", find)
    return tmp_path


def test_a_registered_name_is_located_with_its_variant(pond: Path) -> None:
    assert "pond" in registered() and registered() == sorted(registered())
    assert locate("pond") == locate("pond:") == pond / "plain"
    assert locate("pond:deep") == pond / "deep"
    for other in ("", "ponds", "deep", "deep:pond", "user/pond", str(pond)):
        assert locate(other) is None


def test_a_registered_model_is_loaded_under_its_name(pond: Path) -> None:
    tiny_pipeline(seed=0).save_pretrained(pond / "plain")
    tiny_pipeline(prediction_type="v_prediction").save_pretrained(pond / "deep")
    plain, deep = load_model("pond", device="cpu"), load_model("pond:deep", device="cpu")
    assert (plain.name, plain.prediction_type) == ("pond", "epsilon")
    assert (deep.name, deep.prediction_type) == ("pond:deep", "v_prediction")


def test_an_unknown_variant_is_refused_in_the_words_of_its_package(pond: Path) -> None:
    with pytest.raises(ModelLoadError, match="no variant 'shallow'; it has 'deep'"):
        load_model("pond:shallow")
    with pytest.raises(ModelLoadError, match="is not a diffusers folder|neither"):
        # It is registered, but nothing is there.
        load_model("pond:deep")


def test_an_unknown_relative_of_the_terrarium_is_refused() -> None:
    with pytest.raises(RelativeError, match="no relative 'nonesuch'"):
        load_model("terrarium:nonesuch")


def test_the_message_about_an_unknown_name_lists_the_registered_ones(pond: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"neither 'pond', 'terrarium', nor.*Did you mean 'pond'\?"):
        load_model("ponb")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("user/repo", True),
        ("runwayml/stable-diffusion-v1-5", True),
        ("user_1/repo.v2", True),
        ("repo", False),
        ("a/b/c", False),
        ("./folder", False),
        ("../user/repo", False),
        ("/user/repo", False),
        ("user/", False),
        ("user/file.safetensors", False),
        ("user/FILE.SAFETENSORS", False),
        ("user/re po", False),
        ("user/repo\n", False),
        ("terrarium:dusk", False),
        ("", False),
    ],
)
def test_a_hub_id_is_two_names_and_no_checkpoint(name: str, expected: bool) -> None:
    assert is_hub_id(name) == expected
