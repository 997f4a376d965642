"""Membranes in the forms that other tools read, and merged into a copy of a model for servers without adapters."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, cast, get_args

import torch
from peft import LoraConfig
from safetensors import SafetensorError
from torch import Tensor, nn

from semiperm.errors import MembraneFileError, StackError, close_match, listed
from semiperm.files.container import check_name, packed
from semiperm.files.container import write as write_tensors
from semiperm.files.layer_names import PEFT, TRANSFORMER, UNET, flattened, in_transformer
from semiperm.files.lora import prefixed
from semiperm.files.safetensors import contents
from semiperm.files.sgm_names import sgm_names
from semiperm.membrane import Membrane
from semiperm.models.layers import adapted_layers, is_quantised
from semiperm.models.model import DiffusionModel
from semiperm.paths import whole, whole_folder, write

Form = Literal["kohya", "diffusers", "peft"]


def export(membrane: Membrane, form: Form, out: Path) -> Path:
    """Write a membrane for another tool and return what was written.

    Args:
        form: `kohya` is the file that `save` writes, except that SDXL's layers have SGM's names, the only ones that
            sd-scripts knows (sd-scripts, ComfyUI, A1111, diffusers); `diffusers` is the one file of
            `save_lora_weights`, in PEFT's names; `peft` is a folder with adapter_config.json and
            adapter_model.safetensors for PEFT's `from_pretrained`.
        out: the file, or the folder for `peft`; existing files are replaced whole.

    Raises:
        MembraneFileError: there is no such form, or the file's name does not end in .safetensors.
    """
    if form == "kohya":
        return _write_kohya(membrane, check_name(out))
    if form == "diffusers":
        prefix = TRANSFORMER if in_transformer(membrane.down) else UNET
        return write_tensors(check_name(out), prefixed(membrane, prefix), {"format": "pt"})
    if form == "peft":
        weights, config = written(form, out)
        data = packed(weights, prefixed(membrane, PEFT), {"format": "pt"})
        # Both or none: the weights take their place once the configuration is written.
        with whole(weights) as draft:
            draft.write_bytes(data)
            write(config, _peft_config(membrane))
        return out
    forms = get_args(Form)
    raise MembraneFileError(f"There is no form {form!r}; there are {', '.join(forms)}.{close_match(form, forms)}")


def written(form: str, out: Path) -> list[Path]:
    """Return the files that `export` writes."""
    if form == "peft":
        return [out / "adapter_model.safetensors", out / "adapter_config.json"]
    return [out]


def merge(model: DiffusionModel, membranes: Mapping[str, tuple[Membrane, float]], out: Path) -> Path:
    """Write a diffusers folder of the model with membranes merged, each at its permeability, and return the folder.

    y = (W + sum_k gamma_k up_k down_k) x for every prompt: a merged membrane cannot close. Afterwards the model itself
    is what it was before, bit for bit.

    Raises:
        CoverageError: a membrane does not fit the model.
        FileExistsError: `out` exists.
        OSError: the folder cannot be written; none is left.
        StackError: the model has adapters of PEFT, which a folder of weights cannot hold, or is quantised.
    """
    if out.exists():
        raise FileExistsError(f"{out} exists: a merged model is written to a new folder.")
    if others := adapted_layers(model.denoiser):
        raise StackError(
            f"Other adapters (PEFT, LoRA) are on {listed(others)}; fuse them into the weights or take them off first."
        )
    layers = model.erasable_layers()
    if quantised := [path for path, layer in layers.items() if is_quantised(layer)]:
        raise StackError(
            f"The weights are quantised in {listed(quantised)} and cannot be changed exactly: merge into the model in "
            "half or full precision, and quantise the result."
        )
    fitted = [(membrane.fitted_to(layers).to(device="cpu"), gamma) for membrane, gamma in membranes.values()]
    before = {path: cast(nn.Linear, layer).weight.detach().clone() for path, layer in layers.items()}
    try:
        for path, layer in layers.items():
            weight = cast(nn.Linear, layer).weight
            with torch.no_grad():
                weight.copy_((weight.double().cpu() + _change(path, fitted)).to(weight))
        with whole_folder(out) as draft:
            model.pipeline.save_pretrained(draft)
    except SafetensorError as error:
        # This is how safetensors reports a full disk.
        raise OSError(f"{out} cannot be written: {error}") from None
    finally:
        with torch.no_grad():
            for path, layer in layers.items():
                cast(nn.Linear, layer).weight.copy_(before[path])
    return out


def _write_kohya(membrane: Membrane, out: Path) -> Path:
    tensors, metadata = contents(out, membrane)
    return write_tensors(out, _in_sgm_names(out, membrane, tensors) if _is_xl(membrane) else tensors, metadata)


def _in_sgm_names(out: Path, membrane: Membrane, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    names = sgm_names(membrane.down)
    if odd := [layer for layer in membrane.down if layer not in names]:
        raise MembraneFileError(f"{out}: sd-scripts has no names for {listed(odd)}; use the form diffusers.")
    flat = {flattened(layer): flattened(name) for layer, name in names.items()}
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        layer, _, side = name.partition(".")
        renamed[f"{flat[layer]}.{side}"] = tensor
    return renamed


def _is_xl(membrane: Membrane) -> bool:
    if architecture := membrane.card.architecture:
        return architecture.startswith("stable-diffusion-xl")
    # of the Stable Diffusions only XL has more than one block in a row
    return any(".transformer_blocks.1." in layer for layer in membrane.down) and not in_transformer(membrane.down)


def _change(path: str, membranes: list[tuple[Membrane, float]]) -> Tensor:
    zero = torch.zeros((), dtype=torch.float64)
    return sum((gamma * membrane.delta(path).double() for membrane, gamma in membranes), zero)


def _peft_config(membrane: Membrane) -> str:
    config = LoraConfig(
        base_model_name_or_path=membrane.card.base_model,
        r=membrane.rank,
        lora_alpha=membrane.rank,
        inference_mode=True,
    )
    # Whole paths, so that no other layer of the same name gets an adapter. The constructor would turn the list into a
    # set, whose order changes from run to run.
    config.target_modules = sorted(membrane.down)
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        return (Path(folder) / "adapter_config.json").read_text(encoding="utf-8")
