"""A family of models is one class: what it says of pipelines, parts and checkpoints must be true of diffusers."""

import inspect
from collections import Counter
from typing import Any

import diffusers
import pytest
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from semiperm.models.flow import Flux, StableDiffusion3
from semiperm.models.load import FAMILIES, _family
from semiperm.models.model import DiffusionModel
from semiperm.models.pixart import PixArt
from semiperm.models.qwen_image import QwenImage
from semiperm.models.stable_diffusion import StableDiffusion

FAMILY_OF = {
    "StableDiffusionPipeline": StableDiffusion,
    "StableDiffusionImg2ImgPipeline": StableDiffusion,
    "StableDiffusionXLInpaintPipeline": StableDiffusion,
    "LatentConsistencyModelPipeline": StableDiffusion,
    "StableDiffusion3Pipeline": StableDiffusion3,
    "StableDiffusion3Img2ImgPipeline": StableDiffusion3,
    "FluxPipeline": Flux,
    "FluxInpaintPipeline": Flux,
    "PixArtAlphaPipeline": PixArt,
    "PixArtSigmaPipeline": PixArt,
    "QwenImagePipeline": QwenImage,
    "QwenImageImg2ImgPipeline": QwenImage,
}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_classes_that_a_family_names_are_diffusers_own(family: type[DiffusionModel]) -> None:
    assert family.pipelines
    for name in family.pipelines:
        pipeline: Any = getattr(diffusers, name)
        assert issubclass(pipeline, DiffusionPipeline)
        arguments = inspect.signature(pipeline.__init__).parameters
        assert {*family.parts, *family.optional_parts} <= arguments.keys()
    if family.denoiser_class:
        denoiser: Any = getattr(diffusers, family.denoiser_class)
        assert issubclass(denoiser, ModelMixin) and hasattr(denoiser, "from_single_file")
    assert bool(family.checkpoint_keys) == bool(family.denoiser_class)


def test_no_pipeline_and_no_checkpoint_belongs_to_two_families() -> None:
    for names in (
        [name for family in FAMILIES for name in family.pipelines],
        [key for family in FAMILIES for key in family.checkpoint_keys],
    ):
        assert set(Counter(names).values()) == {1}


@pytest.mark.parametrize(("name", "family"), FAMILY_OF.items())
def test_pipelines_and_their_variants_are_of_their_family(name: str, family: type[DiffusionModel]) -> None:
    assert hasattr(diffusers, name)
    assert _family(name) is family


def test_every_family_is_in_this_test() -> None:
    assert set(FAMILY_OF.values()) == set(FAMILIES)
