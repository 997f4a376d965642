"""CLIP as a feature extractor for pictures and texts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import CLIPModel, CLIPProcessor

from semiperm.errors import JudgeError

# N pictures or texts, D feature channels

TEXTS_AT_ONCE = 50


class Clip:
    """A CLIP model from a folder or the Hub.

    Raises:
        JudgeError: it is not a folder and cannot be downloaded.
    """

    def __init__(self, name: str | Path, device: str = "cpu") -> None:
        try:
            self.model = CLIPModel.from_pretrained(name, dtype=torch.float32).to(device).eval()  # pyright: ignore[reportArgumentType]
            self.processor: Any = CLIPProcessor.from_pretrained(name)
        except OSError as error:
            raise JudgeError(
                f"the CLIP model {str(name)!r} is not a folder and cannot be downloaded: give a folder that holds it "
                f"with --clip ({error})"
            ) from error
        self.device = device

    @torch.no_grad()
    def pictures(self, pictures: np.ndarray) -> np.ndarray:
        """Return features of pictures (N, H, W, 3) uint8: (N, D)."""
        images = [Image.fromarray(picture) for picture in pictures]
        x = self.processor(images=images, return_tensors="pt")["pixel_values"].to(self.device)
        vision: Any = self.model.vision_model(pixel_values=x)
        return self.model.visual_projection(vision.pooler_output).float().cpu().numpy()

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Return features of texts, which are truncated to the model's length: (N, D)."""
        parts = []
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            tokens = self.processor.tokenizer(
                list(texts[start : start + TEXTS_AT_ONCE]), padding="max_length", truncation=True, return_tensors="pt"
            )
            language: Any = self.model.text_model(
                input_ids=tokens["input_ids"].to(self.device), attention_mask=tokens["attention_mask"].to(self.device)
            )
            parts.append(self.model.text_projection(language.pooler_output).float().cpu())
        return torch.cat(parts).numpy()
