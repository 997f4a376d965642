"""Facilitated transport: how far a prompt opens a membrane.

A rule takes a membrane's card, the text features of some prompts and a function that encodes further prompts, and
gives one permeability for each prompt. A rule knows nothing of denoisers.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from semiperm.membrane.membrane import Card
from semiperm.models.base import TextFeatures

# B prompts, T tokens, C text channels, N tokens of all prompts

Encode = Callable[[Sequence[str]], TextFeatures]
Rule = Callable[[Card, TextFeatures, Encode], Tensor]

GATE = "token-probe/1"
SHRINKAGE = 1e-2
# a handful of the others may be synonyms of the concept, which the text encoder knows and we do not
OUTLIERS = 0.005


class TransportError(ValueError):
    """A permeability cannot be computed; the message says what is missing."""


def always(card: Card, features: TextFeatures, encode: Encode) -> Tensor:
    """Return 1 for every prompt."""
    return torch.ones(len(features))


def paper(card: Card, features: TextFeatures, encode: Encode) -> Tensor:
    """Return max(text cosine, share of the concept's tokens found in the prompt) (arXiv:2312.16145, eqs. 9 to 11).

    Of several target phrases the one that opens furthest counts.

    Raises:
        TransportError: the prompts came as embeddings, which have no tokens.
    """
    if features.ids is None:
        raise TransportError('the transport "paper" needs the prompts\' tokens: give prompts instead of prompt_embeds')
    concept = encode(spellings(card.concept.targets))
    assert concept.ids is not None
    cosine_B = (_unit(features) @ _unit(concept).T).amax(1).clamp(0, 1).cpu()
    return torch.maximum(cosine_B, token_share(features.ids, concept.ids))


def token_share(prompts: Sequence[Sequence[int]], concepts: Sequence[Sequence[int]]) -> Tensor:
    """Return for each prompt the largest |T(c) n T(p)| / |T(c)| over the concepts: (B,)."""
    shares = [
        max((len(set(concept) & set(prompt)) / len(set(concept)) for concept in concepts if concept), default=0.0)
        for prompt in prompts
    ]
    return torch.tensor(shares)


def calibrated(card: Card, features: TextFeatures, encode: Encode) -> Tensor:
    """Return exactly 1 for prompts that ask for the concept and exactly 0 for all others, by the card's gate.

    A prompt asks for it if one of its tokens scores above the gate's threshold, or if one of the gate's phrases (the
    concept's names and their plurals) stands in it word for word.

    Raises:
        TransportError: the card has no gate, or the gate belongs to another text encoder.
    """
    gate = card.gate
    if not gate or gate.get("kind") != GATE:
        raise TransportError(
            f'the membrane {card.concept.name!r} has no gate for the transport "calibrated": '
            'fit one with semiperm.erasing.gate.with_gate, or choose transport="paper" or "always"'
        )
    if len(gate["weight"]) != features.hidden_BTC.shape[-1]:
        raise TransportError(
            f"the gate of {card.concept.name!r} reads text features of {len(gate['weight'])} channels, "
            f"but this model's have {features.hidden_BTC.shape[-1]}"
        )
    opened_B = gate_score(gate, features) > gate["threshold"]
    if features.ids is not None and gate.get("phrases"):
        phrases = encode(spellings(gate["phrases"])).ids
        assert phrases is not None
        opened_B |= torch.tensor(
            [any(phrase and last_token(ids, phrase) is not None for phrase in phrases) for ids in features.ids]
        )
    return opened_B.float()


RULES: dict[str, Rule] = {"calibrated": calibrated, "paper": paper, "always": always}


def spellings(phrases: Sequence[str]) -> list[str]:
    """Return each phrase as it begins a text and as it stands behind a space: to a byte-level tokenizer two words."""
    return [text for phrase in phrases for text in (phrase, f" {phrase}")]


def last_token(ids: Sequence[int], phrase: Sequence[int]) -> int | None:
    """Return the position of a phrase's last token in a prompt, the start token counted, or None if it is not there."""
    for start in range(len(ids) - len(phrase) + 1):
        if tuple(ids[start : start + len(phrase)]) == tuple(phrase):
            return start + len(phrase)
    return None


def gate_score(gate: dict[str, Any], features: TextFeatures) -> Tensor:
    """Return for each prompt the highest score of any of its tokens: 0 is an ordinary token, 1 the concept's own."""
    weight_C = torch.tensor(gate["weight"], device=features.hidden_BTC.device)
    score_BT = features.hidden_BTC.float() @ weight_C + gate["bias"]
    return score_BT.masked_fill(~read_mask(features), -torch.inf).amax(1).cpu()


def read_mask(features: TextFeatures) -> Tensor:
    """Return which positions the gate reads: those of the prompt's own tokens, (B, T) bool.

    The start token has seen nothing of the prompt, and the end-of-text token is a blend of all of it that no concept
    owns. Embeddings without tokens are read to the end of their mask, or to their end.
    """
    places_T = torch.arange(features.hidden_BTC.shape[1])
    if features.ids is None:
        shape = features.hidden_BTC.shape[:2]
        mask_BT = torch.ones(shape, dtype=torch.bool) if features.mask_BT is None else features.mask_BT.cpu()
        return (mask_BT & (places_T >= features.start)).to(features.hidden_BTC.device)
    ends_B1 = features.start + torch.tensor([len(row) for row in features.ids]).unsqueeze(1)
    return ((places_T >= features.start) & (places_T < ends_B1)).to(features.hidden_BTC.device)


def fit_gate(concept_NC: Tensor, target: TextFeatures, others: TextFeatures, between: float = 0.5) -> dict[str, Any]:
    """Fit the probe that tells the concept's tokens from all other tokens, in their contexts.

    Fisher's linear discriminant with a shrunken covariance, scaled so that the mean token of the other prompts scores
    0 and the mean token of the concept 1. The threshold lies between the highest of the other prompts and the lowest
    of the target's; `margin` is how far they are apart, negative where they overlap.

    Args:
        concept_NC: states of the concept's last token in many sentences.
        target: prompts that ask for the concept.
        others: prompts that do not, nearest neighbours among them.
        between: where the threshold lies between the two, from 0 at the others to 1 at the target's.
    """
    other_NC = others.hidden_BTC[read_mask(others)].cpu().double()
    own_NC = concept_NC.cpu().double()
    spread_CC = (torch.cov(own_NC.T) + torch.cov(other_NC.T)) / 2
    spread_CC += SHRINKAGE * spread_CC.diagonal().mean() * torch.eye(len(spread_CC), dtype=torch.float64)
    apart_C = own_NC.mean(0) - other_NC.mean(0)
    weight_C = torch.linalg.solve(spread_CC, apart_C)
    weight_C /= weight_C @ apart_C
    gate = {
        "kind": GATE,
        "weight": [float(f"{value:.6g}") for value in weight_C.tolist()],
        "bias": float(-(weight_C @ other_NC.mean(0))),
        "threshold": 0.0,
    }
    highest, lowest = gate_score(gate, others).quantile(1 - OUTLIERS), gate_score(gate, target).quantile(OUTLIERS)
    # where the two overlap, other prompts stay shut and the concept's phrases alone open the gate
    gate["threshold"] = round(float(highest + between * (lowest - highest).clamp_min(0)), 4)
    gate["margin"] = round(float(lowest - highest), 4)
    return gate


def _unit(features: TextFeatures) -> Tensor:
    vectors = features.pooled_BC if features.pooled_BC is not None else features.hidden_BTC.flatten(1)
    return torch.nn.functional.normalize(vectors.float(), dim=-1)
