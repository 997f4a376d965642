"""Anchors: prompts that must not change while a concept is erased, drawn by the paper's density."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from semiperm.concept import Concept
from semiperm.methods.neighbours import candidates, neighbours, own_words, spoken, words
from semiperm.methods.sentences import CARRIERS, STYLES, said
from semiperm.models.text import TextFeatures, concatenate

# N anchors, C channels

NEIGHBOURS = 12
SAME = 0.97


@dataclass(frozen=True)
class Anchors:
    """Prompts that must not change, with the paper's density over them and the target's nearest neighbours.

    Attributes:
        prompts: one sentence each; the first is the empty prompt.
        features: their text features.
        density_N: P(c | c_tar), which sums to 1.
        neighbours: rows of the concepts most like the target.
        names: the everyday concepts in them, each once.
    """

    prompts: tuple[str, ...]
    features: TextFeatures
    density_N: Tensor
    neighbours: tuple[int, ...]
    names: tuple[str, ...]

    def draw(self, count: int, neighbours: float, generator: torch.Generator) -> Tensor:
        """Draw `count` rows: the empty prompt once, a share of nearest neighbours, the rest by the density."""
        near = min(round(count * neighbours), count - 1) if self.neighbours else 0
        far = count - near - 1
        rows = [torch.zeros(1, dtype=torch.long)]
        if near:
            picks = torch.randint(len(self.neighbours), (near,), generator=generator)
            rows.append(torch.tensor(self.neighbours)[picks])
        if far > 0:
            rows.append(torch.multinomial(self.density_N, far, replacement=True, generator=generator))
        return torch.cat(rows)


def flat(features: TextFeatures) -> Tensor:
    """Return one unit vector for each prompt: its pooled features, or its mean state if there are none."""
    vectors = features.pooled_BC if features.pooled_BC is not None else features.hidden_BTC.mean(1)
    return torch.nn.functional.normalize(vectors.float(), dim=-1)


def density(similarity_N: Tensor, alpha: float = 1.0) -> Tensor:
    """Return P(c | c_tar), proportional to (1 - |cos(c, c_tar)|)^alpha (arXiv:2312.16145, eq. 6)."""
    weight = (1 - similarity_N.abs()).clamp_min(0).pow(alpha)
    return weight / weight.sum()


def _sentence(text: str, own: set[str], number: int) -> str:
    # The rest of the sentence must not ask for the target either.
    carriers = [carrier for carrier in CARRIERS if carrier not in own] or ["thing"]
    carrier = carriers[number % len(carriers)]
    if text in STYLES:
        options = _free(("a {carrier} in the style of {}", "a {} picture of a {carrier}"), own)
        return said(text, options[number % len(options)], carrier)
    plain = ("a {}", "{}", "a photo of a {}", "a picture of the {}", "a {} and a {carrier}", "there is a {} here")
    styled = ("a {} as a sketch", "a {} in the style of a mosaic", "a vintage photo of a {}", "a {} in neon")
    options = _free(plain + (styled if number % 3 == 0 else ()), own)
    return said(text, options[number // 3 % len(options)], carrier)


def _free(templates: tuple[str, ...], own: set[str]) -> tuple[str, ...]:
    return tuple(template for template in templates if not own & set(words(template))) or ("{}",)


def by_name(concept: Concept, encode: Callable[[Sequence[str]], TextFeatures], more: Sequence[str] = ()) -> Anchors:
    """Return every candidate by its bare name, and neighbours that share a word also in sentences, with its density.

    A candidate that means the same as a target to this text encoder (cosine above 0.97) is left out, unless it shares a
    word with the target or the user gave it; the user's anchors stay as they were written.
    """
    names = candidates(concept, more)
    given, held = set(more), neighbours(concept, more)
    by_itself = [name if name in given else said(name, "a {}") for name in names]
    beside = [text for name in held for text in spoken(concept, name)]
    prompts = ["", *by_itself, *beside]
    features = encode(prompts)
    alike_N = _alike(features, concept, encode)
    kept = [0, *(row for row, name in enumerate(names, 1) if alike_N[row] < SAME or name in held)]
    count = len(kept)
    kept += range(len(names) + 1, len(prompts))
    # What shares a word is a neighbour however the text encoder sees it.
    is_held = [row >= count or names[kept[row] - 1] in held for row in range(len(kept))]
    near = sorted(range(1, count), key=lambda row: (not is_held[row], -float(alike_N[kept[row]])))[
        : max(NEIGHBOURS, len(held))
    ]
    return Anchors(
        tuple(prompts[row] for row in kept),
        features.select(kept),
        density(alike_N[kept]),
        tuple(near),
        tuple(names[row - 1] for row in kept[1:count]),
    )


def in_sentences(
    held: Anchors, concept: Concept, encode: Callable[[Sequence[str]], TextFeatures], variants: int = 1
) -> Anchors:
    """Return anchors by name, each of them also in some sentences."""
    own, count = own_words(concept), len(held.names)
    spoken = [
        _sentence(name, own, number + 7 * variant)
        for variant in range(1, variants + 1)
        for number, name in enumerate(held.names)
    ]
    features = concatenate([held.features, encode(spoken)])
    alike_N = _alike(features, concept, encode)
    # The sentences begin behind all prompts of `held`, in the order of its names, which begin at row 1.
    first = len(held.prompts) - 1
    again = [row + first + variant * count for variant in range(variants) for row in held.neighbours if row <= count]
    return Anchors((*held.prompts, *spoken), features, density(alike_N), (*held.neighbours, *again), held.names)


def _alike(features: TextFeatures, concept: Concept, encode: Callable[[Sequence[str]], TextFeatures]) -> Tensor:
    """Return each prompt's cosine with the target phrase that is most similar to it: (N,) on the CPU."""
    targets = encode([said(phrase, "a {}") for phrase in concept.targets])
    return (flat(features) @ flat(targets).T).amax(1).cpu()
