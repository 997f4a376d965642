"""What a denoiser is given as text, and which prompts it came from.

Permeabilities are judged from prompts. That holds only if the denoiser then gets the encodings of these prompts and no
others, so a guard recognises every row of conditioning by its hash: encodings that the pipeline made of known prompts,
unconditional ones, and everything else.
"""

import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from semiperm.errors import GuardError
from semiperm.models.clip_text import explaining_clip_skip

# B rows of a batch, T tokens, C channels

# what denoisers call the mask of their text
MASKS = ("encoder_attention_mask", "encoder_hidden_states_mask")
# prompts that are remembered between calls
REMEMBERED = 4096
# words that neighbouring parts of a long prompt share, so that no phrase is cut
OVERLAP = 8


def digests(rows: Tensor) -> list[bytes]:
    """Return a hash of each row of a batch, of its shape and type too."""
    plain = rows.detach().cpu().contiguous()
    head = f"{tuple(plain.shape[1:])} {plain.dtype}".encode()
    # Not every type can become an array, but all of them can be seen as bytes.
    return [hashlib.blake2b(head + row.flatten().view(torch.uint8).numpy().tobytes()).digest() for row in plain]


@dataclass(frozen=True)
class Given:
    """The text that a denoiser is given.

    Attributes:
        hidden_BTC: text states.
        pooled_BC: pooled features, if it takes any.
        mask_BT: which states are not padding, if it takes a mask.
    """

    hidden_BTC: Tensor
    pooled_BC: Tensor | None = None
    mask_BT: Tensor | None = None


def given_to(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Given:
    """Return the text among the arguments of a denoiser's call.

    Raises:
        GuardError: there are no text states.
    """
    hidden = kwargs.get("encoder_hidden_states", args[2] if len(args) > 2 else None)
    if not isinstance(hidden, Tensor) or hidden.ndim != 3:
        raise GuardError("The denoiser was called without encoder_hidden_states, so its conditioning cannot be judged.")
    pooled = kwargs.get("pooled_projections")
    if pooled is None:
        pooled = (kwargs.get("added_cond_kwargs") or {}).get("text_embeds")
    mask = next((kwargs[name] for name in MASKS if isinstance(kwargs.get(name), Tensor)), None)
    return Given(hidden, pooled, mask if mask is not None and mask.ndim == 2 else None)


@dataclass
class Encodings:
    """Encodings that pipelines made, by their hash.

    Attributes:
        prompts: the prompt of each encoding, the latest last.
    """

    prompts: dict[bytes, str] = field(default_factory=dict)

    def remember(self, prompts: Sequence[str], rows: Tensor) -> None:
        """Remember the prompt of each row."""
        for key, prompt in zip(digests(rows), prompts, strict=True):
            self.prompts.pop(key, None)
            self.prompts[key] = prompt
        while len(self.prompts) > REMEMBERED:
            del self.prompts[next(iter(self.prompts))]

    @contextmanager
    def recording(self, pipeline: Any, negative_prompts: Sequence[Any] = ()) -> Iterator[dict[bytes, str | None]]:
        """Remember what the pipeline's `encode_prompt` returns within the context.

        Yields the negative prompts by the hashes of their encodings; None for those that came as embeddings.

        Args:
            negative_prompts: the values of the call's negative prompts, to tell them where a pipeline encodes them in a
                call of their own.

        Raises:
            GuardError: the pipeline has no such method.
        """
        # InstructPix2Pix has only the older method, which returns one tensor.
        name = "encode_prompt" if hasattr(pipeline, "encode_prompt") else "_encode_prompt"
        encode: Callable[..., Any] | None = getattr(pipeline, name, None)
        if encode is None:
            raise GuardError(f"{type(pipeline).__name__} has no encode_prompt, so its conditioning cannot be judged.")
        signature = inspect.signature(encode)
        negatives: dict[bytes, str | None] = {}

        @wraps(encode)
        def recorded(*args: Any, **kwargs: Any) -> Any:
            given = signature.bind(*args, **kwargs).arguments
            with explaining_clip_skip(given.get("clip_skip")):
                found = encode(*args, **kwargs)
            prompt, negative = given.get("prompt"), given.get("negative_prompt")
            if prompt is not None and any(prompt is one for one in negative_prompts):
                prompt, negative = None, prompt
                positive = False
            else:
                positive = True
            unconditional = "" if given.get("negative_prompt_embeds") is None else None
            parts = _branches(found, given) if isinstance(found, Tensor) else found
            # Text states come as (B, T, C) and pooled features as (B, C), those of negative prompts behind.
            for dimensions in (3, 2):
                rows = [p for p in parts if isinstance(p, Tensor) and p.ndim == dimensions and p.is_floating_point()]
                for number, part in enumerate(rows):
                    if number or not positive:
                        texts = _for_each(part, unconditional if negative is None else negative)
                        negatives.update(zip(digests(part), texts, strict=True))
                    elif prompt is not None:
                        self.remember(_for_each(part, prompt), part)
            return found

        before = pipeline.__dict__.get(name)
        pipeline.__dict__[name] = recorded
        try:
            yield negatives
        finally:
            if before is None:
                del pipeline.__dict__[name]
            else:
                pipeline.__dict__[name] = before


def _branches(states: Tensor, given: Mapping[str, Any]) -> tuple[Tensor, ...]:
    """Return the positive states and then the negative ones of an encoding that has them in one tensor."""
    prompt, embeds = given.get("prompt"), given.get("prompt_embeds")
    asked: Any = embeds if prompt is None else prompt
    prompts = 1 if isinstance(asked, str) else len(asked)
    chunks = states.split(prompts * (given.get("num_images_per_prompt") or 1))
    # Two branches are [negative; positive], three are InstructPix2Pix's [positive; negative; negative].
    return chunks[::-1] if len(chunks) == 2 else chunks


def _for_each(rows: Tensor, prompts: Any) -> list[Any]:
    """Return the prompt of each row: all rows of the first prompt come first."""
    texts = [prompts] if prompts is None or isinstance(prompts, str) else list(prompts)
    repeats = max(1, len(rows) // len(texts))
    return [texts[min(number // repeats, len(texts) - 1)] for number in range(len(rows))]


def parts_of(prompt: str, tokens: Callable[[Sequence[str]], Sequence[Sequence[int]]]) -> list[str]:
    """Return a prompt, or overlapping parts of it that a tokenizer takes whole if it truncates the prompt.

    A pipeline may read further than the encoder that gates read: it may encode long prompts in chunks, or have a second
    encoder with a higher limit.
    """
    words = prompt.split()
    alone, longer = tokens([prompt, f"{prompt} and"])
    if tuple(alone) != tuple(longer) or len(words) <= 2 * OVERLAP:
        return [prompt]
    half = len(words) // 2
    halves = " ".join(words[: half + OVERLAP // 2]), " ".join(words[half - OVERLAP // 2 :])
    return [part for some in halves for part in parts_of(some, tokens)]
