"""The terrarium: a complete latent diffusion model that ships with the package and runs on a laptop.

Importing the package registers the model names "terrarium" and "terrarium:NAME" and loads nothing heavy.
"""

from pathlib import Path

from semiperm.errors import ModelLoadError
from semiperm.models.names import register

WEIGHTS = Path(__file__).parent / "weights"


def locate(variant: str = "") -> Path:
    """Return the diffusers folder of the terrarium, or of the relative called `variant`.

    Raises:
        ModelLoadError: the weights are missing, or the relative is unknown or not built.
    """
    if variant:
        # pydantic need not be imported with the package
        from semiperm.terrarium.relatives import built

        return built(variant)
    if not WEIGHTS.is_dir():
        raise ModelLoadError(
            f"The terrarium's weights are not at {WEIGHTS}: this installation is incomplete. "
            "Install the package again, or train them with `semiperm terrarium train`."
        )
    return WEIGHTS


register("terrarium", locate)
