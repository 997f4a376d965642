"""The scale of each pair in a LoRA file: alpha / rank, from the tensors, from PEFT's configuration, or 1."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from semiperm.errors import MembraneFileError, clipped
from semiperm.files.strict import from_json
from semiperm.paths import read_text

ADAPTER_METADATA = "lora_adapter_metadata"
CONFIG_FILE = "adapter_config.json"
MAX_CONFIG_BYTES = 2**20
# diffusers names the fields of each part of a pipeline behind the part's name
_DENOISERS = ("unet.", "transformer.")


@dataclass(frozen=True)
class PeftConfig:
    """What scales the pairs in PEFT's configuration.

    Attributes:
        source: where it stands, for messages.
        patterns: "rank_pattern" and "alpha_pattern": the numbers of single layers, by "^path" or by the path's end.
        root: divide by the square root of the rank (rsLoRA).
    """

    source: str
    rank: float
    alpha: float
    patterns: dict[str, dict[str, float]] = field(default_factory=dict)
    root: bool = False

    def scale(self, layer: str, rank: int) -> float:
        """Return the scale of a layer's pair.

        Raises:
            MembraneFileError: the configuration promises another rank.
        """
        promised = self._of("rank_pattern", layer, self.rank)
        if promised != rank:
            raise MembraneFileError(
                f"{self.source}: the configuration says rank {promised:g} for {clipped(layer)}, but its tensors have "
                f"{rank}."
            )
        return self._of("alpha_pattern", layer, self.alpha) / (math.sqrt(rank) if self.root else rank)

    def _of(self, pattern: str, layer: str, default: float) -> float:
        # As PEFT does: the first that matches a whole path ("^path") or the end of one.
        for end, value in self.patterns.get(pattern, {}).items():
            if end == f"^{layer}" or f".{layer}".endswith(f".{end}"):
                return value
        return default


def peft_config(path: Path, metadata: Mapping[str, str], *, of_peft: bool = False) -> PeftConfig | None:
    """Return the configuration in a file's metadata, or in the adapter_config.json beside a file of PEFT; None if none.

    Args:
        of_peft: whether the tensors have the names of PEFT's own files.

    Raises:
        MembraneFileError: there is a configuration, but it cannot be used.
    """
    text = metadata.get(ADAPTER_METADATA)
    beside = path.with_name(CONFIG_FILE)
    if text is not None:
        return _config(f"{path}: its metadata {ADAPTER_METADATA!r}", text)
    if of_peft and beside.is_file():
        if beside.stat().st_size > MAX_CONFIG_BYTES:
            raise MembraneFileError(f"{beside}: this is too large for the configuration of an adapter.")
        try:
            return _config(str(beside), read_text(beside, MAX_CONFIG_BYTES))
        except UnicodeDecodeError:
            raise _unusable(str(beside)) from None
    return None


def alpha_of(path: Path, layer: str, alpha: Tensor) -> float:
    """Return the number in an alpha tensor.

    Raises:
        MembraneFileError: it is not one finite number other than 0.
    """
    if alpha.numel() != 1 or alpha.dtype.is_complex:
        raise MembraneFileError(f"{path}: the alpha of {clipped(layer)} must be one number.")
    value = float(alpha.item())
    if not math.isfinite(value):
        raise MembraneFileError(f"{path}: the alpha of {clipped(layer)} is {value}, which is not finite.")
    # sd-scripts reads 0 as the rank, ComfyUI as 0
    if value == 0:
        raise MembraneFileError(f"{path}: the alpha of {clipped(layer)} must be one number, and not 0.")
    return value


def _config(source: str, text: str) -> PeftConfig | None:
    try:
        facts = _denoisers(from_json(text))
    except (ValueError, TypeError, AttributeError):
        raise _unusable(source) from None
    if facts is None:
        return None
    if facts.get("use_dora") is True:
        raise MembraneFileError(f"{source} says that this is a DoRA, which is not supported.")
    try:
        rank, alpha = _number(facts["r"]), _number(facts["lora_alpha"])
        patterns = {
            name: {_end(key): _number(value) for key, value in (facts.get(name) or {}).items()}
            for name in ("rank_pattern", "alpha_pattern")
        }
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        raise _unusable(source) from None
    return PeftConfig(source, rank, alpha, patterns, facts.get("use_rslora") is True)


def _denoisers(facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the fields that are about the denoiser, without the name of the part."""
    parts = [part for part in _DENOISERS if any(key.startswith(part) for key in facts)]
    if len(parts) > 1:
        raise ValueError("two denoisers")
    if parts:
        return {key.removeprefix(parts[0]): value for key, value in facts.items() if key.startswith(parts[0])}
    # without any part's name, or about text encoders alone
    bare = {key: value for key, value in facts.items() if "." not in key}
    return None if facts and not bare else bare


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(value)
    if not math.isfinite(value) or value == 0:
        raise ValueError(value)
    return float(value)


def _end(pattern: str) -> str:
    # PEFT takes regular expressions, but a foreign file's are not run: diffusers and PEFT write plain paths.
    end = pattern.replace("\\.", ".").removesuffix("$")
    if not re.fullmatch(r"\^?[\w.]+", end):
        raise ValueError(f"{pattern!r} is a regular expression")
    return end


def _unusable(source: str) -> MembraneFileError:
    return MembraneFileError(f"{source} names no rank and alpha that can be used.")
