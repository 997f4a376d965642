"""What must hold on every device: nothing mixes devices, closed equals bare, and results come back to the CPU."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from semiperm.api import erase
from semiperm.conditioning import digests
from semiperm.erasure import WeightDelta
from semiperm.evaluation.clip_model import Clip
from semiperm.evaluation.worlds.terrarium_judge import TerrariumJudge
from semiperm.files.export import merge
from semiperm.files.safetensors import load, save
from semiperm.gate import Gate, OpenGate, PaperGate, Shown, fit_probe, judge
from semiperm.guarded import Guard
from semiperm.membrane import Membrane
from semiperm.methods import trajectories
from semiperm.methods.calibrate import adopted
from semiperm.methods.spm.closed_form import firmest, solve
from semiperm.methods.spm.settings import SpmSettings
from semiperm.methods.spm_published import PublishedSettings
from semiperm.methods.training import Stopped  # pyright: ignore[reportPrivateImportUsage]
from semiperm.models.load import load_model, model_of
from semiperm.stack import Stack
from semiperm.terrarium import WEIGHTS
from tests.devices.place import Place
from tests.helpers import card, inputs, random_membrane
from tests.methods.few_words import use_few_words
from tests.tiny import (
    tiny_flux_pipeline,
    tiny_pipeline,
    tiny_pixart_pipeline,
    tiny_qwen_pipeline,
    tiny_sd3_pipeline,
    tiny_xl_pipeline,
)

FAMILIES: dict[str, Callable[[], Any]] = {
    "sd": tiny_pipeline,
    "sdxl": tiny_xl_pipeline,
    "sd3": tiny_sd3_pipeline,
    "flux": tiny_flux_pipeline,
    "pixart": tiny_pixart_pipeline,
    "qwen": tiny_qwen_pipeline,
}
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
SHORT = SpmSettings(steps=2, states=2, anchors=3, trajectories=1, trajectory_steps=3, refresh=2)
CPU = torch.device("cpu")
STEPS = 2


class ByWord(Gate):
    """Opens fully where the word is among the tokens, and for embeddings without tokens."""

    word: str = "cat"

    def gamma(self, shown: Shown) -> Tensor:
        if shown.text.ids is None:
            return torch.ones(len(shown.text))
        (wanted,) = shown.reader.tokens([f" {self.word}"])
        return torch.tensor([float(set(wanted) <= set(row)) for row in shown.text.ids])


def guarded(pipeline: Any, **how: Any) -> Guard:
    model = model_of(pipeline)
    return Guard(model, [random_membrane(model.erasable_layers())], gate=lambda _: ByWord(), **how)


def pictures(call: Any, prompts: list[str], generators: list[torch.Generator] | None = None, **more: Any) -> Any:
    if generators is None:
        generators = [torch.Generator().manual_seed(seed) for seed in range(len(prompts))]
    more = {"num_inference_steps": STEPS, "output_type": "latent", **more}
    if type(getattr(call, "pipeline", call)).__name__.startswith("PixArt"):
        # the pipeline draws large pictures by default
        more |= {"height": 64, "width": 64, "use_resolution_binning": False}
    return call(prompt=prompts, generator=generators, **more)


def words(pipeline: Any, prompts: list[str]) -> dict[str, Any]:
    """Return the prompts as embeddings, as the pipeline's call takes them."""
    states, negative = pipeline.encode_prompt(prompts, pipeline.device, 1, True, [""] * len(prompts))
    return {"prompt": None, "prompt_embeds": states, "negative_prompt_embeds": negative}


class Behaviours:
    """The tests; a subclass gives the fixture `place`."""

    @pytest.fixture
    def few_words(self, monkeypatch: pytest.MonkeyPatch) -> None:
        use_few_words(monkeypatch)

    # gates

    @pytest.mark.parametrize("dtype", list(DTYPES))
    @pytest.mark.parametrize("family", list(FAMILIES))
    def test_gates_judge_text_on_the_device(self, place: Place, family: str, dtype: str) -> None:
        model = model_of(FAMILIES[family]().to(place.device, DTYPES[dtype]))
        asking, others = ["a cat", "a cat in the street", "cat"], ["a dog", "a red house", "a tree"]
        target, rest = model.encode(asking), model.encode(others)
        assert target.hidden_BTC.device == place.device
        assert target.mask_BT is not None
        parts = (target.mask_BT, *target.condition.values())
        assert {part.device for part in parts} == {place.device}
        probe = fit_probe(target.hidden_BTC[:, target.start + 1], target, rest, phrases=["cat"])
        gates = [probe, PaperGate(phrases=("cat",)), OpenGate(), probe]
        gamma_BK = judge(gates, Shown(model.encode(asking + others), model))
        assert gamma_BK.device == CPU and gamma_BK.shape == (6, 4)
        assert gamma_BK[:3, 0].eq(1).all() and gamma_BK[3:, 0].eq(0).all()

    def test_rows_on_the_device_are_known_by_the_same_digest(self, place: Place) -> None:
        for dtype in DTYPES.values():
            rows = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
            assert digests(rows.to(place.device)) == digests(rows)

    # the stack

    @pytest.mark.parametrize("dtype", list(DTYPES))
    @pytest.mark.parametrize("linear", [True, False])
    def test_closed_equals_bare_on_the_device(self, place: Place, dtype: str, linear: bool) -> None:
        unet = tiny_pipeline(linear_projection=linear).unet.to(place.device, DTYPES[dtype])
        x, t, text = inputs()
        x, text = x.to(place.device, DTYPES[dtype]), text.to(place.device, DTYPES[dtype])

        def predict() -> Tensor:
            with torch.no_grad():
                return unet(x, t, text).sample

        bare = predict()
        stack = Stack(unet)
        stack.add("cat", random_membrane(stack.layers))
        with stack:
            stack.add("dog", random_membrane(stack.layers, rank=2, seed=1).to(device=place.device))
            assert torch.equal(predict(), bare)
            gammas = torch.tensor([[0.0, 0.0], [1.0, 0.5]]), torch.tensor([[0.0, 0.0], [0.5, 0.0]]).to(place.device)
            for gamma in gammas:
                stack.set_permeability(gamma)
                before = len(place.waits or ())
                some = predict()
                assert len(place.waits or ()) == before, "an open layer makes the host wait"
                assert torch.equal(some[0], bare[0]) and not torch.equal(some[1], bare[1])
            stack.set_permeability(torch.ones(1, 2))
            assert {buffer.device for buffer in unet.buffers()} == {place.device}
            assert not torch.equal(predict(), bare)
            stack.close()
            assert torch.equal(predict(), bare)
        assert torch.equal(predict(), bare)

    def test_a_stack_follows_its_denoiser_to_the_device(self, place: Place) -> None:
        unet = tiny_pipeline().unet
        stack = Stack(unet)
        stack.add("cat", random_membrane(stack.layers))
        x, t, text = inputs()
        with stack, torch.no_grad():
            stack.set_permeability(torch.tensor([[1.0], [0.5]]))
            here = unet(x, t, text).sample
            unet.to(place.device)
            there = unet(x.to(place.device), t, text.to(place.device)).sample
            assert there.device == place.device
            torch.testing.assert_close(there.cpu(), here, rtol=1e-3, atol=1e-3)
            assert all(tensor.device == place.device for tensor in stack.trainable("cat"))

    # methods

    def test_the_closed_form_takes_tensors_on_the_device(self, place: Place) -> None:
        draw = torch.Generator().manual_seed(0)
        weight, target, surrogate, anchors = (torch.randn(n, 8, generator=draw) for n in (6, 3, 3, 20))
        how = {"eta": 1.0, "anchor_weight": 1.0, "ridge": 0.1}
        there = [value.to(place.device) for value in (target, surrogate, anchors)]
        ((up, down),) = solve([weight.to(place.device)], *there, rank=2, **how)
        assert up.device == down.device == place.device
        ((up_here, down_here),) = solve([weight], target, surrogate, anchors, rank=2, **how)
        torch.testing.assert_close((up @ down).cpu(), up_here @ down_here, rtol=1e-4, atol=1e-5)
        assert firmest(*there, **how) == firmest(target, surrogate, anchors, **how)

    @pytest.mark.parametrize("dtype", list(DTYPES))
    @pytest.mark.parametrize("family", list(FAMILIES))
    def test_trajectories_run_on_the_device(self, place: Place, family: str, dtype: str) -> None:
        model = model_of(FAMILIES[family]().to(place.device, DTYPES[dtype]))
        features = model.encode(["a cat", "a dog"])
        for generator in (torch.Generator(), place.generator()) if dtype == "fp32" else (torch.Generator(),):
            path = list(
                trajectories.denoise(
                    model, trajectories.Counted(model), model.schedule(2), features,
                    guidance=3.0, generator=generator.manual_seed(0),
                )
            )  # fmt: skip
            assert len(path) == 2
            assert all(x.device == place.device and len(x) == 2 for _, x in path)

    @pytest.mark.usefixtures("few_words")
    @pytest.mark.parametrize("family", list(FAMILIES))
    def test_a_membrane_is_trained_on_the_device(self, place: Place, family: str, tmp_path: Path) -> None:
        pipeline = FAMILIES[family]().to(place.device)
        made = erase(pipeline, "cat", "spm", SHORT, out=tmp_path / "cat.safetensors")
        assert isinstance(made, Membrane)
        assert all(up.isfinite().all() for up in made.up.values()) and any(up.any() for up in made.up.values())
        again = load(tmp_path / "cat.safetensors")
        assert isinstance(again, Membrane)
        with Guard(model_of(pipeline), [again]) as guard:
            assert guard.permeability(["a cat"]).gamma_BK.device == CPU

    @pytest.mark.usefixtures("few_words")
    @pytest.mark.parametrize(("family", "dtype"), [("sd", "fp16"), ("sd3", "bf16"), ("pixart", "bf16")])
    def test_a_half_precision_model_is_trained_on_the_device(self, place: Place, family: str, dtype: str) -> None:
        made = erase(FAMILIES[family]().to(place.device, DTYPES[dtype]), "cat", "spm", SHORT)
        assert isinstance(made, Membrane) and all(up.dtype is torch.float32 for up in made.up.values())

    @pytest.mark.usefixtures("few_words")
    def test_the_published_loop_runs_on_the_device(self, place: Place) -> None:
        made = erase(
            tiny_pipeline().to(place.device), "cat", "spm-published", PublishedSettings(steps=3, trajectory_steps=3)
        )
        assert isinstance(made, Membrane) and made.up

    @pytest.mark.usefixtures("few_words")
    def test_a_stopped_training_resumes_on_the_device(self, place: Place, tmp_path: Path) -> None:
        whole = erase(tiny_pipeline().to(place.device), "cat", "spm", SHORT)
        out = tmp_path / "cat.safetensors"
        with pytest.raises(Stopped):
            erase(tiny_pipeline().to(place.device), "cat", "spm", SHORT, out=out, stop=lambda: True)
        made = erase(tiny_pipeline().to(place.device), "cat", "spm", SHORT, out=out, resume=True)
        assert isinstance(made, Membrane) and isinstance(whole, Membrane)
        for path, up in made.up.items():
            torch.testing.assert_close(up, whole.up[path])

    # guarded calls

    @pytest.mark.parametrize("dtype", list(DTYPES))
    @pytest.mark.parametrize("family", list(FAMILIES))
    def test_a_guarded_call_on_the_device(self, place: Place, family: str, dtype: str) -> None:
        pipeline = FAMILIES[family]().to(place.device, DTYPES[dtype])
        # diffusers draws on the generator's device, and copies from there.
        make = place.generator if dtype == "fp16" else torch.Generator

        def drawn(call: Any) -> Any:
            return pictures(call, ["a cat", "a dog"], [make().manual_seed(seed) for seed in range(2)])

        bare = drawn(pipeline).images
        with guarded(pipeline) as guard:
            output = drawn(guard)
        assert output.permeability.gamma_BK.device == CPU
        assert output.permeability.gamma_BK.tolist() == [[1.0], [0.0]]
        assert output.images.device == place.device and output.images.isfinite().all()
        assert torch.equal(output.images[1], bare[1]) and not torch.equal(output.images[0], bare[0])
        assert torch.equal(drawn(pipeline).images, bare)

    @pytest.mark.parametrize("family", list(FAMILIES))
    def test_pictures_come_back_to_the_host(self, place: Place, family: str) -> None:
        with guarded(FAMILIES[family]().to(place.device, torch.bfloat16)) as guard:
            found = pictures(guard, ["a cat"], output_type="np").images
        assert isinstance(found, np.ndarray)

    def test_embeddings_on_the_device_are_judged(self, place: Place) -> None:
        pipeline = tiny_pipeline().to(place.device)
        with guarded(pipeline) as guard:
            blend = words(pipeline, ["a cat"])
            blend["prompt_embeds"] = blend["prompt_embeds"] * 0.8
            output = guard(**blend, num_inference_steps=STEPS, output_type="latent")
            assert output.permeability.gamma_BK.tolist() == [[1.0]]

    def test_a_guard_makes_the_host_wait_no_oftener_than_the_pipeline(self, place: Place) -> None:
        if place.waits is None:
            pytest.skip("waits are counted on the pretend device only")
        pipeline = tiny_pipeline().to(place.device)

        def waits(call: Any, steps: int) -> int:
            place.waits.clear()  # pyright: ignore[reportOptionalMemberAccess]
            pictures(call, ["a cat", "a dog"], num_inference_steps=steps)
            return len(place.waits or ())

        bare = waits(pipeline, 6) - waits(pipeline, 2)
        with guarded(pipeline) as guard:
            assert waits(guard, 6) - waits(guard, 2) == bare

    @pytest.mark.parametrize("family", list(FAMILIES))
    @pytest.mark.parametrize("how", ["model", "sequential"])
    def test_a_guarded_call_under_offloading(self, place: Place, family: str, how: str) -> None:
        pipeline = FAMILIES[family]()
        if how == "model":
            pipeline.enable_model_cpu_offload(device=place.device)
        else:
            pipeline.enable_sequential_cpu_offload(device=place.device)
        bare = pictures(pipeline, ["a cat", "a dog"]).images
        with guarded(pipeline) as guard:
            worked: set[torch.device] = set()
            layer = next(iter(guard.stack.layers.values()))
            layer.register_forward_hook(lambda _, given, found: worked.update((given[0].device, found.device)))
            output = pictures(guard, ["a cat", "a dog"])
            assert worked == {place.device} and next(guard.model.denoiser.parameters()).device != place.device
            assert output.permeability.gamma_BK.tolist() == [[1.0], [0.0]]
            assert torch.equal(output.images[1], bare[1]) and not torch.equal(output.images[0], bare[0])

    @pytest.mark.usefixtures("few_words")
    @pytest.mark.parametrize("family", ["sd", "flux", "pixart", "qwen"])
    def test_a_membrane_is_trained_under_offloading(self, place: Place, family: str) -> None:
        pipeline = FAMILIES[family]()
        pipeline.enable_model_cpu_offload(device=place.device)
        pipeline.components["unet" if hasattr(pipeline, "unet") else "transformer"].enable_gradient_checkpointing()
        made = erase(pipeline, "cat", "spm", SHORT)
        assert isinstance(made, Membrane)
        assert all(up.isfinite().all() for up in made.up.values()) and any(up.any() for up in made.up.values())

    @pytest.mark.usefixtures("few_words")
    def test_a_stopped_training_resumes_under_offloading(self, place: Place, tmp_path: Path) -> None:
        pipeline = tiny_pipeline()
        pipeline.enable_model_cpu_offload(device=place.device)
        out = tmp_path / "cat.safetensors"
        with pytest.raises(Stopped):
            erase(pipeline, "cat", "spm", SHORT, out=out, stop=lambda: True)
        assert isinstance(erase(pipeline, "cat", "spm", SHORT, out=out, resume=True), Membrane)

    # files and judges

    @pytest.mark.parametrize("low_vram", [False, True])
    def test_a_model_is_loaded_onto_the_device(self, place: Place, low_vram: bool) -> None:
        model = load_model("terrarium", device=place.device, low_vram=low_vram)
        assert model.device == place.device
        assert (next(model.denoiser.parameters()).device == place.device) is not low_vram
        with Guard(model, [random_membrane(model.erasable_layers(), size=0.01)], gate="always") as guard:
            output = pictures(guard, ["a cat"], num_inference_steps=1)
        assert output.permeability.gamma_BK.tolist() == [[1.0]]

    def test_a_membrane_on_the_device_is_kept_and_merged(self, place: Place, tmp_path: Path) -> None:
        model = model_of(tiny_pipeline().to(place.device))
        here = random_membrane(model.erasable_layers())
        there = here.to(device=place.device)
        written = []
        for membrane in (here, there):
            save(membrane, tmp_path / "cat.safetensors")
            written.append((tmp_path / "cat.safetensors").read_bytes())
            (tmp_path / "cat.safetensors").unlink()
        assert written[0] == written[1]
        assert merge(model, {"cat": (there, 1.0)}, tmp_path / "merged").is_dir()

    @pytest.mark.usefixtures("few_words")
    def test_an_adapter_on_the_device_is_adopted(self, place: Place) -> None:
        model = model_of(tiny_pipeline().to(place.device))
        membrane = random_membrane(model.erasable_layers()).to(device=place.device)
        assert adopted(membrane, membrane.card.concept, model).card.gate is not None

    def test_a_weight_delta_is_put_on_the_device(self, place: Place) -> None:
        model = model_of(tiny_pipeline().to(place.device))
        weight = model.denoiser.get_parameter("conv_in.weight")
        before = weight.detach().clone()
        delta = WeightDelta(card(kind="delta"), {"unet.conv_in.weight": torch.ones(weight.shape)}, "")
        with delta.on(model):
            assert weight.device == place.device and not torch.equal(weight, before)
        assert torch.equal(weight, before)

    def test_judges_give_arrays(self, place: Place) -> None:
        shown = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
        clip = Clip(WEIGHTS / "clip", str(place.device))
        assert isinstance(clip.pictures(shown), np.ndarray) and isinstance(clip.texts(["a cat"]), np.ndarray)
        judges = TerrariumJudge()
        assert len(judges.labels(shown, ["cat"])) == 2 and isinstance(judges.features(shown), np.ndarray)
