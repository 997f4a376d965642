"""Model offloading: text encoders and denoiser alternate on the device, and training follows the denoiser."""

from typing import Any

import pytest
import torch
from accelerate import cpu_offload_with_hook
from accelerate.hooks import CpuOffload, add_hook_to_module
from torch import nn

from semiperm.api import erase
from semiperm.membrane import Membrane
from semiperm.methods.spm.settings import SpmSettings
from semiperm.methods.spm_published import PublishedSettings
from semiperm.models.load import model_of
from tests.helpers import same_bits
from tests.methods.few_words import use_few_words
from tests.tiny import tiny_flux_pipeline, tiny_pipeline, tiny_qwen_pipeline, tiny_sd3_pipeline

SHORT = SpmSettings(steps=4, states=2, anchors=4, trajectories=2, trajectory_steps=3, refresh=2)
FAMILIES = {"sd": tiny_pipeline, "sd3": tiny_sd3_pipeline, "flux": tiny_flux_pipeline, "qwen": tiny_qwen_pipeline}


class Turns(CpuOffload):
    """Offloading to the meta device, which every machine has and which computes nothing."""

    def __init__(self, turns: list[str]) -> None:
        super().__init__(torch.device("meta"))
        self.turns = turns

    def init_hook(self, module: nn.Module) -> nn.Module:
        self.turns.append("rest")
        return module.to_empty(device="cpu")

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        self.turns.append("wake")
        return super().pre_forward(module, *args, **kwargs)


@pytest.fixture
def few_words(monkeypatch: pytest.MonkeyPatch) -> None:
    use_few_words(monkeypatch)


@pytest.mark.parametrize("kind", list(FAMILIES))
def test_the_denoiser_is_offloaded_before_text_is_encoded(kind: str) -> None:
    model = model_of(FAMILIES[kind]())
    wanted = model.encode(["a cat"])
    turns: list[str] = []
    add_hook_to_module(model.called, Turns(turns))
    assert turns.pop() == "rest"
    model.wake()
    assert next(model.called.parameters()).is_meta and turns == ["wake"]
    found = model.encode(["a cat"])
    assert turns == ["wake", "rest"] and not next(model.called.parameters()).is_meta
    assert torch.equal(found.hidden_BTC, wanted.hidden_BTC) and found.hidden_BTC.device == torch.device("cpu")
    model.encode(["a dog"])
    assert turns == ["wake", "rest"]


def test_without_offloading_nothing_is_moved() -> None:
    model = model_of(tiny_pipeline())
    model.wake()
    model.denoiser.to("meta")
    model.encode(["a cat"])
    assert next(model.denoiser.parameters()).is_meta and model.text_device == model.device


@pytest.mark.usefixtures("few_words")
@pytest.mark.parametrize("kind", ["sd", "sd3"])
def test_a_membrane_in_training_follows_the_denoiser(kind: str) -> None:
    plain = erase(FAMILIES[kind](), "cat", "spm", SHORT)
    pipeline = FAMILIES[kind]()
    model = model_of(pipeline)
    cpu_offload_with_hook(model.called, "cpu")
    # Moving to another device makes other tensors with the same numbers, under no_grad as the hook does it.
    model.called.register_forward_pre_hook(lambda module, _: module._apply(torch.clone) and None)
    made = erase(model, "cat", "spm", SHORT)
    assert isinstance(made, Membrane) and isinstance(plain, Membrane)
    assert same_bits(made, plain)


@pytest.mark.usefixtures("few_words")
@pytest.mark.parametrize(("kind", "method"), [("sd", "spm"), ("sd3", "spm"), ("sd", "spm-published")])
def test_no_text_is_encoded_while_the_denoiser_is_trained(
    kind: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(FAMILIES[kind]())
    seen: list[str] = []
    encode, predict = model.encode, model.predict
    monkeypatch.setattr(model, "encode", lambda prompts: seen.append("encode") or encode(prompts))
    monkeypatch.setattr(model, "predict", lambda *args: seen.append("predict") or predict(*args))
    erase(model, "cat", method, SHORT if method == "spm" else PublishedSettings(steps=4, trajectory_steps=3))
    first = seen.index("predict")
    # The self-check at the end encodes two texts of its own.
    assert seen[first:].count("encode") == 2
    assert "predict" not in seen[seen.index("encode", first) :][:2]
