"""A name, a Hub id, a diffusers folder or a single-file checkpoint becomes a DiffusionModel."""

import json
from pathlib import Path
from typing import Any

import torch

from semiperm.errors import ModelLoadError, close_match
from semiperm.models.flow import Flux, StableDiffusion3
from semiperm.models.model import DiffusionModel
from semiperm.models.names import is_hub_id, locate, registered
from semiperm.models.pixart import PixArt
from semiperm.models.qwen_image import QwenImage
from semiperm.models.single_file import contents
from semiperm.models.stable_diffusion import StableDiffusion
from semiperm.models.weights import check_complete, networks

FAMILIES: tuple[type[DiffusionModel], ...] = (StableDiffusion, StableDiffusion3, Flux, PixArt, QwenImage)
PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")


def load_model(
    name: str | Path = "terrarium",
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    low_vram: bool = False,
) -> DiffusionModel:
    """Load a model by name ("terrarium", "terrarium:dusk"), diffusers folder, single-file checkpoint or Hub id.

    Only safetensors are read; nothing is unpickled and no code that comes with a model is run. What exists on disk
    goes before the Hub. A single-file checkpoint holds weights and no configuration: that is taken from the folder it
    lies in if that is a diffusers folder (`model_index.json` and the parts' configurations beside the checkpoint),
    otherwise diffusers fetches the original model's from the Hub, once. A checkpoint of Stable Diffusion 3 or FLUX.1
    that is a denoiser alone takes the other parts, weights included, from the folder that it lies in.

    Args:
        device: where to put it; a GPU if there is one, by default.
        dtype: precision of all parts, whatever the files hold; float32 by default, bfloat16 with `low_vram`.
        low_vram: keep only the part that is at work on the GPU, the others on the CPU, and let training compute the
            denoiser's activations again instead of keeping them.

    Raises:
        ModelLoadError: nothing of that name, a pickle, files or weights missing, or a kind of model that is not
            supported.
    """
    name = str(name)
    path = locate(name) or Path(name).expanduser()
    dtype = dtype or (torch.bfloat16 if low_vram else torch.float32)
    if path.suffix.lower() in PICKLES:
        raise ModelLoadError(
            f"{path} is a pickle, and reading a pickle runs whatever code is in it. "
            "Convert it to .safetensors with a tool that you trust, or get the model in that format."
        )
    if path.is_dir():
        pipeline = _from_folder(path, dtype)
    elif path.is_file():
        pipeline = _from_single_file(path, dtype)
    elif is_hub_id(name):
        pipeline = _from_hub(name, dtype)
    else:
        raise ModelLoadError(_nothing_there(name, path))
    # The caller asks for a bar, or not; one bar for every batch helps nobody.
    pipeline.set_progress_bar_config(disable=True)
    place = torch.device(device or _best_device())
    if low_vram and place.type != "cpu":
        pipeline.enable_model_cpu_offload(device=place)
    else:
        pipeline.to(place)
    model = model_of(pipeline, name)
    if low_vram:
        model.denoiser.enable_gradient_checkpointing()  # pyright: ignore[reportCallIssue]
    return model


def model_of(pipeline: Any, name: str = "") -> DiffusionModel:
    """Return the DiffusionModel around a diffusers pipeline, or what is given if it is one already.

    Raises:
        ModelLoadError: no supported family has such a pipeline.
    """
    if isinstance(pipeline, DiffusionModel):
        return pipeline
    return _family(type(pipeline).__name__)(pipeline, name)


def _family(class_name: str) -> type[DiffusionModel]:
    # Img2img, inpainting and other variants share the beginning of their text-to-image pipeline's name; every other
    # pipeline can only be a relative of Stable Diffusion, which its class checks.
    found, longest = StableDiffusion, 0
    for family in FAMILIES:
        for beginning in (name.removesuffix("Pipeline") for name in family.pipelines):
            if class_name.startswith(beginning) and len(beginning) > longest:
                found, longest = family, len(beginning)
    return found


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _pipeline_class(class_name: Any, where: str) -> Any:
    supported = [name for family in FAMILIES for name in family.pipelines]
    if class_name not in supported:
        raise ModelLoadError(
            f"{where} is a {class_name}, which is not supported; supported are {', '.join(supported)}. "
            "docs/families.md says how a family is added."
        )
    import diffusers

    return getattr(diffusers, class_name)


def _index(path: Path) -> dict[str, Any]:
    """Return what a diffusers folder's index says, at least its `_class_name`."""
    index = path / "model_index.json"
    if not index.is_file():
        raise ModelLoadError(f"{path} is not a diffusers folder: it has no model_index.json.")
    try:
        listed = json.loads(index.read_text(encoding="utf-8"))
        return {"_class_name": None, **listed}
    except (ValueError, TypeError) as error:
        raise ModelLoadError(f"{index} is damaged: {error}") from error


def _from_folder(path: Path, dtype: torch.dtype, name: str = "", **parts: Any) -> Any:
    """Return the pipeline in a folder, which messages call by `name` if one is given; `parts` are not read from it."""
    listed = _index(path)
    class_name = listed["_class_name"]
    weights = [file.name for file in path.glob("*/*.safetensors")]
    # A folder that was saved with variant="fp16" has no other weights, and diffusers must be given the variant.
    variant = "fp16" if weights and all(".fp16." in file for file in weights) else None
    # SD3 may be stored without its largest text encoder; without an explicit None diffusers calls that an error.
    optional = _family(str(class_name)).optional_parts
    absent = {part: None for part in optional if listed.get(part) in (None, [None, None])}
    pipeline_class = _pipeline_class(class_name, name or str(path))
    given = {**absent, **parts}
    try:
        loaded = networks(pipeline_class, path, listed, dtype, variant, without=given)
        return pipeline_class.from_pretrained(
            str(path), dtype=dtype, use_safetensors=True, variant=variant, **loaded, **given
        )
    except ModelLoadError:
        raise
    except Exception as error:
        raise ModelLoadError(_not_loaded(name or str(path), error)) from error


def _from_hub(name: str, dtype: torch.dtype) -> Any:
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    try:
        config = DiffusionPipeline.load_config(name)
    except (OSError, ValueError) as error:
        raise ModelLoadError(
            f"There is no folder or file {name!r} here, and the Hub gave no diffusers model of that name: "
            f"{_first_line(error)}{_did_you_mean(name, Path(name))}"
        ) from error
    class_name = config.get("_class_name") if isinstance(config, dict) else None
    try:
        folder = _pipeline_class(class_name, name).download(name, use_safetensors=True)
    except ModelLoadError:
        raise
    except Exception as error:
        raise ModelLoadError(_not_loaded(name, error)) from error
    return _from_folder(Path(folder), dtype, name)


def _not_loaded(name: str, error: Exception) -> str:
    return (
        f"{name} could not be loaded: {_first_line(error)} "
        "Every part must be there, its weights as .safetensors (pickled .bin files are not read)."
    )


def _from_single_file(path: Path, dtype: torch.dtype) -> Any:
    if path.suffix.lower() != ".safetensors":
        raise ModelLoadError(f"{path} is not a .safetensors checkpoint; no other file is read.")
    held = contents(path, FAMILIES)
    pipeline_class = _pipeline_class(held.pipeline, str(path))
    beside = path.parent if (path.parent / "model_index.json").is_file() else None
    if held.denoiser_class:
        return _around(path, beside, pipeline_class, held.denoiser_class, dtype)
    try:
        pipeline = pipeline_class.from_single_file(
            str(path), dtype=dtype, config=None if beside is None else str(beside)
        )
    except NotImplementedError as error:
        # diffusers moves its networks at once, and missing weights are on no device.
        raise ModelLoadError(f"{path} could not be loaded: it lacks weights of the denoiser or of the VAE.") from error
    except Exception as error:
        wanted = (
            f"The configuration was taken from {beside / 'model_index.json'} and the folders beside it."
            if beside
            else "A checkpoint holds no configuration: go online once so that diffusers can fetch the original "
            "model's, or put model_index.json and the parts' configurations (without weights) beside it."
        )
        raise ModelLoadError(f"{path} could not be loaded: {_first_line(error)} {wanted}") from error
    check_complete(path, pipeline.components)
    return pipeline


def _around(path: Path, beside: Path | None, pipeline_class: Any, denoiser_class: str, dtype: torch.dtype) -> Any:
    """Return the pipeline of a denoiser's file, its other parts taken from the diffusers folder that it lies in."""
    import diffusers

    kind = pipeline_class.__name__
    if beside is None:
        raise ModelLoadError(
            f"{path} holds the denoiser of a {kind} alone: put it into a diffusers folder of that model, beside "
            "model_index.json and the folders of the text encoders, tokenizers, VAE and scheduler."
        )
    if (found := _index(beside)["_class_name"]) != kind:
        raise ModelLoadError(f"{beside} is the folder of a {found}, but the checkpoint in it is a {kind}'s.")
    network = getattr(diffusers, denoiser_class)
    try:
        denoiser = network.from_single_file(str(path), config=str(beside), subfolder="transformer", dtype=dtype)
    except NotImplementedError as error:
        # diffusers moves its networks at once, and missing weights are on no device.
        raise ModelLoadError(f"{path} could not be loaded: it lacks weights of the denoiser.") from error
    except Exception as error:
        raise ModelLoadError(
            f"{path} could not be loaded by the configuration in {beside / 'transformer'}: {_first_line(error)}"
        ) from error
    check_complete(path, {"denoiser": denoiser})
    return _from_folder(beside, dtype, transformer=denoiser)


def _nothing_there(name: str, path: Path) -> str:
    return (
        f"There is no model {name!r}: it is neither {', '.join(map(repr, registered()))}, nor a diffusers folder, "
        f"nor a .safetensors checkpoint, nor a Hub id like 'owner/model'.{_did_you_mean(name, path)}"
    )


def _did_you_mean(name: str, path: Path) -> str:
    beside = [str(path.parent / found.name) for found in path.parent.glob("*")] if path.parent.is_dir() else []
    return close_match(name, [*registered(), *beside])


def _first_line(error: BaseException) -> str:
    line = (str(error).strip() or type(error).__name__).splitlines()[0].strip()
    return line if line.endswith((".", "!", "?")) else f"{line}."
