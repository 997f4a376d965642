"""CLIP's text encoders in the layouts of different versions: clip_skip, and names of weights."""

from typing import Any

import pytest
import transformers

from semiperm.errors import SemipermError
from semiperm.models.clip_text import explaining_clip_skip, name_among
from tests.tiny import tiny_pipeline, tiny_xl_pipeline


def encode(pipeline: Any, clip_skip: int | None) -> Any:
    with explaining_clip_skip(clip_skip):
        return pipeline.encode_prompt(
            "a cat", device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False, clip_skip=clip_skip
        )[0]


def test_clip_skip_names_the_versions_that_cannot_do_it() -> None:
    pipeline = tiny_pipeline()
    assert encode(pipeline, None).shape[1] == 77
    if hasattr(pipeline.text_encoder, "text_model"):
        assert encode(pipeline, 1).shape[1] == 77
        return
    with pytest.raises(SemipermError, match=rf"clip_skip=1 .*transformers {transformers.__version__}.*prompt_embeds"):
        encode(pipeline, 1)


def test_clip_skip_works_where_the_libraries_can_do_it() -> None:
    pipeline = tiny_xl_pipeline()
    assert not encode(pipeline, 1).equal(encode(pipeline, None))
    with pytest.raises(SemipermError, match="clip_skip=9 cannot be used.*layers"):
        encode(pipeline, 9)


@pytest.mark.parametrize("error", [AttributeError("text_model"), IndexError("list index out of range")])
def test_errors_without_clip_skip_pass_unchanged(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, explaining_clip_skip(None):
        raise error
    assert caught.value is error


def test_other_attribute_errors_are_not_blamed_on_clip_skip() -> None:
    with pytest.raises(AttributeError, match="other"), explaining_clip_skip(1):
        raise AttributeError("other")


def test_names_of_weights_mean_the_same_in_both_layouts() -> None:
    plain, wrapped = "text_encoder.encoder.x", "text_encoder.text_model.encoder.x"
    for name in (plain, wrapped):
        assert name_among(name, [plain]) == plain
        assert name_among(name, [wrapped]) == wrapped
        # An exact name goes before the other layout's.
        assert name_among(name, [plain, wrapped]) == name
    assert name_among("text_encoder.encoder.y", [plain, wrapped]) is None
    assert name_among("unet.encoder.x", [plain, wrapped]) is None
