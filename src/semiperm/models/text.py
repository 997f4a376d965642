"""Text features: the output of a model's text side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

# B batch, T tokens, C channels


@dataclass(frozen=True)
class TextFeatures:
    """Text features of a list of prompts.

    Attributes:
        hidden_BTC: the states that the denoiser reads; shorter prompts may be padded with zeros.
        pooled_BC: one vector a prompt: the encoder's own, or the mean over `mask_BT` where it has none.
        mask_BT: True from the start token to the end-of-text token, never for a chat template's tokens; None if the
            prompts came as embeddings without a mask.
        ids: token ids of each prompt without start, end and padding; None if the prompts came as embeddings.
        start: the position of the first of `ids`: 1 behind a start token, 0 where there is none.
        condition: further tensors for the denoiser (SDXL's `text_embeds` and `time_ids`, T5's attention mask), batch
            first.
    """

    hidden_BTC: Tensor
    pooled_BC: Tensor | None = None
    mask_BT: Tensor | None = None
    ids: tuple[tuple[int, ...], ...] | None = None
    condition: Mapping[str, Tensor] = field(default_factory=dict)
    start: int = 1

    def __len__(self) -> int:
        return self.hidden_BTC.shape[0]

    def select(self, index: Sequence[int] | Tensor) -> "TextFeatures":
        """Return the features of the prompts at `index`, in that order, repeats allowed."""
        # The token ids are on the host: an index that is there too is not read back from the device.
        places = index.tolist() if isinstance(index, Tensor) else list(index)
        rows = torch.as_tensor(index, dtype=torch.long, device=self.hidden_BTC.device)
        return TextFeatures(
            hidden_BTC=self.hidden_BTC[rows],
            pooled_BC=None if self.pooled_BC is None else self.pooled_BC[rows],
            mask_BT=None if self.mask_BT is None else self.mask_BT[rows],
            ids=None if self.ids is None else tuple(self.ids[place] for place in places),
            condition={name: value[rows] for name, value in self.condition.items()},
            start=self.start,
        )

    def to(self, device: torch.device) -> "TextFeatures":
        """Return the features on another device; tensors that are there already are shared."""
        return TextFeatures(
            hidden_BTC=self.hidden_BTC.to(device),
            pooled_BC=None if self.pooled_BC is None else self.pooled_BC.to(device),
            mask_BT=None if self.mask_BT is None else self.mask_BT.to(device),
            ids=self.ids,
            condition={name: value.to(device) for name, value in self.condition.items()},
            start=self.start,
        )


def concatenate(parts: Sequence[TextFeatures]) -> TextFeatures:
    """Return the prompts of all parts as one list; a field (pooled features, mask, ids) that one part lacks is dropped.

    Parts with fewer positions than the longest are padded with zeros.
    """
    pooled = [part.pooled_BC for part in parts if part.pooled_BC is not None]
    masks = [part.mask_BT for part in parts if part.mask_BT is not None]
    ids = [part.ids for part in parts if part.ids is not None]
    return TextFeatures(
        hidden_BTC=_stacked([part.hidden_BTC for part in parts]),
        pooled_BC=torch.cat(pooled) if len(pooled) == len(parts) else None,
        mask_BT=_stacked(masks) if len(masks) == len(parts) else None,
        ids=tuple(row for part in ids for row in part) if len(ids) == len(parts) else None,
        condition={name: _stacked([part.condition[name] for part in parts]) for name in parts[0].condition},
        start=parts[0].start,
    )


def mean_state(hidden_BTC: Tensor, mask_BT: Tensor) -> Tensor:
    """Return the mean of each prompt's states where the mask is True: (B, C), 0 where it never is."""
    weight_BT1 = mask_BT.unsqueeze(-1).to(hidden_BTC)
    return (hidden_BTC * weight_BT1).sum(1) / weight_BT1.sum(1).clamp_min(1)


def _stacked(parts: Sequence[Tensor]) -> Tensor:
    longest = max(part.shape[1] for part in parts)
    # F.pad takes the last dimension first.
    return torch.cat([F.pad(part, (0, 0) * (part.ndim - 2) + (0, longest - part.shape[1])) for part in parts])
