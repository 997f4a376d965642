"""Adopted adapters change each weight by what their files change it by, and what would be lost is refused."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from semiperm.concept import Concept
from semiperm.erasure import WeightDelta
from semiperm.errors import CoverageError, MembraneFileError
from semiperm.files import foreign
from semiperm.files.export import export
from semiperm.files.safetensors import load_adapter, load_membrane, save
from semiperm.membrane import Membrane
from semiperm.methods.calibrate import adopted
from semiperm.models.load import model_of
from semiperm.models.model import DiffusionModel
from semiperm.stack import Stack
from tests.files.foreign_lora import KOHYA, PEFT, Lora, Spelling, dotted, flat, in_processors, lora, sgm
from tests.helpers import card, random_membrane, same_bits
from tests.methods.few_words import use_few_words
from tests.tiny import tiny_flux_pipeline, tiny_pipeline, tiny_sd3_pipeline, tiny_xl_pipeline

CLOSE = 1e-6

MAKERS: dict[str, Callable[[], Any]] = {
    "sd1": tiny_pipeline,
    "sd2": lambda: tiny_pipeline(linear_projection=True),
    "xl": tiny_xl_pipeline,
    "sd3": tiny_sd3_pipeline,
    "flux": tiny_flux_pipeline,
}
UNETS = ("sd1", "sd2", "xl")


@cache
def model(kind: str) -> DiffusionModel:
    """A tiny model that no test changes."""
    return model_of(MAKERS[kind](), f"tiny {kind}")


def layers_of(kind: str, among: Callable[[str], bool] = bool) -> dict[str, nn.Module]:
    return {path: layer for path, layer in model(kind).erasable_layers().items() if among(path)}


def write(folder: Path, tensors: dict[str, Tensor], **metadata: str) -> Path:
    path = folder / "eraser.safetensors"
    # safetensors refuses tensors that share memory
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, path, metadata or None)
    return path


def read(path: Path, kind: str = "sd1", *, drop: bool = False) -> Membrane:
    return load_adapter(path, model(kind), drop=drop)


@torch.no_grad()
def predict(model: DiffusionModel) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    x_BCHW = torch.randn(2, *model.latent_shape(), generator=generator)
    return model.predict(x_BCHW, torch.tensor(301.0), model.encode(["a cat", "a dog"]))


def predict_with(membrane: Membrane, kind: str) -> Tensor:
    stack = Stack(model(kind).denoiser)
    stack.add("cat", membrane)
    with stack:
        stack.set_permeability(torch.ones(1, 1))
        return predict(model(kind))


def assert_adds(membrane: Membrane, made: Lora, kind: str, tolerance: float = 0) -> None:
    """Check that a membrane covers the model and changes each weight as the file does, other weights not at all."""
    assert list(membrane.down) == list(layers_of(kind))
    for path in membrane.down:
        weight: Any = layers_of(kind)[path].weight
        expected = made.delta(path) if path in made.down else torch.zeros(())
        torch.testing.assert_close(
            membrane.delta(path), expected.expand(weight.shape), rtol=10 * tolerance, atol=tolerance
        )


# the same as in diffusers


def through_kohya(pipeline: Any, file: Path) -> None:
    pipeline.load_lora_weights(file.parent, weight_name=file.name)


def through_the_unet(pipeline: Any, file: Path) -> None:
    pipeline.unet.load_lora_adapter(file, prefix=None, use_safetensors=True)


SPELLINGS: dict[str, tuple[tuple[str, ...], Callable[[str], Spelling], bool]] = {
    # kinds of models, names, whether there are alphas
    "kohya": (UNETS, lambda _: KOHYA, True),
    "kohya, SGM blocks": (("xl",), lambda kind: flat("lora_unet_", sgm(layers_of(kind))), True),
    "PEFT": (UNETS, lambda _: PEFT, False),
    "diffusers": (UNETS, lambda _: dotted("unet.", ".lora.down.weight", ".lora.up.weight"), False),
    "attention processors": (UNETS, lambda _: in_processors, False),
    "transformer": (("sd3", "flux"), lambda _: dotted("transformer.", ".lora_A.weight", ".lora_B.weight"), False),
}
CASES = [(spelling, kind) for spelling, (kinds, _, _) in SPELLINGS.items() for kind in kinds]
SUBSETS: dict[str, Callable[[str], bool]] = {
    "all": bool,
    "cross-attention": lambda path: ".attn2." in path,
    "attention": lambda path: ".attn" in path,
    "no cross-attention": lambda path: ".attn2." not in path,
    "one": lambda path: path == "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0",
}


@pytest.mark.parametrize(("spelling", "kind"), CASES)
def test_diffusers_predicts_the_same_from_the_file(spelling: str, kind: str, tmp_path: Path) -> None:
    _, names, alphas = SPELLINGS[spelling]
    # diffusers 0.42 ignores alphas of attention layers that differ from the commonest one
    made = lora(layers_of(kind), [2] if alphas else [1, 3, 2], [1.0 if alphas else None])
    file = write(tmp_path, made.tensors(names(kind)))
    membrane = read(file, kind)
    assert_adds(membrane, made, kind, CLOSE)
    theirs = model_of(MAKERS[kind]())
    bare = predict(theirs)
    through_kohya(theirs.pipeline, file)
    ours = predict_with(membrane, kind)
    torch.testing.assert_close(ours, predict(theirs), rtol=1e-4, atol=1e-4)
    assert (ours - bare).abs().max() > 1e-2


@pytest.mark.parametrize("subset", SUBSETS)
@pytest.mark.parametrize("kind", ["sd1", "xl"])
def test_diffusers_predicts_the_same_when_layers_are_missing(kind: str, subset: str, tmp_path: Path) -> None:
    made = lora(layers_of(kind, SUBSETS[subset]))
    file = write(tmp_path, made.tensors(KOHYA))
    membrane = read(file, kind)
    assert_adds(membrane, made, kind, CLOSE)
    theirs = model_of(MAKERS[kind]())
    through_kohya(theirs.pipeline, file)
    torch.testing.assert_close(predict_with(membrane, kind), predict(theirs), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", UNETS)
def test_names_without_a_prefix_are_those_of_the_unet_alone(kind: str, tmp_path: Path) -> None:
    made = lora(layers_of(kind), [3])
    file = write(tmp_path, made.tensors(dotted("", ".lora_A.weight", ".lora_B.weight")))
    theirs = model_of(MAKERS[kind]())
    through_the_unet(theirs.pipeline, file)
    torch.testing.assert_close(predict_with(read(file, kind), kind), predict(theirs), rtol=1e-4, atol=1e-4)


def test_onetrainers_flux_names_are_read_as_diffusers_reads_them(tmp_path: Path) -> None:
    made = lora(layers_of("flux", lambda path: ".attn.to_" in path), [2], [1.0])
    file = write(tmp_path, made.tensors(flat("lora_transformer_")))
    theirs = model_of(MAKERS["flux"]())
    through_kohya(theirs.pipeline, file)
    torch.testing.assert_close(predict_with(read(file, "flux"), "flux"), predict(theirs), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", MAKERS)
def test_the_denoiser_predicts_as_with_the_sum_in_its_weights(kind: str, tmp_path: Path) -> None:
    made = lora(layers_of(kind, lambda path: "ff" not in path), [1, 4, 2], [None, 0.5, 3.0, 8.0, -1.0])
    ours = predict_with(read(write(tmp_path, made.tensors(KOHYA)), kind), kind)
    summed = model_of(MAKERS[kind]())
    with torch.no_grad():
        for path in made.down:
            weight: Any = summed.denoiser.get_submodule(path).weight
            weight += made.delta(path)
    torch.testing.assert_close(ours, predict(summed), rtol=1e-4, atol=1e-4)


# laws

OTHER_SPELLINGS: dict[str, Spelling] = {
    "kohya": KOHYA,
    "OneTrainer": flat("lora_transformer_"),
    "LyCORIS": flat("lycoris_"),
    "PEFT, diffusers": PEFT,
    "PEFT": dotted("base_model.model.", ".lora_A.weight", ".lora_B.weight"),
    "PEFT behind the part": dotted("unet.base_model.model.", ".lora_A.default.weight", ".lora_B.default.weight"),
    "PEFT with the adapter's name": dotted("unet.", ".lora_A.my-lora.weight", ".lora_B.my-lora.weight"),
    "diffusers": dotted("unet.", ".lora.down.weight", ".lora.up.weight"),
    "attention processors": in_processors,
    "ComfyUI": dotted("diffusion_model.", ".lora_down.weight", ".lora_up.weight"),
}


@cache
def all_spellings(kind: str) -> list[Spelling]:
    """Every spelling for a UNet that is read; diffusers reads a part of them."""
    named = sgm(layers_of(kind))
    return [
        *OTHER_SPELLINGS.values(),
        flat("lora_unet_", named),
        dotted("diffusion_model.", ".lora_down.weight", ".lora_up.weight", named),
        dotted("model.diffusion_model.", ".lora_A.weight", ".lora_B.weight", named),
    ]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data(), kind=st.sampled_from(["sd1", "xl"]))
def test_each_weight_changes_by_what_the_file_says(data: st.DataObject, kind: str, tmp_path: Path) -> None:
    chosen = data.draw(st.sets(st.sampled_from(list(layers_of(kind))), min_size=1))
    made = lora(
        layers_of(kind, chosen.__contains__),
        data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=5)),
        whole=True,
    )
    for path, down in made.down.items():
        # such scales of whole numbers are exact
        if (scale := data.draw(st.sampled_from([None, 0.0625, 0.5, 1.0, 15.0, -8.0]))) is not None:
            made.alpha[path] = scale * down.shape[0]
    spelling = data.draw(st.sampled_from(all_spellings(kind)))
    membrane = read(write(tmp_path, made.tensors(spelling)), kind)
    assert membrane.rank == max(down.shape[0] for down in made.down.values())
    assert_adds(membrane, made, kind)
    assert same_bits(load_membrane(save(membrane, tmp_path / "own.safetensors")), membrane)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_a_layer_under_two_spellings_is_refused(data: st.DataObject, tmp_path: Path) -> None:
    made = lora(layers_of("sd1", lambda path: ".attn2." in path))
    twice = data.draw(st.sampled_from(list(made.down)))
    first, second = data.draw(st.lists(st.sampled_from(all_spellings("sd1")), min_size=2, max_size=2, unique=True))
    again = Lora({twice: made.down[twice]}, {twice: made.up[twice]}).tensors(second)
    tensors = made.tensors(first)
    # attention processors share their names for the other layers with diffusers
    assume(not again.keys() & tensors.keys())
    file = write(tmp_path, tensors | again)
    with pytest.raises(MembraneFileError, match=f"{twice} is stored twice, as '.*' and as '.*'; remove one"):
        read(file)


@pytest.mark.parametrize("with_layers", [False, True])
def test_a_layer_under_two_spellings_is_refused_by_plain_loading_too(with_layers: bool, tmp_path: Path) -> None:
    made = lora(layers_of("sd1"))
    file = write(tmp_path, made.tensors(KOHYA) | made.tensors(PEFT))
    with pytest.raises(MembraneFileError, match="stored twice, as 'lora_unet_.*' and as 'unet"):
        load_membrane(file, layers_of("sd1") if with_layers else None)


def test_half_precision_stays_where_nothing_is_scaled(tmp_path: Path) -> None:
    made = lora(layers_of("sd1"), [1, 3], dtype=torch.float16)
    assert {value.dtype for value in read(write(tmp_path, made.tensors(KOHYA))).up.values()} == {torch.float16}
    made.alpha = {next(iter(made.down)): 0.3}
    membrane = read(write(tmp_path, made.tensors(KOHYA)))
    assert {value.dtype for value in membrane.up.values()} == {torch.float32}
    assert_adds(membrane, made, "sd1", CLOSE)


def test_linear_pairs_fit_convolutions_and_the_other_way_round(tmp_path: Path) -> None:
    for made_for, worn_by in (("sd1", "sd2"), ("sd2", "sd1")):
        made = lora(layers_of(made_for), [2], whole=True)
        membrane = read(write(tmp_path, made.tensors(KOHYA)), worn_by)
        for path in made.down:
            assert torch.equal(membrane.delta(path).flatten(), made.delta(path).flatten())


def test_a_tucker_pair_is_multiplied_out(tmp_path: Path) -> None:
    layers = {"block.conv": nn.Conv2d(4, 6, 3, bias=False), "block.q": nn.Linear(3, 5)}
    generator = torch.Generator().manual_seed(0)
    down, mid, up = (torch.randn(shape, generator=generator) for shape in ((2, 4, 1, 1), (2, 2, 3, 3), (6, 2, 1, 1)))
    tensors = {
        "lora_unet_block_conv.lora_down.weight": down,
        "lora_unet_block_conv.lora_mid.weight": mid,
        "lora_unet_block_conv.lora_up.weight": up,
        "lora_unet_block_conv.alpha": torch.tensor(1.0),
    }
    made = foreign.fitted_membrane(tmp_path, tensors, {}, layers, ())
    x = torch.randn(1, 4, 8, 8, generator=generator)
    conv2d = torch.nn.functional.conv2d
    in_turn = conv2d(conv2d(conv2d(x, down), mid), up) / 2
    torch.testing.assert_close(conv2d(x, made.delta("block.conv")), in_turn, rtol=1e-4, atol=1e-5)
    assert not made.delta("block.q").any()
    for wrong in (torch.randn(2, 2, 1, 1), torch.randn(3, 3, 3, 3), torch.randn(2, 2)):
        tensors["lora_unet_block_conv.lora_mid.weight"] = wrong
        with pytest.raises(MembraneFileError, match="lora_mid .* do not fit a layer with 4 inputs"):
            foreign.fitted_membrane(tmp_path, tensors, {}, layers, ())


# PEFT's configuration


def configured(**facts: Any) -> dict[str, str]:
    return {"lora_adapter_metadata": json.dumps({f"unet.{name}": value for name, value in facts.items()})}


def test_the_configuration_in_the_metadata_scales_as_in_diffusers(tmp_path: Path) -> None:
    first, second, *_ = (path for path in layers_of("sd1") if path.endswith("attn2.to_k"))
    chosen = layers_of("sd1", lambda path: "attn2" in path)
    made = lora(chosen, [4 if path == first else 1 if path == second else 2 for path in chosen])
    facts = {
        "r": 2, "lora_alpha": 8, "rank_pattern": {f"^{first}": 4, second: 1}, "alpha_pattern": {f"^{first}": 2},
        "target_modules": sorted(made.down),
    }  # fmt: skip
    made.alpha = dict.fromkeys(made.down, 8.0) | {first: 2.0}
    text_encoder = {"text_encoder.r": 7, "text_encoder.lora_alpha": 1}
    both = json.loads(configured(**facts)["lora_adapter_metadata"]) | text_encoder
    bare = Lora(made.down, made.up)
    file = write(tmp_path, bare.tensors(PEFT), lora_adapter_metadata=json.dumps(both))
    membrane = read(file)
    assert_adds(membrane, made, "sd1", CLOSE)
    theirs = model_of(MAKERS["sd1"]())
    through_kohya(theirs.pipeline, file)
    torch.testing.assert_close(predict_with(membrane, "sd1"), predict(theirs), rtol=1e-4, atol=1e-4)


def test_rank_stabilised_scales_divide_by_the_root(tmp_path: Path) -> None:
    made = lora(layers_of("sd1"), [4], whole=True)
    file = write(tmp_path, made.tensors(PEFT), **configured(r=4, lora_alpha=3, use_rslora=True))
    made.alpha = dict.fromkeys(made.down, 6.0)
    assert_adds(read(file), made, "sd1")


def test_the_configuration_beside_a_file_of_peft_is_read(tmp_path: Path) -> None:
    membrane = random_membrane(layers_of("sd1"), rank=2)
    folder = export(membrane, "peft", tmp_path / "adapter")
    assert same_bits(read(folder / "adapter_model.safetensors"), membrane)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 6}))
    tripled = read(folder / "adapter_model.safetensors")
    assert all(torch.equal(tripled.up[path], 3 * membrane.up[path]) for path in membrane.up)
    (folder / "adapter_config.json").unlink()
    assert same_bits(read(folder / "adapter_model.safetensors"), membrane)
    (folder / "adapter_config.json").write_bytes(b" " * (2**20 + 1))
    with pytest.raises(MembraneFileError, match="too large for the configuration"):
        read(folder / "adapter_model.safetensors")
    # it is about PEFT's file, not about the others in that folder
    assert read(export(membrane, "kohya", folder / "kohya.safetensors"))


CONFIGURATIONS: dict[str, tuple[str, str]] = {
    "no JSON": ("{", "names no rank and alpha"),
    "nested too deeply": ("[" * 100_000, "names no rank and alpha"),
    "a list": ("[]", "names no rank and alpha"),
    "no rank": ('{"unet.lora_alpha": 1}', "names no rank and alpha"),
    "a rank that is a word": ('{"unet.r": "2", "unet.lora_alpha": 1}', "names no rank and alpha"),
    "alpha 0": ('{"unet.r": 2, "unet.lora_alpha": 0}', "names no rank and alpha"),
    "alpha not finite": ('{"unet.r": 2, "unet.lora_alpha": Infinity}', "names no rank and alpha"),
    "alpha too large": ('{"unet.r": 2, "unet.lora_alpha": 1' + "0" * 400 + "}", "names no rank and alpha"),
    "another rank": ('{"unet.r": 3, "unet.lora_alpha": 1}', "says rank 3 for .*, but its tensors have 2"),
    "a regular expression": (
        '{"unet.r": 2, "unet.lora_alpha": 1, "unet.alpha_pattern": {"(a+)+": 2}}',
        "names no rank and alpha",
    ),
    "patterns that are a list": (
        '{"unet.r": 2, "unet.lora_alpha": 1, "unet.alpha_pattern": [1]}',
        "names no rank and alpha",
    ),
    "DoRA": ('{"unet.r": 2, "unet.lora_alpha": 1, "unet.use_dora": true}', "DoRA, which is not supported"),
    "two denoisers": ('{"unet.r": 2, "unet.lora_alpha": 1, "transformer.r": 2}', "names no rank and alpha"),
}


@pytest.mark.parametrize(("text", "said"), CONFIGURATIONS.values(), ids=CONFIGURATIONS.keys())
def test_unusable_configurations_are_refused(text: str, said: str, tmp_path: Path) -> None:
    made = lora(layers_of("sd1"))
    with pytest.raises(MembraneFileError, match=said):
        read(write(tmp_path, made.tensors(PEFT), lora_adapter_metadata=text))


def test_a_scale_that_is_given_twice_is_refused(tmp_path: Path) -> None:
    made = lora(layers_of("sd1"), [2], [1.0])
    with pytest.raises(MembraneFileError, match="has two scales"):
        read(write(tmp_path, made.tensors(KOHYA), **configured(r=2, lora_alpha=1)))


# what cannot be part of a membrane

TEXT = {
    "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": torch.ones(2, 16),
    "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": torch.ones(32, 2),
    "lora_te_text_model_encoder_layers_0_mlp_fc1.alpha": torch.tensor(1.0),
}
OUTSIDE = {
    "lora_unet_down_blocks_0_resnets_0_conv1.lora_down.weight": torch.ones(2, 8, 3, 3),
    "lora_unet_down_blocks_0_resnets_0_conv1.lora_up.weight": torch.ones(8, 2, 1, 1),
    "lora_unet_down_blocks_0_resnets_0_time_emb_proj.lora_down.weight": torch.ones(2, 32),
    "lora_unet_down_blocks_0_resnets_0_time_emb_proj.lora_up.weight": torch.ones(8, 2),
    "lora_unet_conv_in.hada_w1_a": torch.ones(8, 2),
}
SGM_OUTSIDE = (
    "input_blocks_0_0", "input_blocks_1_0_in_layers_2", "input_blocks_3_0_emb_layers_1", "input_blocks_2_0_op",
    "input_blocks_3_0_skip_connection", "middle_block_2_in_layers_2", "output_blocks_1_2_conv",
    "output_blocks_3_0_out_layers_3", "time_embed_0", "label_emb_0_2", "out_2",
)  # fmt: skip
NAMES_OF_OTHERS = {
    "kohya": [*TEXT, *OUTSIDE],
    "text encoders": [
        f"{prefix}.lora_{side}.weight"
        for prefix in ("text_encoder.text_model.q_proj", "text_encoder_2.text_model.k_proj", "lora_te2_text_model_x")
        for side in "AB"
    ],
    "old text encoders": ["text_encoder.text_model.layers.0.q_proj.lora_linear_layer.down.weight"],
    "diffusers": ["unet.conv_in.lora.down.weight", "unet.time_embedding.linear_1.lora_A.weight", "conv_out.alpha"],
    "full differences": ["lora_unet_conv_in.diff", "lora_unet_conv_in.diff_b", "lora_unet_conv_norm_out.w_norm"],
}


def test_text_encoders_and_other_layers_are_dropped_on_request_alone(tmp_path: Path) -> None:
    made = lora(layers_of("sd1", lambda path: ".attn2." in path), [2], whole=True)
    file = write(tmp_path, made.tensors(KOHYA) | TEXT | OUTSIDE)
    count = len(made.down) + 4
    with pytest.raises(MembraneFileError, match=rf"so 4 of the {count} layers.*1 of text encoders .lora_te_") as caught:
        read(file)
    for told in ("3 of the denoiser outside of its transformer blocks", "conv_in", "--drop-other-layers", "drop=True"):
        assert told in str(caught.value)
    assert_adds(read(file, drop=True), made, "sd1")


@pytest.mark.parametrize("names", NAMES_OF_OTHERS.values(), ids=NAMES_OF_OTHERS.keys())
def test_other_layers_are_known_in_every_spelling(names: list[str], tmp_path: Path) -> None:
    made = lora(layers_of("sd1"), whole=True)
    file = write(tmp_path, made.tensors(PEFT) | {name: torch.ones(1) for name in names})
    with pytest.raises(MembraneFileError, match="--drop-other-layers"):
        read(file)
    assert_adds(read(file, drop=True), made, "sd1")


@pytest.mark.parametrize("name", SGM_OUTSIDE)
def test_other_layers_of_sdxl_are_known_by_sgms_names(name: str, tmp_path: Path) -> None:
    made = lora(layers_of("xl"), whole=True)
    tensors = made.tensors(flat("lora_unet_", sgm(layers_of("xl"))))
    file = write(tmp_path, tensors | {f"lora_unet_{name}.lora_down.weight": torch.ones(1, 1)})
    with pytest.raises(MembraneFileError, match="1 of the denoiser outside of its transformer blocks"):
        read(file, "xl")
    assert_adds(read(file, "xl", drop=True), made, "xl")


@pytest.mark.parametrize("kind", ["sd3", "flux"])
def test_other_layers_of_transformers_are_dropped_on_request_alone(kind: str, tmp_path: Path) -> None:
    made = lora(layers_of(kind), whole=True)
    tensors = made.tensors(dotted("transformer.", ".lora_A.weight", ".lora_B.weight"))
    file = write(tmp_path, tensors | {"transformer.proj_out.lora_A.weight": torch.ones(1, 1)})
    with pytest.raises(MembraneFileError, match="1 of the denoiser outside of its transformer blocks .proj_out."):
        read(file, kind)
    assert_adds(read(file, kind, drop=True), made, kind)


def test_the_names_of_fluxs_original_code_are_not_read(tmp_path: Path) -> None:
    file = write(tmp_path, {"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": torch.ones(1, 1)})
    with pytest.raises(MembraneFileError, match="no layer lora_unet_double_blocks_0.*original code .* diffusers"):
        read(file, "flux", drop=True)


@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.parametrize(("made_for", "worn_by"), [("xl", "sd1"), ("sd3", "sd1"), ("sd1", "xl"), ("flux", "sd3")])
def test_a_file_of_another_architecture_is_refused(made_for: str, worn_by: str, drop: bool, tmp_path: Path) -> None:
    file = write(tmp_path, lora(layers_of(made_for)).tensors(KOHYA))
    with pytest.raises(MembraneFileError, match="this model has no layer .*made for another architecture"):
        read(file, worn_by, drop=drop)


def test_layers_of_other_sizes_are_refused(tmp_path: Path) -> None:
    path = next(path for path in layers_of("sd1") if path.endswith("attn2.to_k"))
    file = write(tmp_path, lora({path: nn.Linear(32, 8)}).tensors(KOHYA))
    with pytest.raises(CoverageError, match="of different sizes are"):
        read(file)


def test_a_file_without_any_layer_for_a_membrane_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path, TEXT | OUTSIDE)
    with pytest.raises(MembraneFileError, match="4 of the 4 layers"):
        read(file)
    with pytest.raises(MembraneFileError, match="there is no pair for a layer in the denoiser's transformer blocks"):
        read(file, drop=True)


# what is refused

LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
NAME = "lora_unet_" + LAYER.replace(".", "_")

KINDS_OF_ADAPTERS = {
    "hada_w1_a": "LoHa", "hada_t1": "LoHa", "lokr_w1": "LoKr", "lokr_w2_b": "LoKr", "dora_scale": "DoRA",
    "oft_blocks": "OFT", "a1.weight": "GLoRA", "on_input": "IA3", "diff": "full differences of weights",
    "diff_b": "full differences of weights", "lora_up.bias": "biases", "lora_B.bias": "biases",
    "lora_magnitude_vector": "DoRA", "lora_magnitude_vector.default": "DoRA",
}  # fmt: skip


@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.parametrize("end", KINDS_OF_ADAPTERS)
def test_other_kinds_of_adapters_are_named(end: str, drop: bool, tmp_path: Path) -> None:
    tensors = lora(layers_of("sd1")).tensors(KOHYA) | {f"{NAME}.{end}": torch.ones(1)}
    with pytest.raises(MembraneFileError, match=f"only plain LoRA pairs .* has {KINDS_OF_ADAPTERS[end]} on {LAYER}"):
        read(write(tmp_path, tensors), drop=drop)


def changed(**changes: Tensor | None) -> dict[str, Tensor]:
    ends = {"down": ".lora_down.weight", "up": ".lora_up.weight", "mid": ".lora_mid.weight", "alpha": ".alpha"}
    found = {NAME + ends["down"]: torch.ones(2, 16), NAME + ends["up"]: torch.ones(8, 2)}
    found |= {NAME + ends[side]: tensor for side, tensor in changes.items() if tensor is not None}
    return {name: value for name, value in found.items() if changes.get(_side(name, ends), value) is not None}


def _side(name: str, ends: dict[str, str]) -> str:
    return next(side for side, end in ends.items() if name.endswith(end))


UNSOUND: dict[str, tuple[dict[str, Tensor], str]] = {
    "up without down": (changed(down=None), "but one is missing"),
    "down without up": (changed(up=None), "but one is missing"),
    "alpha alone": (changed(down=None, up=None, alpha=torch.tensor(1.0)), "but one is missing"),
    "a middle alone": (changed(down=None, up=None, mid=torch.ones(2, 2, 1, 1)), "but one is missing"),
    "ranks that padding would hide": (changed(up=torch.ones(8, 1)), "not a pair of one rank"),
    "rank 0": (changed(down=torch.ones(0, 16), up=torch.ones(8, 0)), "no matrix"),
    "vectors": (changed(down=torch.ones(16), up=torch.ones(8)), "no matrix"),
    "an up that is a vector": (changed(up=torch.ones(8)), "not a pair of one rank"),
    "conv against linear": (changed(down=torch.ones(2, 16, 1, 1)), "not a pair of one rank"),
    "an up with a kernel": (changed(down=torch.ones(2, 16, 3, 3), up=torch.ones(8, 2, 3, 3)), "not a pair"),
    "a middle of a linear layer": (changed(mid=torch.ones(2, 2, 1, 1)), "do not fit"),
    "not a number": (changed(up=torch.full((8, 2), torch.nan)), "not finite"),
    "infinite": (changed(down=torch.full((2, 16), torch.inf)), "not finite"),
    "integers": (changed(down=torch.ones(2, 16, dtype=torch.int32)), "int32; the types allowed"),
    "float64": (changed(up=torch.ones(8, 2, dtype=torch.float64)), "float64"),
    "alpha zero": (changed(alpha=torch.tensor(0.0)), "and not 0"),
    "alpha not a number": (changed(alpha=torch.tensor(torch.nan)), "not finite"),
    "alpha a list": (changed(alpha=torch.ones(2)), "one number"),
    "alpha that overflows": (changed(up=torch.full((8, 2), 1e30), alpha=torch.tensor(1e30)), "not finite"),
    "no adapter": ({f"unet.{LAYER}.weight": torch.ones(8, 16)}, "is not part of a LoRA"),
    "an embedding beside it": (changed() | {"bundle_emb.cat.string_to_param.*": torch.ones(4)}, "not part of a LoRA"),
    "a layer called nothing": (changed() | {".lora_down.weight": torch.ones(1, 1)}, "not part of a LoRA"),
    "a prefix alone": (changed() | {"unet..lora_A.weight": torch.ones(1, 1)}, "this model has no layer"),
    "a very long name": (
        changed() | {"x" * 10_000 + ".alpha": torch.ones(1)},
        "this model has no layer x{200}[.]{3}. ",
    ),
    "two adapters": (
        {f"{LAYER}.lora_{side}.{name}.weight": torch.ones(2, 2) for side in "AB" for name in ("one", "two")},
        "stored twice",
    ),
}


@pytest.mark.parametrize(("tensors", "said"), UNSOUND.values(), ids=UNSOUND.keys())
def test_unsound_adapters_are_refused(tensors: dict[str, Tensor], said: str, tmp_path: Path) -> None:
    path = write(tmp_path, tensors)
    with pytest.raises(MembraneFileError, match=said) as caught:
        read(path)
    assert str(path) in str(caught.value) and len(str(caught.value)) < 1000


def test_a_huge_rank_is_refused_before_all_layers_are_padded_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, changed(down=torch.ones(1000, 16), up=torch.ones(8, 1000)))
    monkeypatch.setattr(foreign, "MAX_BYTES", 10**6)
    monkeypatch.setattr(foreign, "completed", None)
    with pytest.raises(MembraneFileError, match=f"padded to the rank 1000 of {LAYER}, the membrane would take"):
        read(path)


def test_a_pickle_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    torch.save({"x": torch.ones(1)}, tmp_path / "lora.pt")
    with pytest.raises(MembraneFileError, match="can run code"):
        read(tmp_path / "lora.pt")
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "nowhere.safetensors")


# the membrane of a concept


def test_an_adopted_file_is_a_membrane_with_card_and_gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_few_words(monkeypatch)
    cat = Concept(name="cat", targets=("cat", "kitten"))
    made = lora(layers_of("sd1", lambda path: ".attn2." in path), [1, 2], whole=True)
    file = write(tmp_path, made.tensors(KOHYA) | TEXT, **{"modelspec.license": "MIT"})
    with pytest.raises(MembraneFileError, match="--drop-other-layers"):
        adopted(file, cat, model("sd1"))
    membrane = adopted(file, cat, model("sd1"), drop=True)
    assert_adds(membrane, made, "sd1")
    told = membrane.card
    assert told.concepts == (cat,) and told.gate is not None and told.licence == "MIT"
    assert (told.base_model, told.fingerprint) == ("tiny sd1", model("sd1").fingerprint())
    assert (told.layers, told.rank) == (48, 2)
    assert load_membrane(save(membrane, tmp_path / "own.safetensors")).card == told


def test_a_membrane_that_covers_a_part_is_completed(monkeypatch: pytest.MonkeyPatch) -> None:
    use_few_words(monkeypatch)
    part = random_membrane(layers_of("sd1", lambda path: ".attn2." in path), rank=2)
    membrane = adopted(part, Concept(name="cat"), model("sd1"))
    assert list(membrane.down) == list(layers_of("sd1"))
    for path in membrane.down:
        assert (
            torch.equal(membrane.delta(path), part.delta(path)) if path in part.down else not membrane.delta(path).any()
        )


def test_own_files_are_read_and_only_membranes_can_be_adopted(tmp_path: Path) -> None:
    own = random_membrane(layers_of("sd1"))
    assert same_bits(read(save(own, tmp_path / "own.safetensors")), own)
    delta = WeightDelta(card(kind="delta"), {"unet.conv_in.weight": torch.ones(3)}, "0" * 64)
    with pytest.raises(MembraneFileError, match="this is a weight delta, and only a membrane"):
        read(save(delta, tmp_path / "delta.safetensors"))
