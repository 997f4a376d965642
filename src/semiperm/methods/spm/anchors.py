"""Anchors: prompts that must not change while a concept is erased, drawn by the paper's density."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from semiperm.concept import Concept
from semiperm.methods.sentences import CARRIERS, STYLES, candidates, own_words, said, words
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
    return tuple(template for template in templates if not own & words(template)) or ("{}",)


def by_name(concept: Concept, encode: Callable[[Sequence[str]], TextFeatures], more: Sequence[str] = ()) -> Anchors:
    """Return every candidate by its bare name, with its density.

    A candidate that means the same as a target to this text encoder (cosine above 0.97) is left out, unless the user
    gave it; the user's anchors stay as they were written.
    """
    names = candidates(concept, more)
    given = set(more)
    prompts = ["", *(name if name in given else said(name, "a {}") for name in names)]
    features = encode(prompts)
    alike_N = _alike(features, concept, encode)
    kept = [0, *(row for row, name in enumerate(names, 1) if alike_N[row] < SAME or name in given)]
    near = sorted(range(1, len(kept)), key=lambda row: -float(alike_N[kept[row]]))[:NEIGHBOURS]
    return Anchors(
        tuple(prompts[row] for row in kept),
        features.select(kept),
        density(alike_N[kept]),
        tuple(near),
        tuple(names[row - 1] for row in kept[1:]),
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
    near = tuple(row + variant * count for variant in range(variants + 1) for row in held.neighbours)
    return Anchors((*held.prompts, *spoken), features, density(alike_N), near, held.names)


def _alike(features: TextFeatures, concept: Concept, encode: Callable[[Sequence[str]], TextFeatures]) -> Tensor:
    """Return each prompt's cosine with the target phrase that is most similar to it: (N,) on the CPU."""
    targets = encode([said(phrase, "a {}") for phrase in concept.targets])
    return (flat(features) @ flat(targets).T).amax(1).cpu()
