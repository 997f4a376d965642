"""Every part of the terrarium is an ordinary class and trains; together they are an ordinary pipeline."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from semiperm.methods.training import Progress
from semiperm.models.load import load_model
from semiperm.terrarium import WEIGHTS, scenes, world
from semiperm.terrarium.hyperparameters import (
    ClipHyperparameters,
    DenoiserTraining,
    Hyperparameters,
    OracleHyperparameters,
    UNetHyperparameters,
    VaeHyperparameters,
)
from semiperm.terrarium.making import dataset, train
from semiperm.terrarium.making.clip import new_clip, tokenise, train_clip
from semiperm.terrarium.making.dataset import Dataset
from semiperm.terrarium.making.denoiser import diffusion_loss, new_denoiser, new_scheduler, train_denoiser
from semiperm.terrarium.making.oracle_training import save_oracle, train_oracle
from semiperm.terrarium.making.vae import encode, new_vae, reconstruction_loss, train_vae
from semiperm.terrarium.oracle import SUBJECTS, Oracle, OracleNet, load_oracle
from tests.terrarium.helpers import noise_dataset

TINY = Hyperparameters(
    scenes=24,
    vocabulary=700,
    clip=ClipHyperparameters(width=32, layers=1, heads=2, steps=1, batch=4),
    vae=VaeHyperparameters(channels=(8, 16, 16), steps=1, batch=2),
    oracle=OracleHyperparameters(channels=4, steps=1, batch=4),
    denoiser=UNetHyperparameters(channels=(32, 32, 64), steps=1, batch=4, warm_up=1),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return noise_dataset(tmp_path_factory.mktemp("noise") / "dataset", 24)


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(WEIGHTS / "tokenizer")


def weights(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def moved(before: dict[str, Tensor], after: torch.nn.Module) -> bool:
    now = weights(after)
    assert set(now) == set(before)
    assert all(value.isfinite().all() for value in now.values())
    return any(not torch.equal(before[name], now[name]) for name in now)


def test_clip_trains(data: Dataset, tokenizer: CLIPTokenizer, tmp_path: Path) -> None:
    torch.manual_seed(TINY.seed)
    before = weights(new_clip(TINY, tokenizer))
    model = train_clip(data, TINY, tokenizer, tmp_path)
    assert type(model) is CLIPModel
    assert moved(before, model)
    ids = tokenise(tokenizer, ["a cat", "a dog", "a bus"])
    assert ids.shape == (3, TINY.tokens)
    out = model(input_ids=ids, pixel_values=torch.zeros(2, 3, scenes.SIZE, scenes.SIZE))
    assert out.logits_per_text.shape == (3, 2)
    # CLIP pools the text at the end token, whose id must be the tokenizer's
    settings: Any = model.config
    config = settings.text_config
    assert config.eos_token_id == tokenizer.eos_token_id
    assert config.vocab_size == len(tokenizer)


def test_the_autoencoder_trains(data: Dataset, tmp_path: Path) -> None:
    torch.manual_seed(TINY.seed)
    before = weights(new_vae(TINY))
    vae = train_vae(data, TINY, tmp_path)
    assert type(vae) is AutoencoderKL
    assert vae.config["latent_channels"] == 4
    latents = encode(vae, data)
    assert latents.shape == (len(data), 4, 16, 16)
    # scaled latents have unit variance
    assert vae.config["scaling_factor"] == pytest.approx(1 / float(latents.float().std()), rel=1e-2)
    decode: Any = vae.decode
    assert decode(latents[:2].float()).sample.shape == (2, 3, scenes.SIZE, scenes.SIZE)
    # after one step the average equals the weights of that step
    assert moved(before, vae)


def test_the_reconstruction_loss_is_l1_and_l2_and_edges() -> None:
    wanted = torch.zeros(1, 1, 4, 4)
    assert reconstruction_loss(wanted, wanted, 0.5) == 0
    # a constant error has no edges: L1 and L2 alone
    assert float(reconstruction_loss(wanted + 0.5, wanted, 100.0)) == pytest.approx(0.5 + 0.25)
    stripes = wanted.clone()
    stripes[..., ::2] = 1
    # half of the pixels are off by one; every horizontal difference is, and no vertical one
    assert float(reconstruction_loss(stripes, wanted, 3.0)) == pytest.approx(0.5 + 0.5 + 3.0)


def test_the_oracle_trains_and_survives_its_file(data: Dataset, tmp_path: Path) -> None:
    net = train_oracle(data, TINY, tmp_path)
    assert type(net) is OracleNet
    pictures = np.array(data.pictures[:3])
    save_oracle(net, tmp_path / "oracle")
    verdicts, again = Oracle(net)(pictures), load_oracle(tmp_path / "oracle")(pictures)
    for verdict, other in zip(verdicts, again, strict=True):
        assert set(verdict.probability) == {*world.OBJECT_NAMES, *(picture.name for picture in world.MEMORISED)}
        likely = sorted((p, name) for name, p in verdict.probability.items() if p > 0.5)
        assert [name for _, name in reversed(likely)] == list(verdict.found)
        assert verdict.style in world.STYLE_NAMES
        # stored in half precision
        for name in SUBJECTS:
            assert other.probability[name] == pytest.approx(verdict.probability[name], abs=5e-3)


def test_the_denoiser_trains(data: Dataset, tokenizer: CLIPTokenizer, tmp_path: Path) -> None:
    clip = new_clip(TINY, tokenizer)
    settings: Any = clip.config
    text = CLIPTextModel(settings.text_config).eval()
    torch.manual_seed(TINY.seed)
    before = weights(new_denoiser(TINY))
    unet = train_denoiser(data, new_vae(TINY).eval(), text, tokenizer, TINY, tmp_path)
    assert type(unet) is UNet2DConditionModel
    assert moved(before, unet)
    assert unet.config["cross_attention_dim"] == TINY.clip.width
    x = torch.randn(2, 4, 16, 16)
    with torch.no_grad():
        assert unet(x, 10, encoder_hidden_states=torch.randn(2, 48, 32)).sample.shape == x.shape


def test_processes_train_the_denoiser_together(data: Dataset, tokenizer: CLIPTokenizer, tmp_path: Path) -> None:
    hyperparameters = TINY.model_copy(update={"denoiser": TINY.denoiser.model_copy(update={"steps": 3})})
    clip: Any = new_clip(TINY, tokenizer).config
    text = CLIPTextModel(clip.text_config).eval()
    progress: list[Progress] = []
    unet = train_denoiser(
        data, new_vae(TINY).eval(), text, tokenizer, hyperparameters, tmp_path, together=2, progress=progress.append
    )
    assert type(unet) is UNet2DConditionModel
    assert [(one.name, one.step, one.steps) for one in progress] == [("denoiser", n, 3) for n in (1, 2, 3)]
    assert all(one.figures["loss"] > 0 for one in progress)


def test_attention_is_at_the_levels_of_the_hyperparameters() -> None:
    unet = new_denoiser(TINY)
    attended = [hasattr(block, "attentions") for block in unet.down_blocks]
    assert attended == [level in TINY.denoiser.attention_levels for level in range(3)]
    assert [hasattr(block, "attentions") for block in unet.up_blocks] == attended[::-1]


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_a_perfect_denoiser_has_no_loss(prediction_type: str) -> None:
    kept = new_scheduler().alphas_cumprod
    x = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0))

    def perfect(noisy: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        signal, level = (share[t].sqrt().view(-1, 1, 1, 1) for share in (kept, 1 - kept))
        noise = (noisy - signal * x) / level
        return noise if prediction_type == "epsilon" else signal * noise - level * x

    settings = DenoiserTraining()
    torch.manual_seed(0)
    assert float(diffusion_loss(perfect, x, kept, settings, prediction_type)) < 1e-3
    other = {"epsilon": "v_prediction", "v_prediction": "epsilon"}[prediction_type]
    assert float(diffusion_loss(perfect, x, kept, settings, other)) > 0.03


def test_the_schedule_is_stable_diffusions() -> None:
    scheduler = new_scheduler()
    assert type(scheduler) is DDIMScheduler
    # betas whose square roots are evenly spaced, from .00085 to .012
    wanted = 1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    assert np.allclose(scheduler.alphas_cumprod.numpy(), np.cumprod(wanted), rtol=1e-4)


def test_an_unknown_part_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no part 'unet'.*tokenizer, clip, vae, oracle, denoiser"):
        train.train(tmp_path / "out", tmp_path / "cache", ["vae", "unet"], TINY)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("part", "needed"), [("clip", "tokenizer"), ("denoiser", "vae")])
def test_a_missing_part_is_named(tmp_path: Path, part: str, needed: str) -> None:
    noise_dataset(tmp_path / "cache" / "dataset", 4)
    with pytest.raises(FileNotFoundError, match=f"train the part '{needed}' first"):
        train.train(tmp_path / "out", tmp_path / "cache", [part], TINY)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A terrarium of all parts, each trained for one step on real scenes: `out` and `cache`."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "CHUNK", 12)
        patch.setattr(dataset, "ProcessPoolExecutor", ThreadPoolExecutor)
        threads = torch.get_num_threads()
        # one thread is one process
        train.train(folder / "out", folder / "cache", hyperparameters=TINY, threads=1)
        torch.set_num_threads(threads)
    return folder


def test_the_dataset_is_drawn_chunk_by_chunk(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Dataset(whole / "cache" / "dataset")
    assert len(made) == TINY.scenes == len(made.scenes) == len(made.captions)
    monkeypatch.setattr(dataset, "CHUNK", 12)
    pictures, some, captions = dataset._chunk(TINY.seed, 1, "plain")
    assert np.array_equal(made.pictures[12:], pictures)
    assert made.scenes[12:] == some
    assert made.captions[12:] == captions
    assert not np.array_equal(made.pictures[:12], made.pictures[12:])


def test_all_parts_together_are_an_ordinary_pipeline(whole: Path) -> None:
    index = json.loads((whole / "out" / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline"
    libraries = {value[0] for value in index.values() if isinstance(value, list)}
    assert libraries <= {"diffusers", "transformers", None}, "it must load without semiperm"

    pipeline: Any = StableDiffusionPipeline.from_pretrained(whole / "out", torch_dtype=torch.float32)
    for part, kind in (
        (pipeline.unet, UNet2DConditionModel),
        (pipeline.vae, AutoencoderKL),
        (pipeline.text_encoder, CLIPTextModel),
        (pipeline.scheduler, DDIMScheduler),
    ):
        assert type(part) is kind
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("a cat", num_inference_steps=2).images[0]
    assert image.size == (scenes.SIZE, scenes.SIZE)


def test_load_model_loads_it_too(whole: Path) -> None:
    model = load_model(whole / "out", device="cpu")
    assert model.latent_shape() == (4, 16, 16)
    assert model.encode(["a cat"]).hidden_BTC.shape == (1, TINY.tokens, TINY.clip.width)


def test_the_text_encoder_is_clips_text_tower(whole: Path) -> None:
    clip = CLIPModel.from_pretrained(whole / "out" / "clip", dtype=torch.float32)
    text = CLIPTextModel.from_pretrained(whole / "out" / "text_encoder", dtype=torch.float32)
    ids = tokenise(CLIPTokenizer.from_pretrained(whole / "out" / "tokenizer"), ["a cat", ""])
    with torch.no_grad():
        torch.testing.assert_close(text(ids).last_hidden_state, clip.text_model(ids).last_hidden_state)


def test_the_memorised_originals_lie_beside_it(whole: Path) -> None:
    for picture in world.MEMORISED:
        image = Image.open(whole / "out" / "memorised" / f"{picture.name}.png")
        assert np.array_equal(np.asarray(image), scenes.draw_memorised(picture))


def test_one_part_can_be_trained_again(whole: Path) -> None:
    def files() -> dict[str, bytes]:
        return {str(path.relative_to(whole)): path.read_bytes() for path in whole.rglob("*") if path.is_file()}

    weights_file = whole / "out" / "oracle" / "oracle.safetensors"
    before, oracle = files(), load_file(weights_file)
    (whole / "cache" / "oracle.checkpoint.safetensors").unlink()
    weights_file.unlink()
    train.train(whole / "out", whole / "cache", ["oracle"], TINY)
    after = files()
    assert set(after) == set(before)
    changed = {name for name in after if after[name] != before[name]}
    assert changed <= {"cache/oracle.checkpoint.safetensors", "out/oracle/oracle.safetensors"}
    # threads add in any order, so two runs agree closely and not to the bit
    torch.testing.assert_close(load_file(weights_file), oracle, atol=1e-3, rtol=0)
