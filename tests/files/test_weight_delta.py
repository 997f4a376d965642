"""Weight deltas in files: what comes back, what is refused, and what a delta from a file does to a model."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from semiperm import guard
from semiperm.concept import Concept
from semiperm.erasure import Card, Sampler, WeightDelta, base_digest, named_weights
from semiperm.errors import BaseModelError, MembraneFileError
from semiperm.files import safetensors as files
from semiperm.files.safetensors import load, load_membrane, save
from semiperm.models.load import model_of
from semiperm.models.model import DiffusionModel
from tests.helpers import random_membrane
from tests.tiny import tiny_pipeline

NAMES = (
    "unet.conv_in.weight",
    "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight",
    "text_encoder.final_layer_norm.bias",
)
DIGEST = "0123456789abcdef" * 4


def card(**facts: Any) -> Card:
    concepts = (Concept(name="cat", targets=("cat", "kitten")), Concept(name="Van Gogh", kind="style"))
    return Card(concepts=concepts, kind="delta", **facts)


def delta_for(model: DiffusionModel, dtype: torch.dtype = torch.float32) -> WeightDelta:
    weights = named_weights(model, NAMES)
    generator = torch.Generator().manual_seed(0)
    deltas = {name: torch.randn(weight.shape, generator=generator).to(dtype) for name, weight in weights.items()}
    return WeightDelta(card(base_model="tiny"), deltas, base_digest(weights))


def same(a: WeightDelta, b: WeightDelta) -> bool:
    return (
        (a.card, a.base_digest) == (b.card, b.base_digest)
        and a.deltas.keys() == b.deltas.keys()
        and all(
            x.dtype == y.dtype and x.shape == y.shape and torch.equal(x, y)
            for x, y in ((a.deltas[name], b.deltas[name]) for name in a.deltas)
        )
    )


def weights_of(pipeline: Any) -> dict[str, Tensor]:
    return {
        f"{part}.{name}": value.clone()
        for part, module in pipeline.components.items()
        if isinstance(module, nn.Module)
        for name, value in module.state_dict().items()
    }


# round trips


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_bits_card_and_digest_come_back(tmp_path: Path, dtype: torch.dtype) -> None:
    facts: dict[str, Any] = {"method": "uce", "settings": {"scale": 0.1}, "seed": 3, "licence": "MIT"}
    made = delta_for(model_of(tiny_pipeline()), dtype)
    delta = WeightDelta(card(**facts), made.deltas, made.base_digest)
    back = load(save(delta, tmp_path / "cat.safetensors"))
    assert isinstance(back, WeightDelta) and same(back, delta)


words = st.text("abz_019", min_size=1, max_size=6)
parts = st.text("abz_", min_size=1, max_size=6).filter(lambda text: text[0] != "_")
tensors = st.builds(
    lambda shape, seed: torch.randn(shape, generator=torch.Generator().manual_seed(seed)),
    st.lists(st.integers(1, 4), max_size=4),
    st.integers(0, 99),
)
names = st.builds(lambda part, path: ".".join([part, *path]), parts, st.lists(words, min_size=1, max_size=4))


@given(st.dictionaries(names, tensors, min_size=1, max_size=5))
def test_any_sound_delta_comes_back(tmp_path_factory: pytest.TempPathFactory, deltas: dict[str, Tensor]) -> None:
    folder = tmp_path_factory.mktemp("delta")
    delta = WeightDelta(card(), deltas, DIGEST)
    file = save(delta, folder / "x.safetensors")
    back = load(file)
    assert isinstance(back, WeightDelta) and same(back, delta)
    again = WeightDelta(delta.card, dict(reversed(deltas.items())), DIGEST)
    assert save(again, folder / "again.safetensors").read_bytes() == file.read_bytes()


def test_half_precision_on_request(tmp_path: Path) -> None:
    delta = delta_for(model_of(tiny_pipeline()))
    back = load(save(delta, tmp_path / "half.safetensors", dtype=torch.float16))
    assert isinstance(back, WeightDelta)
    assert all(torch.equal(back.deltas[name], delta.deltas[name].half()) for name in NAMES)


def test_tensors_have_the_names_of_their_weights(tmp_path: Path) -> None:
    delta = delta_for(model_of(tiny_pipeline()))
    path = save(delta, tmp_path / "cat.safetensors")
    assert load_file(path).keys() == set(NAMES)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["semiperm.card"])["kind"] == "delta"
    assert metadata["semiperm.base_digest"] == delta.base_digest


# on a model


@contextmanager
def unchanged(pipeline: Any) -> Iterator[None]:
    """Check that every weight of a pipeline is the same afterwards, bit for bit."""
    before = weights_of(pipeline)
    yield
    after = weights_of(pipeline)
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_loaded_delta_is_applied_and_taken_back_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    pipeline: Any = tiny_pipeline()
    model = model_of(pipeline, "tiny")
    delta = delta_for(model, dtype)
    before = weights_of(pipeline)
    loaded = load(save(delta, tmp_path / "cat.safetensors"))
    with unchanged(pipeline), loaded.on(model) as erased:
        assert erased is pipeline
        for name, weight in weights_of(pipeline).items():
            wanted = before[name] + delta.deltas[name].float() if name in NAMES else before[name]
            assert torch.equal(weight, wanted)


def test_a_guard_takes_the_file_of_a_delta(tmp_path: Path) -> None:
    pipeline: Any = tiny_pipeline()
    model = model_of(pipeline)
    delta = delta_for(model)
    path = save(delta, tmp_path / "cat.safetensors")

    def draw(called: Any) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        return called(prompt="a cat", generator=generator, num_inference_steps=2, output_type="pt").images

    with unchanged(pipeline):
        bare = draw(pipeline)
        with delta.on(model):
            wanted = draw(pipeline)
        with guard(pipeline, [path]) as guarded:
            assert torch.equal(draw(guarded), wanted)
    assert not torch.equal(bare, wanted)


def test_a_loaded_delta_refuses_another_base(tmp_path: Path) -> None:
    loaded = load(save(delta_for(model_of(tiny_pipeline())), tmp_path / "cat.safetensors"))
    other: Any = tiny_pipeline(seed=1)
    assert isinstance(loaded, WeightDelta)
    with unchanged(other):
        with pytest.raises(BaseModelError, match="was made for the weights of tiny"), loaded.on(model_of(other)):
            raise AssertionError("applied")
        with loaded.for_any_base().on(model_of(other)):
            pass


# what is refused


def sound() -> dict[str, Tensor]:
    return {"unet.conv_in.weight": torch.ones(2, 3)}


def metadata(**changes: str) -> dict[str, str]:
    found = {"semiperm.card": card().model_dump_json(), "semiperm.base_digest": DIGEST, **changes}
    return {name: text for name, text in found.items() if text}


UNSOUND: dict[str, tuple[dict[str, Tensor], str]] = {
    "no tensors": ({}, "no tensors"),
    "not a number": ({"unet.conv_in.weight": torch.tensor([torch.nan])}, "not finite"),
    "infinite": ({"unet.conv_in.weight": torch.tensor([torch.inf])}, "not finite"),
    "infinite and large": ({"unet.conv_in.weight": torch.full((300, 300), torch.inf)}, "not finite"),
    "integers": ({"unet.conv_in.weight": torch.ones(2, dtype=torch.int64)}, "torch.int64; the types allowed"),
    "float64": ({"unet.conv_in.weight": torch.ones(2, dtype=torch.float64)}, "torch.float64; the types allowed"),
    "float8": ({"unet.conv_in.weight": torch.ones(2).to(torch.float8_e4m3fn)}, "float8"),
    "integers called alpha": ({"unet.x.alpha": torch.ones(2, dtype=torch.int64)}, "torch.int64"),
    "one tensor of two": (sound() | {"unet.conv_out.weight": torch.tensor([torch.nan])}, "conv_out.* not finite"),
    **{
        f"the name {name!r}": ({name: torch.ones(2)}, "not named like a weight")
        for name in (
            "unet",
            "unet.",
            ".weight",
            "unet..weight",
            "unet/conv.weight",
            "__class__.x",
            "unet.a b",
            "ünet.x",
        )
    },
}


@pytest.mark.parametrize(("tensors", "message"), UNSOUND.values(), ids=UNSOUND.keys())
def test_unsound_deltas_are_neither_read_nor_written(tmp_path: Path, tensors: dict[str, Tensor], message: str) -> None:
    path = tmp_path / "cat.safetensors"
    save_file(tensors, path, metadata())
    with pytest.raises(MembraneFileError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)
    path.unlink()
    with pytest.raises(MembraneFileError, match=message):
        save(WeightDelta(card(), tensors, DIGEST), path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("digest", ["", "0123", DIGEST.upper(), DIGEST + "0"])
def test_a_delta_without_the_hash_of_its_base_is_neither_read_nor_written(tmp_path: Path, digest: str) -> None:
    path = tmp_path / "cat.safetensors"
    save_file(sound(), path, metadata(**{"semiperm.base_digest": digest}))
    with pytest.raises(MembraneFileError, match="no hash of the base weights"):
        load(path)
    path.unlink()
    with pytest.raises(MembraneFileError, match="no hash of the base weights"):
        save(WeightDelta(card(), sound(), digest), path)
    assert not path.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "card cannot be read"),
        ('{"kind": "delta"}', "concepts: Field required"),
        ('{"kind": "delta", "concepts": []}', "names at least one concept"),
        ('{"kind": "spell", "concepts": [{"name": "cat"}]}', "kind: Input should be"),
        ('{"kind": "sampler", "concepts": [{"name": "cat"}]}', "a sampler, which no file can hold"),
        ('{"kind": "membrane", "concepts": [{"name": "cat"}], "layers": 1}', "not a list of layer names"),
        ("", "not part of a LoRA"),
    ],
)
def test_malformed_cards_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "cat.safetensors"
    save_file(sound(), path, metadata(**{"semiperm.card": text}))
    with pytest.raises(MembraneFileError, match=message):
        load(path)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cat.safetensors"
    save_file(sound(), path, metadata())
    whole = path.read_bytes()
    assert isinstance(load(path), WeightDelta)
    for length in range(0, len(whole), 29):
        path.write_bytes(whole[:length])
        with pytest.raises(MembraneFileError):
            load(path)


def test_a_delta_may_be_larger_than_a_membrane(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = save(WeightDelta(card(), sound(), DIGEST), tmp_path / "cat.safetensors")
    size = path.stat().st_size
    monkeypatch.setattr(files, "MAX_BYTES", {"membrane": size - 1, "delta": size})
    assert isinstance(load(path), WeightDelta)
    monkeypatch.setattr(files, "MAX_BYTES", {"membrane": size, "delta": size - 1})
    with pytest.raises(MembraneFileError, match="more than a weight delta can have"):
        load(path)


def test_a_delta_is_not_taken_for_a_membrane(tmp_path: Path) -> None:
    path = save(WeightDelta(card(), sound(), DIGEST), tmp_path / "cat.safetensors")
    with pytest.raises(MembraneFileError, match="a weight delta, and only a membrane can be used here"):
        load_membrane(path)


def test_what_no_file_can_hold_is_not_written(tmp_path: Path) -> None:
    class Nothing(Sampler):
        card = card().model_copy(update={"kind": "sampler"})

        def on(self, model: DiffusionModel) -> Any:
            raise NotImplementedError

    path = tmp_path / "cat.safetensors"
    with pytest.raises(MembraneFileError, match="'cat, Van Gogh' is a sampler, which has no tensors"):
        save(Nothing(), path)
    wrong = random_membrane({"a": nn.Linear(2, 2)}).with_card(kind="delta")
    with pytest.raises(MembraneFileError, match="is a membrane, but its card says that it is a weight delta"):
        save(wrong, path)
    assert not path.exists()
