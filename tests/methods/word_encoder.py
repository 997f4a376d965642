"""A text encoder without a network, whose every number is known: one vector for each word."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from semiperm.models.text import TextFeatures

LENGTH = 24


class WordEncoder:
    """Each word is one token with a random state, to which a causal context adds a little.

    Pooled features are the mean of the words' own vectors. `planted` words have the given vectors, and axis 0 belongs
    to planted words alone. A prompt is start, words, end; behind the end stand large numbers that nothing may read.
    """

    def __init__(self, channels: int = 32, planted: Mapping[str, Tensor] | None = None) -> None:
        self.channels = channels
        self.ids: dict[str, int] = {}
        self.vectors: list[Tensor] = []
        self.seen: list[str] = []
        self.planted = dict(planted or {})

    def word(self, word: str) -> int:
        if word not in self.ids:
            self.ids[word] = len(self.ids)
            vector = torch.randn(self.channels, generator=torch.Generator().manual_seed(len(self.ids)))
            vector[0] = 0
            self.vectors.append(self.planted.get(word, vector / vector.norm()))
        return self.ids[word]

    def tokens(self, prompts: Sequence[str]) -> tuple[tuple[int, ...], ...]:
        """Return one id for each word; nothing is encoded, so `seen` stays as it is."""
        return tuple(tuple(self.word(word.strip(".,")) for word in prompt.split()) for prompt in prompts)

    def encode(self, prompts: Sequence[str]) -> TextFeatures:
        self.seen += prompts
        hidden_BTC = torch.full((len(prompts), LENGTH, self.channels), 1e4)
        mask_BT = torch.zeros(len(prompts), LENGTH, dtype=torch.bool)
        pooled_BC = torch.zeros(len(prompts), self.channels)
        rows = self.tokens(prompts)
        for row, ids in enumerate(rows):
            own = [self.vectors[number] for number in ids]
            hidden_BTC[row, 0] = 1e4
            context = torch.zeros(self.channels)
            for place, vector in enumerate(own):
                hidden_BTC[row, place + 1] = vector + 0.05 * context
                context = context + vector
            end = len(ids) + 1
            hidden_BTC[row, end] = 0.05 * context
            mask_BT[row, : end + 1] = True
            pooled_BC[row] = torch.stack(own).mean(0) if own else torch.ones(self.channels) / self.channels**0.5
        return TextFeatures(hidden_BTC, pooled_BC, mask_BT, rows)

    def pooled(self, prompt: str) -> Tensor:
        vectors = self.encode([prompt]).pooled_BC
        assert vectors is not None
        return vectors[0]


def axis(channels: int = 32, number: int = 0, size: float = 1.0) -> Tensor:
    vector = torch.zeros(channels)
    vector[number] = size
    return vector
