"""The adapter itself: its pairs, its card, its algebra, and which layers it fits."""

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from semiperm.erasure import Card
from semiperm.errors import CoverageError, listed
from semiperm.gate import ProbeGate
from semiperm.membrane import Membrane
from semiperm.models.layers import erasable_layers, fingerprint
from tests.helpers import card, random_membrane, same_bits
from tests.tiny import tiny_pipeline, tiny_xl_pipeline


def layers() -> dict[str, nn.Module]:
    return {"linear": nn.Linear(6, 4), "conv": nn.Conv2d(5, 3, (3, 2))}


def test_zero_has_the_shapes_of_its_layers_and_changes_nothing() -> None:
    membrane = Membrane.zero(layers(), card(), rank=2)
    assert membrane.down["linear"].shape == (2, 6) and membrane.up["linear"].shape == (4, 2)
    assert membrane.down["conv"].shape == (2, 5, 3, 2) and membrane.up["conv"].shape == (3, 2, 1, 1)
    assert all(not membrane.delta(path).any() for path in membrane.down)
    assert {tensor.dtype for tensor in (*membrane.down.values(), *membrane.up.values())} == {torch.float32}
    assert membrane.size == 2 * (6 + 4) + 2 * (5 * 6 + 3)


def test_zero_draws_down_uniformly_within_one_over_the_root_of_the_fan_in() -> None:
    down = Membrane.zero({"wide": nn.Linear(4096, 2)}, card(), generator=torch.Generator().manual_seed(0)).down["wide"]
    assert down.abs().max() <= 1 / 64
    assert down.std().item() == pytest.approx(1 / 64 / math.sqrt(3), rel=0.05)


def test_zero_repeats_for_a_seed() -> None:
    made = [Membrane.zero(layers(), card(), 3, torch.Generator().manual_seed(5)) for _ in range(2)]
    assert same_bits(*made)
    assert not same_bits(made[0], Membrane.zero(layers(), card(), 3, torch.Generator().manual_seed(6)))


def test_the_card_is_filled_in_from_the_layers() -> None:
    membrane = Membrane.zero(layers(), card(base_model="here"), rank=2)
    assert (membrane.card.layers, membrane.card.rank, membrane.rank) == (2, 2, 2)
    assert membrane.card.fingerprint == fingerprint(layers())
    assert membrane.card.base_model == "here"


def test_a_card_that_promises_other_weights_is_refused() -> None:
    membrane = random_membrane(layers())
    with pytest.raises(ValueError, match="promises layers = 3, but the weights have 2"):
        membrane.with_card(layers=3)
    with pytest.raises(ValueError, match="promises rank = 4"):
        membrane.with_card(rank=4)


def test_the_card_survives_json() -> None:
    written = card(
        method="spm",
        settings={"steps": 100, "betas": (0.9, 0.999)},
        gate=ProbeGate(weight=(0.1, 1e-17), bias=0.5, threshold=0.25, phrases=("cat", "cats")),
        effect={"target": 0.25},
        seed=3,
    )
    assert Card.model_validate_json(written.model_dump_json()) == written
    assert written.settings["betas"] == [0.9, 0.999]


@pytest.mark.parametrize(
    "wrong",
    [
        {"settings": {"x": object()}},
        {"effect": {"x": math.nan}},
        {"unknown": 1},
        {"concepts": ()},
        {"gate": {"kind": "other/1", "weight": [0.0], "bias": 0, "threshold": 0}},
    ],
)
def test_a_card_that_no_file_could_hold_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        card(**wrong)


@pytest.mark.parametrize(
    ("down", "up", "said"),
    [
        ({}, {}, "at least one layer"),
        ({"a": torch.zeros(1, 3)}, {"b": torch.zeros(2, 1)}, "only one of them has a, b"),
        ({"a": torch.zeros(2, 3)}, {"a": torch.zeros(2, 1)}, "layer a: down"),
        ({"a": torch.zeros(1, 3)}, {"a": torch.zeros(2, 1, 1, 1)}, "layer a: down"),
        ({"a": torch.zeros(1, 3, 1, 1)}, {"a": torch.zeros(2, 1, 3, 3)}, "layer a: down"),
        ({"a": torch.zeros(0, 3)}, {"a": torch.zeros(2, 0)}, "layer a: down"),
        ({"a": torch.zeros(1, 3, dtype=torch.int64)}, {"a": torch.zeros(2, 1)}, "int64"),
        (
            {"a": torch.zeros(1, 3), "b": torch.zeros(2, 3)},
            {"a": torch.zeros(2, 1), "b": torch.zeros(2, 2)},
            r"1 \(in a\) and 2 \(in b\)",
        ),
    ],
)
def test_pairs_that_do_not_fit_are_refused(
    down: dict[str, torch.Tensor], up: dict[str, torch.Tensor], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        Membrane(card(), down, up)


def test_delta_is_up_times_down() -> None:
    membrane = random_membrane(layers(), rank=2)
    assert torch.allclose(membrane.delta("linear"), membrane.up["linear"] @ membrane.down["linear"])
    by_hand = torch.einsum("or,rikl->oikl", membrane.up["conv"][:, :, 0, 0], membrane.down["conv"])
    assert torch.allclose(membrane.delta("conv"), by_hand)


def test_with_card_and_to_leave_the_original_alone() -> None:
    membrane = random_membrane(layers())
    half = membrane.with_card(licence="MIT").to(dtype=torch.float16)
    assert half.card.licence == "MIT" and membrane.card.licence == ""
    assert half.up["conv"].dtype == torch.float16 and membrane.up["conv"].dtype == torch.float32


def test_it_covers_the_model_it_was_made_for() -> None:
    found = erasable_layers(tiny_pipeline().unet)
    random_membrane(found).check_covers(found)


def test_missing_and_foreign_layers_are_named() -> None:
    found = erasable_layers(tiny_pipeline().unet)
    first, *rest = found
    partial = {path: found[path] for path in rest} | {"elsewhere": nn.Linear(2, 2)}
    with pytest.raises(CoverageError) as caught:
        random_membrane(partial, name="dog").with_card(base_model="some model").check_covers(found)
    assert caught.value.missing == (first,) and caught.value.foreign == ("elsewhere",)
    for told in ("'dog'", "some model", first, "elsewhere"):
        assert told in str(caught.value)


def test_another_architecture_is_refused_by_layer() -> None:
    membrane = random_membrane(erasable_layers(tiny_pipeline().unet))
    with pytest.raises(CoverageError, match="does not fit this model") as caught:
        membrane.check_covers(erasable_layers(tiny_xl_pipeline().unet))
    assert any("attn2.to_k" in path for path in caught.value.misshapen)


def test_layers_of_another_kind_are_refused() -> None:
    with pytest.raises(CoverageError, match="layer norm is a LayerNorm"):
        Membrane.zero({"norm": nn.LayerNorm(3)}, card())


@pytest.mark.parametrize("made_with", [False, True])
def test_conv_and_linear_projections_convert_without_loss(made_with: bool) -> None:
    here = erasable_layers(tiny_pipeline(linear_projection=made_with).unet)
    there = erasable_layers(tiny_pipeline(linear_projection=not made_with).unet)
    membrane = random_membrane(here)
    carried = membrane.fitted_to(there)
    assert membrane.card.fingerprint == fingerprint(there)
    assert {down.ndim for down in carried.down.values()} == ({2, 4} if made_with else {2})
    for path in here:
        assert torch.equal(carried.delta(path).flatten(), membrane.delta(path).flatten())
    assert same_bits(carried.fitted_to(here), membrane)


def test_a_larger_kernel_is_no_linear_layer() -> None:
    with pytest.raises(CoverageError) as caught:
        random_membrane({"a": nn.Conv2d(4, 4, 3)}).check_covers({"a": nn.Linear(4, 4)})
    assert caught.value.misshapen == ("a",)


def test_long_lists_are_cut_for_messages() -> None:
    assert listed("abc") == "a, b, c"
    assert listed(map(str, range(10)), limit=2) == "0, 1 and 8 more"
