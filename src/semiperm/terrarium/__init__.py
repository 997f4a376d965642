"""The small world that ships with semiperm: a complete latent diffusion model that runs on a laptop."""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
