"""A model's `tokens` are the ids of its `encode`, and cost no pass of a text encoder."""

from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

from semiperm.models.load import model_of
from semiperm.models.model import DiffusionModel
from tests.tiny import (
    tiny_flux_pipeline,
    tiny_pipeline,
    tiny_pixart_pipeline,
    tiny_qwen_pipeline,
    tiny_sd3_pipeline,
    tiny_xl_pipeline,
)

KINDS: dict[str, Callable[[], Any]] = {
    "sd": tiny_pipeline,
    "sdxl": tiny_xl_pipeline,
    "sd3": tiny_sd3_pipeline,
    "sd3 without t5": lambda: tiny_sd3_pipeline(t5=False),
    "flux dev": tiny_flux_pipeline,
    "flux schnell": lambda: tiny_flux_pipeline(dev=False),
    "pixart sigma": tiny_pixart_pipeline,
    "pixart alpha": lambda: tiny_pixart_pipeline(sigma=False),
    "qwen image": tiny_qwen_pipeline,
}
PROMPTS = [
    "a cat",
    "",
    " ",
    " cat",
    "a cat on a street\n\nand a dog\n",
    "No Dog,  two CATS!",
    "été 猫 :-)",
    "a large red house in the sky " * 3,
    "cat " * 700,
    "cat\n" * 700,
]


@pytest.fixture(params=KINDS, scope="module")
def model(request: pytest.FixtureRequest) -> DiffusionModel:
    return model_of(KINDS[request.param]())


def text_encoders(model: DiffusionModel) -> list[nn.Module]:
    parts = model.pipeline.components
    return [part for name, part in parts.items() if name.startswith("text_encoder") and part is not None]


def test_tokens_are_the_ids_that_encode_gives(model: DiffusionModel) -> None:
    found = model.encode(PROMPTS)
    assert found.ids == model.tokens(PROMPTS)
    assert found.ids is not None and len(found.ids[0]) >= 2
    # Every token has a state.
    assert max(map(len, found.ids)) + found.start <= found.hidden_BTC.shape[1]


def test_tokens_of_a_prompt_do_not_depend_on_the_others(model: DiffusionModel) -> None:
    together = model.tokens(PROMPTS)
    assert together == tuple(model.tokens([prompt])[0] for prompt in PROMPTS)
    assert model.tokens("a cat") == together[:1]


def test_the_text_encoders_do_not_run(model: DiffusionModel, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = model.encode(PROMPTS).ids

    def refuse(*_: Any, **__: Any) -> Any:
        raise RuntimeError("a text encoder ran")

    assert text_encoders(model)
    for encoder in text_encoders(model):
        monkeypatch.setattr(encoder, "forward", refuse)
    assert model.tokens(PROMPTS) == wanted
    with pytest.raises(RuntimeError, match="a text encoder ran"):
        model.encode(["a cat"])
