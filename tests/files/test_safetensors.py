"""Files: what is written, what is read, and what is refused."""

import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from semiperm.concept import Concept
from semiperm.errors import CoverageError, MembraneFileError
from semiperm.files import container
from semiperm.files.safetensors import MAX_BYTES, load_membrane, save
from semiperm.gate import ProbeGate
from semiperm.membrane import Membrane
from semiperm.models.layers import erasable_layers
from semiperm.stack import Stack
from tests.helpers import random_membrane, same_bits, scaled
from tests.tiny import tiny_pipeline, tiny_xl_pipeline

LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
NAME = "lora_unet_" + LAYER.replace(".", "_")


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return file.metadata()


def unet_layers() -> dict[str, nn.Module]:
    return erasable_layers(tiny_pipeline().unet)


def full_card() -> dict[str, Any]:
    return {
        "concepts": (Concept(name="cat, the animal", targets=("cat", "kitten"), surrogate="a dog"),),
        "base_model": "someone/model",
        "architecture": "stable-diffusion-v1",
        "method": "spm",
        "settings": {"steps": 150, "betas": [0.9, 0.999], "nested": {"eta": 1.0}},
        "gate": ProbeGate(weight=(0.1, -1e-30, 3.0), bias=0.1 + 0.2, threshold=0.5, phrases=("cat", "cats")),
        "versions": {"torch": "2"},
        "seed": 7,
        "date": "2026-01-02",
        "licence": "Apache-2.0",
        "effect": {"target": 0.1 + 0.2},
    }


# round trips


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_bits_and_card_come_back(tmp_path: Path, rank: int, dtype: torch.dtype) -> None:
    membrane = random_membrane(unet_layers(), rank=rank).to(dtype=dtype).with_card(**full_card())
    back = load_membrane(save(membrane, tmp_path / "cat.safetensors"))
    assert back.card == membrane.card
    assert same_bits(back, membrane)


@pytest.mark.parametrize("made_with", [False, True])
def test_a_file_fits_both_spellings_of_the_projections(tmp_path: Path, made_with: bool) -> None:
    here, there = (tiny_pipeline(linear_projection=spelling).unet for spelling in (made_with, not made_with))
    file = save(random_membrane(erasable_layers(here)), tmp_path / "cat.safetensors")
    for unet in (here, there):
        Stack(unet).add("cat", load_membrane(file))


def test_half_precision_on_request(tmp_path: Path) -> None:
    membrane = random_membrane(unet_layers())
    whole = save(membrane, tmp_path / "whole.safetensors")
    half = save(membrane, tmp_path / "half.safetensors", dtype=torch.float16)
    assert same_bits(load_membrane(half), membrane.to(dtype=torch.float16))
    assert load_membrane(half).card == membrane.card
    assert half.stat().st_size < whole.stat().st_size


def test_the_same_membrane_gives_the_same_bytes_every_time(tmp_path: Path) -> None:
    # safetensors itself shuffles the metadata, within one process too
    membrane = random_membrane(unet_layers()).with_card(**full_card())
    path = tmp_path / "cat.safetensors"
    assert len({save(membrane, path).read_bytes() for _ in range(5)}) == 1
    assert save(load_membrane(path), tmp_path / "again" / "cat.safetensors").read_bytes() == path.read_bytes()


def test_what_other_tools_read_is_there(tmp_path: Path) -> None:
    path = save(random_membrane(unet_layers(), rank=2).with_card(**full_card()), tmp_path / "my cat.safetensors")
    tensors = load_file(path)
    assert len(tensors) == 3 * 48
    assert tensors[f"{NAME}.lora_down.weight"].shape == (2, 16)
    assert tensors[f"{NAME}.alpha"].shape == () and tensors[f"{NAME}.alpha"] == 2
    found = metadata(path)
    assert found["ss_network_dim"] == found["ss_network_alpha"] == "2"
    assert (found["ss_base_model_version"], found["ss_v2"], found["ss_output_name"]) == ("sd_v1", "False", "my cat")
    assert found["modelspec.sai_model_spec"] == "1.0.1"
    assert found["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert found["modelspec.license"] == "Apache-2.0"
    assert json.loads(found["semiperm.card"])["concepts"][0]["surrogate"] == "a dog"


def test_a_file_that_exists_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "cat.safetensors"
    path.write_text("old")
    save(random_membrane(unet_layers()), path)
    assert load_membrane(path) and list(tmp_path.iterdir()) == [path]


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cat.safetensors"
    path.write_text("old")

    def full_disk(self: Path, data: bytes) -> int:
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="no space"):
        save(random_membrane(unet_layers()), path)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_what_could_not_be_read_is_not_written(tmp_path: Path) -> None:
    membrane = random_membrane(unet_layers())
    with pytest.raises(MembraneFileError, match="must end in .safetensors"):
        save(membrane, tmp_path / "cat.pt")
    with pytest.raises(MembraneFileError, match="not finite"):
        save(scaled(membrane, 1e30), tmp_path / "cat.safetensors", dtype=torch.float16)
    with pytest.raises(MembraneFileError, match="float64"):
        save(membrane.to(dtype=torch.float64), tmp_path / "cat.safetensors")
    twins = random_membrane({"a.b": nn.Linear(2, 2), "a_b": nn.Linear(2, 2)})
    with pytest.raises(MembraneFileError, match="one flattened name, lora_unet_a_b"):
        save(twins, tmp_path / "cat.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_card_of_version_0_1_is_read(tmp_path: Path) -> None:
    path = tmp_path / "cat.safetensors"
    old = {
        "concept": {"name": "cat", "targets": ["cat", "kitten"], "surrogate": "dog", "kind": "object"},
        "recipe": {"loop": "authors", "steps": 100},
        "gate": {"kind": "token-probe/1", "weight": [0.5], "bias": 0.0, "threshold": 0.25, "margin": 0.1},
        "layers": 1,
    }
    save_file(sound(), path, own_metadata(**{"semiperm.card": json.dumps(old)}))
    card = load_membrane(path).card
    assert card.concepts == (Concept(name="cat", targets=("cat", "kitten"), surrogate="dog"),)
    assert (card.method, card.settings) == ("spm-published", {"steps": 100})
    assert card.gate == ProbeGate(weight=(0.5,), bias=0.0, threshold=0.25, margin=0.1)


# diffusers reads ours


@pytest.mark.parametrize("family", ["conv", "linear", "xl"])
@pytest.mark.parametrize("rank", [1, 2])
def test_diffusers_makes_the_same_images_of_our_file(tmp_path: Path, family: str, rank: int) -> None:
    pipeline: Any = tiny_xl_pipeline() if family == "xl" else tiny_pipeline(linear_projection=family == "linear")

    def draw() -> Tensor:
        images = pipeline(
            ["a cat", "a dog"],
            num_inference_steps=3,
            generator=[torch.Generator().manual_seed(seed) for seed in (1, 2)],
            height=16,
            width=16,
            output_type="pt",
        ).images
        return images

    bare = draw()
    stack = Stack(pipeline.unet)
    file = save(random_membrane(stack.layers, rank=rank), tmp_path / "cat.safetensors")
    stack.add("cat", load_membrane(file))
    with stack:
        stack.set_permeability(torch.ones(1, 1))
        ours = draw()
    pipeline.load_lora_weights(tmp_path, weight_name=file.name)
    theirs = draw()
    assert (ours - theirs).abs().max() < 1e-5
    assert (ours - bare).abs().max() > 1e-2


# foreign files


def authors_file(
    path: Path, membrane: Membrane, prompts: str = "Van Gogh, the painter", alpha: float = 1.0, **facts: str
) -> Path:
    """A file as the SPM authors publish it: rank 1, UNet only, three metadata."""
    tensors: dict[str, Tensor] = {}
    for layer in membrane.down:
        name = "lora_unet_" + layer.replace(".", "_")
        tensors[f"{name}.lora_down.weight"] = membrane.down[layer].contiguous()
        tensors[f"{name}.lora_up.weight"] = membrane.up[layer].contiguous()
        tensors[f"{name}.alpha"] = torch.tensor(alpha)
    save_file(tensors, path, {"prompts": prompts, "rank": str(membrane.rank), "alpha": str(alpha), **facts})
    return path


@pytest.mark.parametrize("with_layers", [False, True])
def test_the_authors_files_are_read(tmp_path: Path, with_layers: bool) -> None:
    found = unet_layers()
    membrane = random_membrane(found)
    back = load_membrane(authors_file(tmp_path / "last.safetensors", membrane), layers=found if with_layers else None)
    # a comma is part of the name
    assert back.card.concept == Concept(name="Van Gogh, the painter")
    assert back.card.layers == 48
    assert same_bits(back.fitted_to(found), membrane)


def test_an_authors_file_of_another_rank_than_it_says_is_refused(tmp_path: Path) -> None:
    path = authors_file(tmp_path / "x.safetensors", random_membrane(unet_layers(), rank=2), rank="1")
    with pytest.raises(MembraneFileError, match="say rank 1, but its tensors have 2"):
        load_membrane(path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_alpha_is_folded_into_up(tmp_path: Path, dtype: torch.dtype) -> None:
    membrane = random_membrane(unet_layers(), rank=4).to(dtype=dtype)
    back = load_membrane(authors_file(tmp_path / "x.safetensors", membrane, alpha=0.1))
    assert torch.allclose(back.delta(LAYER), 0.025 * membrane.to(dtype=torch.float32).delta(LAYER), atol=1e-7)
    again = load_membrane(save(back, tmp_path / "again.safetensors"))
    assert same_bits(again, back)


def test_a_plain_lora_is_called_as_its_file_and_may_lack_alphas(tmp_path: Path) -> None:
    membrane = random_membrane(unet_layers(), rank=2)
    tensors = {k: v for k, v in load_file(save(membrane, tmp_path / "own.safetensors")).items() if "alpha" not in k}
    save_file(tensors, tmp_path / "my style.safetensors")
    back = load_membrane(tmp_path / "my style.safetensors")
    assert back.card.concept.name == "my style"
    assert same_bits(back.fitted_to(unet_layers()), membrane)


def test_a_foreign_file_says_what_it_knows(tmp_path: Path) -> None:
    file = save(random_membrane(unet_layers()).with_card(**full_card()), tmp_path / "own.safetensors")
    kept = {key: value for key, value in metadata(file).items() if not key.startswith("semiperm")}
    save_file(load_file(file), tmp_path / "plain.safetensors", kept)
    read = load_membrane(tmp_path / "plain.safetensors").card
    assert read.concept.name == "own"
    assert (read.architecture, read.base_model) == ("stable-diffusion-v1", "someone/model")
    assert (read.licence, read.date) == ("Apache-2.0", "2026-01-02")


def test_the_models_layers_resolve_any_names(tmp_path: Path) -> None:
    odd = {"odd_name.x_1": nn.Linear(3, 2), "odd_name.y": nn.Conv2d(3, 2, 3)}
    path = authors_file(tmp_path / "x.safetensors", random_membrane(odd))
    assert list(load_membrane(path, layers=odd).down) == list(odd)
    with pytest.raises(MembraneFileError, match=r"lora_unet_odd_name_.* is not a layer in the transformer blocks"):
        load_membrane(path)
    with pytest.raises(MembraneFileError, match="no tensors for more"):
        load_membrane(path, layers=[*odd, "more"])
    with pytest.raises(MembraneFileError, match="lora_unet_odd_name_y is no layer that a membrane covers"):
        load_membrane(path, layers=["odd_name.x_1"])
    with pytest.raises(MembraneFileError, match="share one flattened name"):
        load_membrane(path, layers=["a.b", "a_b"])


def test_a_file_of_another_architecture_is_refused_by_the_stack(tmp_path: Path) -> None:
    file = save(random_membrane(erasable_layers(tiny_xl_pipeline().unet)), tmp_path / "xl.safetensors")
    stack = Stack(tiny_pipeline().unet)
    with pytest.raises(CoverageError, match=r"only the membrane has .*; of different sizes are"):
        stack.add("cat", load_membrane(file))
    assert stack.names == []


def test_a_file_that_lacks_layers_is_refused_by_the_stack(tmp_path: Path) -> None:
    found = unet_layers()
    path = authors_file(tmp_path / "x.safetensors", random_membrane({LAYER: found[LAYER]}))
    with pytest.raises(CoverageError) as caught:
        Stack(tiny_pipeline().unet).add("cat", load_membrane(path))
    assert len(caught.value.missing) == 47


# what is refused


def sound() -> dict[str, Tensor]:
    return {
        f"{NAME}.lora_down.weight": torch.ones(1, 4),
        f"{NAME}.lora_up.weight": torch.ones(3, 1),
        f"{NAME}.alpha": torch.tensor(1.0),
    }


def own_metadata(**changes: str) -> dict[str, str]:
    return {
        "semiperm.card": json.dumps({"concepts": [{"name": "cat"}], "layers": 1, "rank": 1}),
        "semiperm.layers": json.dumps([LAYER]),
        **changes,
    }


def raw(header: object, body: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def entry(begin: int, end: int, shape: list[int] | None = None, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": [1, 1] if shape is None else shape, "data_offsets": [begin, end]}


HARMFUL: dict[str, bytes] = {
    "empty": b"",
    "seven bytes": b"1234567",
    "text": b"this is not a membrane, but a sentence of some length",
    "a web page": b"<!DOCTYPE html><html><body>404</body></html>",
    "a pickle": b"\x80\x04\x95\x1a\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.",
    "header longer than the file": raw({}, length=1000),
    "header of exabytes": raw({}, length=2**63),
    "header just over the limit": raw({}, length=container.MAX_HEADER_BYTES + 1),
    "header of no bytes": raw(b""),
    "header that is no JSON": raw(b"{not json}"),
    "header that is a list": raw([1, 2, 3]),
    "header in a wrong encoding": raw(b'{"\xff\xfe": 1}'),
    "header nested too deeply": raw(b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
    "no tensors": raw({"__metadata__": {"format": "pt"}}),
    "metadata that are no strings": raw({"__metadata__": {"a": {"b": 1}}, "x": entry(0, 4)}, bytes(4)),
    "offsets past the end": raw({f"{NAME}.lora_down.weight": entry(0, 4000, [1, 1000])}, bytes(4)),
    "offsets backwards": raw({f"{NAME}.lora_down.weight": entry(4, 0)}, bytes(4)),
    "offsets below zero": raw({f"{NAME}.lora_down.weight": entry(-4, 0)}, bytes(4)),
    "offsets that overlap": raw(
        {f"{NAME}.lora_down.weight": entry(0, 4), f"{NAME}.lora_up.weight": entry(0, 4)}, bytes(4)
    ),
    "offsets with a hole": raw(
        {f"{NAME}.lora_down.weight": entry(0, 4), f"{NAME}.lora_up.weight": entry(8, 12)}, bytes(12)
    ),
    "bytes that no tensor owns": raw({f"{NAME}.lora_down.weight": entry(0, 4)}, bytes(400)),
    "shape that does not match": raw({f"{NAME}.lora_down.weight": entry(0, 4, [1, 7])}, bytes(4)),
    "shape that overflows": raw({f"{NAME}.lora_down.weight": entry(0, 4, [2**40, 2**40])}, bytes(4)),
    "shape below zero": raw({f"{NAME}.lora_down.weight": entry(0, 4, [-1, -1])}, bytes(4)),
    "empty tensor of a huge shape": raw({f"{NAME}.lora_down.weight": entry(0, 0, [0, 2**62])}),
    "unknown type": raw({f"{NAME}.lora_down.weight": entry(0, 4, dtype="PICKLE")}, bytes(4)),
}


@pytest.mark.parametrize("data", HARMFUL.values(), ids=HARMFUL.keys())
def test_harmful_files_are_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "harmful.safetensors"
    path.write_bytes(data)
    with pytest.raises(MembraneFileError) as caught:
        load_membrane(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 600


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    whole = save(random_membrane({LAYER: nn.Linear(16, 8)}), tmp_path / "whole.safetensors").read_bytes()
    path = tmp_path / "cut.safetensors"
    for length in range(0, len(whole), 37):
        path.write_bytes(whole[:length])
        with pytest.raises(MembraneFileError):
            load_membrane(path)


def changed(**changes: Tensor | None) -> dict[str, Tensor]:
    ends = {"down": ".lora_down.weight", "up": ".lora_up.weight", "alpha": ".alpha"}
    tensors = sound()
    for side, tensor in changes.items():
        tensors.pop(NAME + ends[side])
        if tensor is not None:
            tensors[NAME + ends[side]] = tensor
    return tensors


UNSOUND: dict[str, tuple[dict[str, Tensor], str]] = {
    "up without down": (changed(down=None), "one is missing: down_blocks.0"),
    "down without up": (changed(up=None), "one is missing: down_blocks.0"),
    "alpha alone": (changed(down=None, up=None), "no adapter tensors"),
    "ranks that differ": (changed(up=torch.ones(3, 2)), "not a pair"),
    "rank 0": (changed(down=torch.ones(0, 4), up=torch.ones(3, 0)), "no matrix"),
    "vectors": (changed(down=torch.ones(4), up=torch.ones(3)), "no matrix"),
    "conv against linear": (changed(down=torch.ones(1, 4, 1, 1)), "not a pair"),
    "an up with a kernel": (changed(down=torch.ones(1, 4, 3, 3), up=torch.ones(3, 1, 3, 3)), "not a pair"),
    "not a number": (changed(up=torch.full((3, 1), torch.nan)), "not finite"),
    "infinite": (changed(down=torch.full((1, 4), torch.inf)), "not finite"),
    "integers": (
        changed(down=torch.ones(1, 4, dtype=torch.int32)),
        "int32; the types allowed are float16, bfloat16",
    ),
    "float64": (changed(down=torch.ones(1, 4, dtype=torch.float64)), "float64"),
    "float8": (changed(down=torch.ones(1, 4).to(torch.float8_e4m3fn)), "float8"),
    "alpha zero": (changed(alpha=torch.tensor(0.0)), "and not 0"),
    "alpha infinite": (changed(alpha=torch.tensor(torch.inf)), "not finite"),
    "alpha a list": (changed(alpha=torch.ones(2)), "one number"),
    "alpha that overflows": (changed(up=torch.full((3, 1), 1e30), alpha=torch.tensor(1e30)), "not finite"),
    "a tensor more": (sound() | {"extra": torch.ones(1)}, "tensor 'extra' is not part of a LoRA"),
    "a text encoder": (
        sound() | {"lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": torch.ones(1, 4)},
        "not part of a LoRA for a denoiser",
    ),
    "a LoHa": ({f"{NAME}.hada_w1_a": torch.ones(1, 4)}, "not part of a LoRA"),
    "half a pair in PEFT's names": ({f"unet.{LAYER}.lora_A.weight": torch.ones(1, 4)}, "one is missing"),
    "PEFT's names under nothing": ({f"{LAYER}.lora_A.weight": torch.ones(1, 4)}, "Two kinds of names are read"),
    "a whole model": ({f"{LAYER}.weight": torch.ones(3, 4)}, "not part of a LoRA"),
    "two ranks": (
        sound() | {f"lora_unet_mid_block_{i}.lora_{s}.weight": torch.ones(2, 2) for i in "0" for s in ("up", "down")},
        "every layer must have the same rank",
    ),
}


@pytest.mark.parametrize(("tensors", "said"), UNSOUND.values(), ids=UNSOUND.keys())
def test_unsound_adapters_are_refused(tmp_path: Path, tensors: dict[str, Tensor], said: str) -> None:
    path = tmp_path / "unsound.safetensors"
    save_file(tensors, path)
    with pytest.raises(MembraneFileError, match=said) as caught:
        load_membrane(path)
    assert str(path) in str(caught.value)


CARDS: dict[str, tuple[dict[str, str], str]] = {
    "no JSON": ({"semiperm.card": "{"}, "card cannot be read"),
    "JSON of another kind": ({"semiperm.card": "[]"}, "card cannot be read"),
    "no concept": ({"semiperm.card": "{}"}, "concepts: Field required"),
    "a concept without a name": ({"semiperm.card": '{"concepts": [{"name": " "}]}'}, "needs a name"),
    "an unknown field": (
        {"semiperm.card": '{"concepts": [{"name": "cat"}], "run": "rm"}'},
        r"run: Extra inputs .* newer semiperm",
    ),
    "a gate that could never open": (
        {"semiperm.card": '{"concepts": [{"name": "cat"}], "gate": {"weight": [1], "bias": 0, "threshold": 1e999}}'},
        "card cannot be read",
    ),
    "no promise": ({"semiperm.card": '{"concepts": [{"name": "cat"}]}'}, "how many layers"),
    "a promise of more layers": (
        {"semiperm.card": '{"concepts": [{"name": "cat"}], "layers": 192}'},
        "promises layers = 192, but the weights have 1",
    ),
    "a promise of more rank": (
        {"semiperm.card": '{"concepts": [{"name": "cat"}], "layers": 1, "rank": 8}'},
        "promises rank = 8",
    ),
    "layers that are no JSON": ({"semiperm.layers": "["}, "not a list of layer names"),
    "layers nested too deeply": ({"semiperm.layers": "[" * 100_000}, "not a list of layer names"),
    "layers that are no names": ({"semiperm.layers": "[1]"}, "not a list of layer names"),
    "layers of another model": ({"semiperm.layers": '["other"]'}, "is no layer that a membrane covers"),
    "layers without tensors": ({"semiperm.layers": json.dumps([LAYER, "more"])}, "no tensors for more"),
}


@pytest.mark.parametrize(("changes", "said"), CARDS.values(), ids=CARDS.keys())
def test_malformed_cards_are_refused(tmp_path: Path, changes: dict[str, str], said: str) -> None:
    path = tmp_path / "cat.safetensors"
    save_file(sound(), path, own_metadata())
    assert load_membrane(path).card.concept.name == "cat"
    save_file(sound(), path, own_metadata(**changes))
    with pytest.raises(MembraneFileError, match=said) as caught:
        load_membrane(path)
    assert str(path) in str(caught.value)


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"cos\nsystem\n.")


@pytest.mark.parametrize("suffix", [".pt", ".ckpt", ".bin", ".PTH", ".safetensors"])
@pytest.mark.parametrize("write", [zipped, lambda path: torch.save({"x": torch.ones(1)}, path)])
def test_pickles_are_never_opened(tmp_path: Path, suffix: str, write: Callable[[Path], None]) -> None:
    path = tmp_path / f"cat{suffix}"
    write(path)
    said = "not a safetensors file" if suffix == ".safetensors" else "can run code"
    with pytest.raises(MembraneFileError, match=said):
        load_membrane(path)


def test_files_too_large_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.safetensors"
    path.write_bytes(raw({}))
    with path.open("r+b") as file:
        # sparse: it takes no room on the disk
        file.truncate(MAX_BYTES["membrane"] + 1)
    with pytest.raises(MembraneFileError, match="more than a membrane can have"):
        load_membrane(path)


def test_a_missing_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_membrane(tmp_path / "nowhere.safetensors")
