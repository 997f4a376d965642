"""Models are loaded from folders, single files and names; what is missing or unsafe is refused with a sentence."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from semiperm import terrarium
from semiperm.errors import ModelLoadError
from semiperm.models.load import load_model, model_of
from semiperm.models.stable_diffusion import StableDiffusion
from tests.tiny import (
    tiny_flux_pipeline,
    tiny_pipeline,
    tiny_pixart_pipeline,
    tiny_qwen_pipeline,
    tiny_sd3_pipeline,
    tiny_xl_pipeline,
)


def pictures(pipeline: Any) -> Tensor:
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    return pipeline("a cat", num_inference_steps=2, output_type="pt", generator=generator).images


def as_original_checkpoint(pipeline: Any) -> dict[str, Tensor]:
    """Return the weights of a tiny pipeline under the names of the original Stable Diffusion 1 checkpoints."""

    def renamed(name: str, rules: dict[str, str]) -> str:
        for ours, theirs in rules.items():
            name = name.replace(ours, theirs)
        return name

    resnet = {
        "norm1": "in_layers.0",
        "conv1": "in_layers.2",
        "norm2": "out_layers.0",
        "conv2": "out_layers.3",
        "time_emb_proj": "emb_layers.1",
        "conv_shortcut": "skip_connection",
    }
    # Two levels of one resnet each: one attention at the top on the way down, two on the way up.
    places = {
        "down_blocks.0.resnets.0": "input_blocks.1.0",
        "down_blocks.0.attentions.0": "input_blocks.1.1",
        "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op",
        "down_blocks.1.resnets.0": "input_blocks.3.0",
        "mid_block.resnets.0": "middle_block.0",
        "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2",
        "up_blocks.0.resnets.0": "output_blocks.0.0",
        "up_blocks.0.resnets.1": "output_blocks.1.0",
        "up_blocks.0.upsamplers.0.conv": "output_blocks.1.1.conv",
        "up_blocks.1.resnets.0": "output_blocks.2.0",
        "up_blocks.1.attentions.0": "output_blocks.2.1",
        "up_blocks.1.resnets.1": "output_blocks.3.0",
        "up_blocks.1.attentions.1": "output_blocks.3.1",
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "conv_in": "input_blocks.0.0",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
    }
    vae = {
        "down_blocks.0.resnets": "down.0.block",
        "down_blocks.1.resnets": "down.1.block",
        "down_blocks.0.downsamplers.0": "down.0.downsample",
        "up_blocks.0.resnets": "up.1.block",
        "up_blocks.1.resnets": "up.0.block",
        "up_blocks.0.upsamplers.0": "up.1.upsample",
        "mid_block.resnets.0": "mid.block_1",
        "mid_block.resnets.1": "mid.block_2",
        "mid_block.attentions.0": "mid.attn_1",
        "group_norm": "norm",
        "to_q": "q",
        "to_k": "k",
        "to_v": "v",
        "to_out.0": "proj_out",
        "conv_norm_out": "norm_out",
        "conv_shortcut": "nin_shortcut",
    }
    checkpoint: dict[str, Tensor] = {}
    for name, tensor in pipeline.unet.state_dict().items():
        inside = resnet if ".resnets." in name else {}
        checkpoint["model.diffusion_model." + renamed(renamed(name, inside), places)] = tensor
    for name, tensor in pipeline.vae.state_dict().items():
        checkpoint["first_stage_model." + renamed(name, vae)] = tensor
    for name, tensor in pipeline.text_encoder.state_dict().items():
        name = name if name.startswith("text_model.") else f"text_model.{name}"
        checkpoint[f"cond_stage_model.transformer.{name}"] = tensor
    return {name: tensor.clone().contiguous() for name, tensor in checkpoint.items()}


@pytest.mark.parametrize("build", [tiny_pipeline, tiny_xl_pipeline])
def test_a_saved_folder_gives_the_same_pictures(build: Any, tmp_path: Path) -> None:
    pipeline = build()
    pipeline.save_pretrained(tmp_path)
    model = load_model(tmp_path, device="cpu")
    assert model.name == str(tmp_path)
    assert isinstance(model, StableDiffusion) and model.is_xl == (build is tiny_xl_pipeline)
    assert torch.equal(pictures(model.pipeline), pictures(pipeline))


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_half_precision_files_load_in_float32_by_default(variant: str | None, tmp_path: Path) -> None:
    tiny_pipeline().to(torch.float16).save_pretrained(tmp_path, variant=variant)
    for dtype in (None, torch.bfloat16):
        model = load_model(str(tmp_path), device="cpu", dtype=dtype)
        parts = (model.denoiser, model.pipeline.text_encoder, model.pipeline.vae)
        assert {p.dtype for part in parts for p in part.parameters()} == {dtype or torch.float32}


def test_low_vram_is_half_precision_with_recomputed_activations(tmp_path: Path) -> None:
    tiny_pipeline().save_pretrained(tmp_path)
    model = load_model(tmp_path, device="cpu", low_vram=True)
    assert model.dtype == torch.bfloat16 and model.pipeline.text_encoder.dtype == torch.bfloat16
    assert model.denoiser.is_gradient_checkpointing
    assert load_model(tmp_path, device="cpu", dtype=torch.float16, low_vram=True).dtype == torch.float16


def test_terrarium_is_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_pipeline().save_pretrained(tmp_path)
    monkeypatch.setattr(terrarium, "WEIGHTS", tmp_path)
    assert load_model(device="cpu").name == "terrarium"
    monkeypatch.setattr(terrarium, "WEIGHTS", tmp_path / "nowhere")
    with pytest.raises(ModelLoadError, match="semiperm terrarium train"):
        load_model()


def test_a_single_file_beside_its_configuration_gives_the_same_pictures(tmp_path: Path) -> None:
    pipeline = tiny_pipeline()
    pipeline.save_pretrained(tmp_path)
    for weights in tmp_path.glob("*/*.safetensors"):
        weights.unlink()
    save_file(as_original_checkpoint(pipeline), tmp_path / "tiny.safetensors")
    model = load_model(tmp_path / "tiny.safetensors", device="cpu")
    assert model.name == str(tmp_path / "tiny.safetensors")
    assert torch.equal(pictures(model.pipeline), pictures(pipeline))


def as_original_sd3(transformer: Any) -> dict[str, Tensor]:
    """Return the weights of an SD3 transformer under the names and in the order of the original checkpoints."""
    ours = transformer.state_dict()
    last = len(transformer.transformer_blocks) - 1
    found: dict[str, Tensor] = {"pos_embed": ours["pos_embed.pos_embed"]}
    names = {
        "x_embedder.proj": "pos_embed.proj",
        "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
        "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
        "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
        "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
        "context_embedder": "context_embedder",
        "final_layer.linear": "proj_out",
        "final_layer.adaLN_modulation.1": "norm_out.linear",
    }
    for number in range(last + 1):
        block, own = f"joint_blocks.{number}", f"transformer_blocks.{number}"
        names[f"{block}.x_block.adaLN_modulation.1"] = f"{own}.norm1.linear"
        names[f"{block}.context_block.adaLN_modulation.1"] = f"{own}.norm1_context.linear"
        names[f"{block}.x_block.attn.proj"] = f"{own}.attn.to_out.0"
        names |= {
            f"{block}.x_block.mlp.fc{1 + half}": f"{own}.ff.net.{end}" for half, end in enumerate(("0.proj", "2"))
        }
        if number < last:
            names[f"{block}.context_block.attn.proj"] = f"{own}.attn.to_add_out"
            names |= {
                f"{block}.context_block.mlp.fc{1 + half}": f"{own}.ff_context.net.{end}"
                for half, end in enumerate(("0.proj", "2"))
            }
        for side, parts in {
            "x": ("to_q", "to_k", "to_v"),
            "context": ("add_q_proj", "add_k_proj", "add_v_proj"),
        }.items():
            for kind in ("weight", "bias"):
                rows = [ours[f"{own}.attn.{part}.{kind}"] for part in parts]
                found[f"{block}.{side}_block.attn.qkv.{kind}"] = torch.cat(rows)
    # The original has shift before scale, diffusers has it behind.
    swapped = ("final_layer.adaLN_modulation.1", f"joint_blocks.{last}.context_block.adaLN_modulation.1")
    for theirs, own in names.items():
        for kind in ("weight", "bias"):
            tensor = ours[f"{own}.{kind}"]
            found[f"{theirs}.{kind}"] = torch.cat(tensor.chunk(2)[::-1]) if theirs in swapped else tensor
    return {f"model.diffusion_model.{name}": tensor.clone().contiguous() for name, tensor in found.items()}


def denoiser_beside_its_parts(pipeline: Any, weights: dict[str, Tensor], folder: Path) -> Path:
    pipeline.save_pretrained(folder)
    for file in (folder / "transformer").glob("*.safetensors"):
        file.unlink()
    save_file({name: tensor.clone().contiguous() for name, tensor in weights.items()}, folder / "fine.safetensors")
    return folder / "fine.safetensors"


@pytest.mark.parametrize("t5", [True, False])
def test_an_original_sd3_denoiser_in_a_folder_gives_the_same_pictures(t5: bool, tmp_path: Path) -> None:
    pipeline = tiny_sd3_pipeline(t5=t5)
    file = denoiser_beside_its_parts(pipeline, as_original_sd3(pipeline.transformer), tmp_path)
    assert torch.equal(pictures(load_model(file, device="cpu").pipeline), pictures(pipeline))


@pytest.mark.parametrize("build", [tiny_sd3_pipeline, tiny_flux_pipeline])
def test_a_denoiser_in_diffusers_names_gives_the_same_pictures(build: Any, tmp_path: Path) -> None:
    pipeline = build()
    file = denoiser_beside_its_parts(pipeline, pipeline.transformer.state_dict(), tmp_path)
    model = load_model(file, device="cpu")
    model.pipeline.default_sample_size = 8
    # FLUX's folders differ by rounding as well.
    torch.testing.assert_close(pictures(model.pipeline), pictures(pipeline), atol=1e-5, rtol=0)


def test_a_denoiser_in_the_wrong_folder_or_incomplete_is_refused(tmp_path: Path) -> None:
    pipeline = tiny_flux_pipeline()
    weights = dict(pipeline.transformer.state_dict())
    file = denoiser_beside_its_parts(pipeline, weights, tmp_path / "flux")
    del weights["proj_out.weight"]
    save_file(weights, file)
    with pytest.raises(ModelLoadError, match=r"fine\.safetensors"):
        load_model(file)
    sd3 = tiny_sd3_pipeline()
    other = tmp_path / "flux" / "sd3.safetensors"
    save_file(as_original_sd3(sd3.transformer), other)
    with pytest.raises(
        ModelLoadError, match="folder of a FluxPipeline, but the checkpoint in it is a StableDiffusion3"
    ):
        load_model(other)


def test_a_single_file_alone_says_what_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file(as_original_checkpoint(tiny_pipeline()), tmp_path / "tiny.safetensors")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelLoadError, match=r"tiny\.safetensors could not be loaded.*model_index\.json"):
        load_model(tmp_path / "tiny.safetensors")


def test_other_files_are_refused_with_what_they_are(tmp_path: Path) -> None:
    contents = {
        "an adapter": {"lora_unet_mid_block.lora_down.weight": torch.zeros(1, 2)},
        "no denoiser of Stable Diffusion": {"double_blocks.0.weight": torch.zeros(1)},
        "Chroma, which is not supported": {
            "double_blocks.0.img_attn.qkv.weight": torch.zeros(1),
            "distilled_guidance_layer.in_proj.bias": torch.zeros(1),
        },
        "denoiser of a FluxPipeline alone": {"double_blocks.0.img_attn.qkv.weight": torch.zeros(1)},
        "denoiser of a StableDiffusion3Pipeline alone": {
            "model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": torch.zeros(1)
        },
        "no text encoder": {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(1)},
    }
    for said, tensors in contents.items():
        save_file(tensors, tmp_path / "file.safetensors")
        with pytest.raises(ModelLoadError, match=said):
            load_model(tmp_path / "file.safetensors")
    (tmp_path / "file.safetensors").write_bytes(b"nothing of the sort")
    with pytest.raises(ModelLoadError, match="not a readable safetensors file"):
        load_model(tmp_path / "file.safetensors")
    (tmp_path / "file.gguf").write_bytes(b"")
    with pytest.raises(ModelLoadError, match="not a .safetensors checkpoint"):
        load_model(tmp_path / "file.gguf")


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".bin", ".CKPT"])
def test_pickles_are_refused_whether_they_exist_or_not(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"model{suffix}"
    for _ in range(2):
        with pytest.raises(ModelLoadError, match="pickle.*[Cc]onvert it to .safetensors"):
            load_model(path)
        torch.save({"weight": torch.zeros(1)}, path)


def test_a_folder_with_pickled_weights_is_refused(tmp_path: Path) -> None:
    tiny_pipeline().save_pretrained(tmp_path)
    weights = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(ModelLoadError, match="safetensors"):
        load_model(tmp_path)


def test_folders_that_are_no_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"no model_index\.json"):
        load_model(tmp_path)
    index = tmp_path / "model_index.json"
    index.write_text("{")
    with pytest.raises(ModelLoadError, match="damaged"):
        load_model(tmp_path)
    index.write_text("[]")
    with pytest.raises(ModelLoadError, match="damaged"):
        load_model(tmp_path)
    index.write_text(json.dumps({"_class_name": "KandinskyPipeline"}))
    with pytest.raises(ModelLoadError, match="KandinskyPipeline, which is not supported"):
        load_model(tmp_path)


def test_unknown_names_are_refused_with_the_closest_one(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="Did you mean 'terrarium'"):
        load_model("terarium")
    (tmp_path / "dreamer.safetensors").touch()
    with pytest.raises(ModelLoadError, match=r"no model.*Did you mean '.*dreamer\.safetensors'"):
        load_model(tmp_path / "dreemer.safetensors")
    with pytest.raises(ModelLoadError, match="no model 'owner/file.safetensors'"):
        load_model("owner/file.safetensors")


def test_a_hub_id_that_cannot_be_reached_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelLoadError, match="'nobody/no-model' here, and the Hub"):
        load_model("nobody/no-model")


def test_model_of_takes_pipelines_and_models() -> None:
    model = model_of(tiny_pipeline(), "mine")
    assert model.name == "mine"
    assert model_of(model) is model
    with pytest.raises(ModelLoadError, match="not a Stable Diffusion pipeline"):
        model_of("a string")


@pytest.mark.parametrize(
    "build",
    [
        tiny_pipeline, tiny_xl_pipeline, tiny_sd3_pipeline, tiny_flux_pipeline, tiny_pixart_pipeline,
        tiny_qwen_pipeline,
    ],
)  # fmt: skip
def test_a_folder_whose_networks_lack_weights_is_refused(build: Any, tmp_path: Path) -> None:
    build().save_pretrained(tmp_path)
    load_model(tmp_path, device="cpu")
    for file in sorted(tmp_path.glob("*/*.safetensors")):
        whole = load_file(file)
        # The last one is a weight of the network itself, and never one that is tied to another.
        lost = max(whole)
        save_file({name: tensor for name, tensor in whole.items() if name != lost}, file, {"format": "pt"})
        with pytest.raises(ModelLoadError, match=f"{file.parent.name} could not be loaded: it lacks.*{lost}"):
            load_model(tmp_path, device="cpu")
        save_file(whole, file, {"format": "pt"})
    load_model(tmp_path, device="cpu")


def test_text_encoders_in_the_names_of_older_transformers_lack_nothing(tmp_path: Path) -> None:
    pipeline = tiny_pipeline()
    pipeline.save_pretrained(tmp_path)
    file = tmp_path / "text_encoder" / "model.safetensors"
    older = {f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in load_file(file).items()}
    older["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(older, file, {"format": "pt"})
    assert torch.equal(pictures(load_model(tmp_path, device="cpu").pipeline), pictures(pipeline))


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        ("model.diffusion_model.out.2.weight", "lacks weights of the denoiser or of the VAE"),
        ("first_stage_model.decoder.conv_in.weight", "lacks weights of the denoiser or of the VAE"),
        (
            "cond_stage_model.transformer.text_model.final_layer_norm.bias",
            r"lacks weights of the text_encoder.*final_layer_norm\.bias",
        ),
    ],
)
def test_a_single_file_that_lacks_weights_is_refused(lost: str, said: str, tmp_path: Path) -> None:
    pipeline = tiny_pipeline()
    pipeline.save_pretrained(tmp_path)
    weights = as_original_checkpoint(pipeline)
    del weights[lost]
    save_file(weights, tmp_path / "tiny.safetensors")
    with pytest.raises(ModelLoadError, match=rf"tiny\.safetensors could not be loaded: it {said}"):
        load_model(tmp_path / "tiny.safetensors", device="cpu")


def test_a_model_of_the_hub_that_lacks_weights_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = tiny_pipeline()
    pipeline.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    monkeypatch.setattr("diffusers.DiffusionPipeline.load_config", lambda name, **_: index)
    # The Hub's client gives a folder in its cache.
    monkeypatch.setattr("diffusers.StableDiffusionPipeline.download", lambda name, **_: str(tmp_path))
    model = load_model("somebody/tiny", device="cpu")
    assert model.name == "somebody/tiny" and torch.equal(pictures(model.pipeline), pictures(pipeline))
    file = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    del weights["conv_out.weight"]
    save_file(weights, file)
    with pytest.raises(ModelLoadError, match=r"unet could not be loaded: it lacks weights.*conv_out\.weight"):
        load_model("somebody/tiny", device="cpu")
