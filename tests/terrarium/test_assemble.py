"""Assembled relatives start from the terrarium's weights and read the text that their family reads."""

from pathlib import Path
from typing import Any

import torch
from diffusers.models.attention_processor import JointAttnProcessor2_0

from semiperm.terrarium.making.assemble import ASSEMBLERS, T5_TOKENS
from semiperm.terrarium.making.build import _encode
from tests.terrarium.helpers import tiny

PROMPTS = ["a cat", "two dogs and a tree"]


def test_the_xl_relative_starts_close_to_the_terrarium(tmp_path: Path) -> None:
    base, model = (ASSEMBLERS[family](tiny("xl"), tmp_path, None) for family in ("fine-tune", "xl"))
    x, t = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([300, 800])
    with torch.no_grad():
        wanted, found = (one.predict(x, t, one.encode(PROMPTS)) for one in (base, model))
    assert (found - wanted).abs().mean() < 0.05 * wanted.abs().mean()
    # hidden states come from both towers, the pooled text from the second
    features = model.encode(PROMPTS)
    assert features.hidden_BTC.shape[-1] == 128 + 32
    assert features.pooled_BC is not None and features.pooled_BC.shape == (2, 128)


def test_one_token_stands_for_all_of_t5s_zeros(tmp_path: Path) -> None:
    relative = tiny("flow")
    model = ASSEMBLERS["flow"](relative, tmp_path, None)
    whole, short = model.encode(PROMPTS), _encode(model, relative, PROMPTS)
    assert whole.hidden_BTC.shape[1] - short.hidden_BTC.shape[1] == T5_TOKENS - 1
    x, t = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([300.0, 800.0])
    with torch.no_grad():
        found = model.predict(x, t, short)
        denoiser: Any = model.denoiser
        denoiser.set_attn_processor(JointAttnProcessor2_0())
        assert torch.allclose(found, model.predict(x, t, whole), atol=1e-5)
        # the count matters
        assert not torch.allclose(found, model.predict(x, t, short), atol=1e-3)
