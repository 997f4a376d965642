"""What must hold still while a concept is erased: prompts that do not ask for it, drawn by the paper's density."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from semiperm.concept import Concept, Kind
from semiperm.erasing.prompts import CARRIERS, everyday, said
from semiperm.models.base import TextFeatures

# N anchors, C channels

NEIGHBOURS = 12
SAME = 0.97
STYLES = frozenset(
    {"sketch", "pencil drawing", "pixel art", "pointillism", "mosaic", "neon", "vintage", "impressionism", "cubism"}
    | {"portrait painting", "anime", "graffiti", "origami", "oil painting", "watercolour", "cartoon", "comic"}
    | {"abstract art", "statue", "sculpture", "poster", "logo", "pattern", "texture", "photograph"}
)


@dataclass(frozen=True)
class Anchors:
    """Prompts that must not change, with the paper's density over them and the target's nearest neighbours.

    Attributes:
        prompts: one sentence each; the first is the empty prompt.
        features: what the model's text side makes of them.
        density_N: P(c | c_tar), which sums to 1.
        neighbours: rows of the concepts most like the target.
    """

    prompts: tuple[str, ...]
    features: TextFeatures
    density_N: Tensor
    neighbours: tuple[int, ...]

    def draw(self, count: int, neighbours: float, generator: torch.Generator) -> Tensor:
        """Return `count` rows: the empty prompt once, a share of nearest neighbours, the rest by the density."""
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
    """Return one vector a prompt to compare prompts by: pooled features, or the mean state where there are none."""
    vectors = features.pooled_BC if features.pooled_BC is not None else features.hidden_BTC.mean(1)
    return torch.nn.functional.normalize(vectors.float(), dim=-1)


def density(similarity_N: Tensor, alpha: float = 1.0) -> Tensor:
    """Return P(c | c_tar), proportional to (1 - |cos(c, c_tar)|)^alpha (arXiv:2312.16145, eq. 6)."""
    weight = (1 - similarity_N.abs()).clamp_min(0).pow(alpha)
    return weight / weight.sum()


def candidates(concept: Concept, more: Sequence[str] = ()) -> list[str]:
    """Return the everyday concepts without the target's own words, and the user's own anchors."""
    words = {word for phrase in concept.targets for word in phrase.lower().split()}
    return [text for text in [*everyday(), *more] if not words & set(text.lower().split())]


def _sentence(text: str, kind: Kind, number: int) -> str:
    carrier = CARRIERS[number % len(CARRIERS)]
    if text in STYLES:
        return said(text, ("a {carrier} in the style of {}", "a {} picture of a {carrier}")[number % 2], carrier)
    plain = ("a {}", "{}", "a photo of a {}", "a picture of the {}", "a {} and a {carrier}", "there is a {} here")
    styled = ("a {} as a sketch", "a {} in the style of a mosaic", "a vintage photo of a {}", "a {} in neon")
    options = plain + (styled if number % 3 == 0 else ())
    return said(text, options[number // 3 % len(options)], carrier)


def build(
    concept: Concept, encode: Callable[[Sequence[str]], TextFeatures], more: Sequence[str] = (), variants: int = 4
) -> Anchors:
    """Put every candidate into some sentences and weigh them against the target.

    A candidate whose bare name means the same as the target to this text encoder (cosine above 0.97) is left out.
    """
    names = candidates(concept, more)
    target_1C = flat(encode([said(concept.targets[0], "a {}")])).mean(0, keepdim=True)
    alike = (flat(encode([said(name, "a {}") for name in names])) @ target_1C.T).squeeze(1)
    kept = [number for number in range(len(names)) if alike[number] < SAME]
    near = sorted(kept, key=lambda number: -float(alike[number]))[:NEIGHBOURS]
    prompts = [""]
    neighbours: list[int] = []
    for number in kept:
        for variant in range(variants):
            if number in near:
                neighbours.append(len(prompts))
            prompts.append(_sentence(names[number], concept.kind, number + 7 * variant))
    features = encode(prompts)
    similarity_N = (flat(features) @ target_1C.T).squeeze(1)
    return Anchors(tuple(prompts), features, density(similarity_N.cpu()), tuple(neighbours))
