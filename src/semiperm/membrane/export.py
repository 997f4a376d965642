"""Membranes in the forms that other tools read, and baked into a copy of a model for servers that know no adapters."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, cast

import safetensors.torch
import torch
from torch import Tensor, nn

from semiperm.atomic import whole, write
from semiperm.membrane.files import TRANSFORMER, of_transformer, save
from semiperm.membrane.membrane import Membrane, listed
from semiperm.models.base import DiffusionModel, adapted_layers, is_quantised

Form = Literal["kohya", "diffusers", "peft"]


def export(membrane: Membrane, form: Form, out: Path) -> Path:
    """Write a membrane for another tool and return what was written.

    `kohya` is the file that `save` writes (ComfyUI, A1111, diffusers). `diffusers` is the one file of
    `save_lora_weights`, in PEFT's names under `unet.` or `transformer.`. `peft` is a folder with adapter_config.json
    and adapter_model.safetensors, as PEFT's `from_pretrained` reads it.

    Raises:
        ValueError: there is no such form, or the file's name does not end in .safetensors.
    """
    if form == "kohya":
        return save(membrane, out)
    if form == "diffusers":
        if out.suffix != ".safetensors":
            raise ValueError(f"{out}: a diffusers LoRA's file name must end in .safetensors")
        _write(out, _pairs(membrane, TRANSFORMER if of_transformer(membrane) else "unet."))
        return out
    if form == "peft":
        _write(out / "adapter_model.safetensors", _pairs(membrane, "base_model.model."))
        write(out / "adapter_config.json", json.dumps(_config(membrane), indent=1) + "\n")
        return out
    raise ValueError(f"there is no form {form!r}; there are kohya, diffusers and peft")


def merge(model: DiffusionModel, membranes: Mapping[str, tuple[Membrane, float]], out: Path) -> Path:
    """Write a diffusers folder of the model with membranes baked in, each at its permeability, and return it.

    y = (W + sum_k gamma_k u_k v_k^T) x for every prompt: what is baked in cannot close. The model itself is as it was
    afterwards, bit for bit.

    Raises:
        CoverageError: a membrane does not fit the model.
        FileExistsError: `out` exists.
        ValueError: the model wears adapters of PEFT, which a folder of weights cannot hold, or is quantised.
    """
    if out.exists():
        raise FileExistsError(f"{out} exists: a merged model is written to a new folder")
    if others := adapted_layers(model.denoiser):
        raise ValueError(f"other adapters (PEFT, LoRA) are on {listed(others)}; fuse them or take them off first")
    layers = model.erasable_layers()
    if quantised := [path for path, layer in layers.items() if is_quantised(layer)]:
        raise ValueError(
            f"the weights are quantised in {listed(quantised)}, and such cannot be changed exactly: merge into the "
            "model in half or full precision, and quantise the result"
        )
    fitted = [(membrane.fitted_to(layers), gamma) for membrane, gamma in membranes.values()]
    before = {path: cast(nn.Linear, layer).weight.detach().clone() for path, layer in layers.items()}
    draft = out.with_name(f".{out.name}.partial")
    try:
        for path, layer in layers.items():
            weight = cast(nn.Linear, layer).weight
            change = sum(
                (gamma * membrane.delta(path).double() for membrane, gamma in fitted), torch.zeros(()).double()
            )
            with torch.no_grad():
                weight.copy_((weight.double().cpu() + change).to(weight))
        model.pipeline.save_pretrained(draft)
        draft.replace(out)
    finally:
        with torch.no_grad():
            for path, layer in layers.items():
                cast(nn.Linear, layer).weight.copy_(before[path])
        shutil.rmtree(draft, ignore_errors=True)
    return out


def _pairs(membrane: Membrane, prefix: str) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for path in membrane.down:
        found[f"{prefix}{path}.lora_A.weight"] = membrane.down[path].detach().cpu().contiguous()
        found[f"{prefix}{path}.lora_B.weight"] = membrane.up[path].detach().cpu().contiguous()
    return found


def _config(membrane: Membrane) -> dict[str, object]:
    return {
        "peft_type": "LORA",
        "base_model_name_or_path": membrane.card.base_model,
        "r": membrane.rank,
        "lora_alpha": membrane.rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
        # whole paths, so that no other layer of the same name gets an adapter
        "target_modules": sorted(membrane.down),
    }


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    with whole(path) as draft:
        safetensors.torch.save_file(tensors, draft, {"format": "pt"})
