"""Complete diffusers pipelines with a few thousand random weights, the same at every call: for tests only."""

from typing import Any, Literal

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_kl_qwenimage import AutoencoderKLQwenImage
from diffusers.models.transformers.pixart_transformer_2d import PixArtTransformer2DModel
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from diffusers.models.transformers.transformer_qwenimage import QwenImageTransformer2DModel
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.flux.pipeline_flux import FluxPipeline
from diffusers.pipelines.pixart_alpha.pipeline_pixart_alpha import PixArtAlphaPipeline
from diffusers.pipelines.pixart_alpha.pipeline_pixart_sigma import PixArtSigmaPipeline
from diffusers.pipelines.qwenimage.pipeline_qwenimage import QwenImagePipeline
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import StableDiffusion3Pipeline
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

COMMON = (
    "a an and the of in on with by as at to no cat cats dog dogs kitten puppy fox car bomb tree apple photo picture "
    "painting drawing sketch style red blue green small large two plain person street house sky"
)
WORDS = COMMON.split()
START, END = "<|startoftext|>", "<|endoftext|>"
HIDDEN = 16


def tiny_tokenizer(pad_token: str = END) -> CLIPTokenizer:
    """A byte-level vocabulary in which each of WORDS is one token and any other text still tokenises."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    unprintable = range(256 - len(printable))
    letters = [chr(code) for code in printable] + [chr(256 + index) for index in unprintable]
    vocab = {token: index for index, token in enumerate([*letters, *(f"{letter}</w>" for letter in letters)])}
    merges: dict[tuple[str, str], None] = {}
    for word in WORDS:
        pieces = [*word[:-1], f"{word[-1]}</w>"]
        while len(pieces) > 1:
            # from the end to the front, so that no word's merges can take letters from another word
            pair = (pieces[-2], pieces[-1])
            merges[pair] = None
            pieces[-2:] = ["".join(pair)]
            vocab.setdefault(pieces[-1], len(vocab))
    for token in (START, END):
        vocab[token] = len(vocab)
    if pad_token not in vocab:
        raise ValueError(f"{pad_token!r} is not in the tiny vocabulary")
    pairs: Any = list(merges)
    return CLIPTokenizer(vocab=vocab, merges=pairs, pad_token=pad_token, model_max_length=77)


def _text_config(tokenizer: CLIPTokenizer) -> CLIPTextConfig:
    vocab = tokenizer.get_vocab()
    return CLIPTextConfig(
        vocab_size=len(vocab),
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        projection_dim=HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=77,
        bos_token_id=vocab[START],
        eos_token_id=vocab[END],
        # the text model's own padding plays no part in what it computes
        pad_token_id=vocab[END],
    )


def _vae(**changes: Any) -> AutoencoderKL:
    # diffusers annotates its sequences as tuples of one
    config: dict[str, Any] = {
        "block_out_channels": (8, 16),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "layers_per_block": 1,
        "latent_channels": 4,
        "norm_num_groups": 4,
        "sample_size": 16,
        **changes,
    }
    return AutoencoderKL(**config).eval()


def _unet(**changes: Any) -> UNet2DConditionModel:
    config: dict[str, Any] = {
        "sample_size": 8,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        **changes,
    }
    return UNet2DConditionModel(**config).eval()


def _scheduler(prediction_type: Literal["epsilon", "v_prediction"]) -> Any:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )


def tiny_pipeline(
    *,
    linear_projection: bool = False,
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon",
    seed: int = 0,
) -> StableDiffusionPipeline:
    """A Stable Diffusion of 16x16 pixels with 4 transformer blocks, 48 layers for a membrane."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = tiny_tokenizer()
        nothing: Any = None
        pipeline = StableDiffusionPipeline(
            unet=_unet(
                down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
                cross_attention_dim=HIDDEN,
                attention_head_dim=2,
                use_linear_projection=linear_projection,
            ),
            vae=_vae(),
            text_encoder=CLIPTextModel(_text_config(tokenizer)).eval(),
            tokenizer=tokenizer,
            scheduler=_scheduler(prediction_type),
            safety_checker=nothing,
            feature_extractor=nothing,
            requires_safety_checker=False,
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def tiny_t5_tokenizer() -> T5Tokenizer:
    """A unigram vocabulary of WORDS and letters, with T5's end token and no start token."""
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0), ("\u2581", -4.0)]
    pieces += [(f"\u2581{word}", -2.0) for word in WORDS] + [(letter, -8.0) for letter in letters]
    vocab: Any = pieces
    return T5Tokenizer(vocab=vocab, extra_ids=0, model_max_length=32)


def _t5(tokenizer: T5Tokenizer, width: int) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(vocab_size=len(tokenizer), d_model=width, d_kv=8, d_ff=2 * width, num_layers=1, num_heads=2)
    ).eval()


def tiny_sd3_pipeline(seed: int = 0, *, t5: bool = True) -> StableDiffusion3Pipeline:
    """A Stable Diffusion 3 of 16x16 pixels: two CLIP encoders, T5 or none, joint attention in two blocks."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer, tokenizer_2 = tiny_tokenizer(), tiny_tokenizer(pad_token="!")
        tokenizer_3 = tiny_t5_tokenizer()
        width = 2 * HIDDEN + 8
        build: Any = SD3Transformer2DModel
        whole: Any = StableDiffusion3Pipeline
        pipeline = whole(
            transformer=build(
                sample_size=8, patch_size=2, in_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2,
                joint_attention_dim=width, caption_projection_dim=16, pooled_projection_dim=2 * HIDDEN, out_channels=4,
                pos_embed_max_size=8,
            ).eval(),
            vae=_vae(shift_factor=0.1),
            text_encoder=CLIPTextModelWithProjection(_text_config(tokenizer)).eval(),
            tokenizer=tokenizer,
            text_encoder_2=CLIPTextModelWithProjection(_text_config(tokenizer_2)).eval(),
            tokenizer_2=tokenizer_2,
            text_encoder_3=_t5(tokenizer_3, width) if t5 else None,
            tokenizer_3=tokenizer_3 if t5 else None,
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def tiny_flux_pipeline(seed: int = 0, *, dev: bool = True) -> FluxPipeline:
    """A FLUX.1 of 16x16 pixels: CLIP for modulation, T5 for joint attention, one double and one single block."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer, tokenizer_2 = tiny_tokenizer(), tiny_t5_tokenizer()
        build: Any = FluxTransformer2DModel
        whole: Any = FluxPipeline
        pipeline = whole(
            transformer=build(
                patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16,
                num_attention_heads=2, joint_attention_dim=16, pooled_projection_dim=HIDDEN, guidance_embeds=dev,
                axes_dims_rope=(4, 4, 8),
            ).eval(),
            vae=_vae(shift_factor=0.1),
            text_encoder=CLIPTextModel(_text_config(tokenizer)).eval(),
            tokenizer=tokenizer,
            text_encoder_2=_t5(tokenizer_2, 16),
            tokenizer_2=tokenizer_2,
            scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=dev),
        )  # fmt: skip
    # the class takes pictures of 1024 pixels by default
    pipeline.default_sample_size = 8
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def tiny_pixart_pipeline(seed: int = 0, *, sigma: bool = True) -> PixArtSigmaPipeline | PixArtAlphaPipeline:
    """A PixArt of 256x256 pixels in patches of 32x32: T5 projected to the denoiser's width, learned variance.

    The alpha is told its picture's size, as every alpha of 128x128 latents is.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = tiny_t5_tokenizer()
        build: Any = PixArtTransformer2DModel
        whole: Any = PixArtSigmaPipeline if sigma else PixArtAlphaPipeline
        pipeline = whole(
            transformer=build(
                sample_size=128, patch_size=16, in_channels=4, out_channels=8, num_layers=2, attention_head_dim=12,
                num_attention_heads=2, cross_attention_dim=24, caption_channels=16,
                use_additional_conditions=False if sigma else None,
            ).eval(),
            vae=_vae(),
            text_encoder=_t5(tokenizer, 16),
            tokenizer=tokenizer,
            scheduler=DDIMScheduler(beta_start=0.0001, beta_end=0.02, clip_sample=False),
        )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


CHAT = (
    "system Describe user assistant the image by detailing color shape size texture quantity text spatial "
    "relationships of objects and background"
)


def tiny_qwen_tokenizer() -> Qwen2Tokenizer:
    """A byte-level vocabulary in which CHAT and, behind a space, WORDS are one token each, with Qwen's special tokens.

    As in the real one a word at the beginning of a text is another token than behind a space.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = [chr(code) for code in printable] + [chr(256 + index) for index in range(256 - len(printable))]
    vocab = {letter: index for index, letter in enumerate(letters)}
    merges: dict[tuple[str, str], None] = {}
    # what begins with a space first, so that no other word's merges take letters from it
    for word in [*(f"\u0120{word}" for word in [*CHAT.split(), *WORDS]), *CHAT.split()[:4], "cat"]:
        for end in range(1, len(word)):
            merges[word[:end], word[end]] = None
            vocab.setdefault(word[: end + 1], len(vocab))
    for token in ("<|endoftext|>", "<|im_start|>", "<|im_end|>"):
        vocab[token] = len(vocab)
    pairs: Any = list(merges)
    return Qwen2Tokenizer(vocab=vocab, merges=pairs, additional_special_tokens=["<|im_start|>", "<|im_end|>"])


def tiny_qwen_pipeline(seed: int = 0) -> QwenImagePipeline:
    """A Qwen-Image of 16x16 pixels: a language model reads the prompt, joint attention in two blocks."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = tiny_qwen_tokenizer()
        config: Any = Qwen2_5_VLConfig
        build: Any = QwenImageTransformer2DModel
        vae: Any = AutoencoderKLQwenImage
        pipeline = QwenImagePipeline(
            transformer=build(
                patch_size=2, in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16,
                num_attention_heads=2, joint_attention_dim=HIDDEN, axes_dims_rope=(8, 4, 4),
            ).eval(),
            vae=vae(
                base_dim=8, z_dim=4, dim_mult=[1, 2, 2], num_res_blocks=1, temperal_downsample=[False, True],
                latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
            ).eval(),
            text_encoder=Qwen2_5_VLForConditionalGeneration(
                config(
                    text_config={
                        "vocab_size": len(tokenizer), "hidden_size": HIDDEN, "intermediate_size": HIDDEN,
                        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
                        "bos_token_id": None, "eos_token_id": tokenizer.eos_token_id,
                        "rope_parameters": {"mrope_section": [1, 1, 2], "rope_type": "default", "rope_theta": 1e6},
                    },
                    vision_config={
                        "depth": 1, "hidden_size": HIDDEN, "intermediate_size": HIDDEN, "num_heads": 2,
                        "out_hidden_size": HIDDEN,
                    },
                )
            ).eval(),
            tokenizer=tokenizer,
            scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.02),
        )  # fmt: skip
    # the class takes pictures of 128x128 latents by default
    pipeline.default_sample_size = 4
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def tiny_xl_pipeline(seed: int = 0) -> StableDiffusionXLPipeline:
    """A Stable Diffusion XL of 16x16 pixels: two text encoders, pooled features, time ids, linear projections."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer, tokenizer_2 = tiny_tokenizer(), tiny_tokenizer(pad_token="!")
        pipeline = StableDiffusionXLPipeline(
            unet=_unet(
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
                transformer_layers_per_block=(1, 2),
                cross_attention_dim=2 * HIDDEN,
                attention_head_dim=(2, 4),
                use_linear_projection=True,
                addition_embed_type="text_time",
                addition_time_embed_dim=4,
                projection_class_embeddings_input_dim=6 * 4 + HIDDEN,
            ),
            vae=_vae(),
            text_encoder=CLIPTextModel(_text_config(tokenizer)).eval(),
            text_encoder_2=CLIPTextModelWithProjection(_text_config(tokenizer_2)).eval(),
            tokenizer=tokenizer,
            tokenizer_2=tokenizer_2,
            scheduler=_scheduler("epsilon"),
            add_watermarker=False,
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
