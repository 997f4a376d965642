"""Gates: how far a membrane opens for what it is shown.

A gate is data, kept on a membrane's card, and a stateless function of what it is shown. It gives gamma, the
permeability: 0 is closed, 1 is open. Gates know nothing of denoisers.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, Any, Literal, Protocol

import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict
from torch import Tensor

from semiperm.concept import spellings
from semiperm.errors import GateError
from semiperm.models.text import TextFeatures

# B prompts, T tokens, C text channels, K gates, N tokens of all prompts

SHRINKAGE = 1e-2
# a few of the prompts that do not ask for the concept may hold synonyms that only the text encoder knows
OUTLIERS = 0.005
# On the terrarium 0.1 tells "hot dog" from "dog" and "toy car" from "car" best of 0.02 to 3; more of it makes ordinary
# words score high.
NEAR_WEIGHT = 0.1

Ids = Sequence[int]
Span = tuple[int, int]


class Reader(Protocol):
    """What gates need of a model's text side; a DiffusionModel has it."""

    def tokens(self, prompts: Sequence[str]) -> tuple[tuple[int, ...], ...]:
        """Return token ids without running the text encoder."""
        ...

    def encode(self, prompts: Sequence[str]) -> TextFeatures:
        """Return text features."""
        ...


@dataclass(frozen=True)
class Shown:
    """What gates are shown of one call.

    Attributes:
        text: features of the prompts, or of embeddings that came without prompts (B).
        reader: the text side of the model, for gates that compare with phrases of their own.
    """

    text: TextFeatures
    reader: Reader


class Gate(BaseModel, ABC):
    """Decides how far one membrane opens."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @abstractmethod
    def gamma(self, shown: Shown) -> Tensor:
        """Return the permeability for each prompt: (B,), 0 to 1.

        Raises:
            GateError: something that this gate needs is not shown.
        """

    @classmethod
    def gammas(cls, gates: Sequence[Any], shown: Shown) -> Tensor:
        """Return the permeabilities of several gates of this class: (B, K)."""
        return torch.stack([gate.gamma(shown) for gate in gates], dim=1)


def judge(gates: Sequence[Gate], shown: Shown) -> Tensor:
    """Return the permeability of each gate for each prompt: (B, K) float32 on the CPU.

    All gates of one class are judged together.

    Raises:
        GateError: a gate lacks something that it needs, or gives no finite number for each prompt.
    """
    count = len(shown.text)
    gamma_BK = torch.zeros(count, len(gates))
    for kind in dict.fromkeys(type(gate) for gate in gates):
        columns = [column for column, gate in enumerate(gates) if type(gate) is kind]
        found = kind.gammas([gates[column] for column in columns], shown).detach().float().cpu()
        if found.shape != (count, len(columns)) or not found.isfinite().all():
            raise GateError(
                f"{kind.__name__} must give a finite permeability for each of {count} prompts, but it gave "
                f"{found.tolist()}."
            )
        gamma_BK[:, columns] = found
    return gamma_BK


class OpenGate(Gate):
    """Opens for everything."""

    def gamma(self, shown: Shown) -> Tensor:
        return torch.ones(len(shown.text))


class PaperGate(Gate):
    """Gives max(text cosine, share of the concept's tokens found in the prompt) (arXiv:2312.16145, eqs. 9 to 11).

    Attributes:
        phrases: the concept's target phrases; the one that opens furthest counts.
    """

    phrases: tuple[str, ...]

    def gamma(self, shown: Shown) -> Tensor:
        if shown.text.ids is None:
            raise GateError("the gate 'paper' needs the prompts' tokens: give prompts instead of prompt_embeds")
        concept = shown.reader.encode(placed(self.phrases))
        assert concept.ids is not None
        cosine_B = (_unit(shown.text) @ _unit(concept).T).amax(1).clamp(0, 1).cpu()
        return torch.maximum(cosine_B, token_share(shown.text.ids, concept.ids))


def token_share(prompts: Sequence[Ids], concepts: Sequence[Ids]) -> Tensor:
    """Return for each prompt the largest |T(c) n T(p)| / |T(c)| over the concepts: (B,)."""
    shares = [
        max((len(set(concept) & set(prompt)) / len(set(concept)) for concept in concepts if concept), default=0.0)
        for prompt in prompts
    ]
    return torch.tensor(shares)


class ProbeGate(Gate):
    """Gives exactly 1 for prompts that ask for the concept and exactly 0 for all others.

    A prompt asks for it if one of its tokens scores above the threshold, or if one of the phrases stands in it word
    for word, in any usual spelling. What lies inside a kept phrase counts for neither. Embeddings that no prompt
    accounts for open it.

    Attributes:
        weight: linear probe on the text encoder's states (C).
        bias: added to the score; an ordinary token then scores 0 and the concept's own 1, on average.
        threshold: the score above which the gate opens.
        margin: how far the lowest score of the concept's prompts lies above the highest of the others when fitted;
            negative where they overlap.
        phrases: the concept's names and their plurals.
        kept: longer phrases that contain one of them and mean something else, such as "hot dog" for a dog.
    """

    kind: Literal["token-probe/1"] = "token-probe/1"
    weight: Annotated[tuple[float, ...], BeforeValidator(tuple)]
    bias: float
    threshold: float
    margin: float = 0.0
    phrases: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()

    def gamma(self, shown: Shown) -> Tensor:
        return self.gammas([self], shown)[:, 0]

    @classmethod
    def gammas(cls, gates: Sequence[Any], shown: Shown) -> Tensor:
        channels = shown.text.hidden_BTC.shape[-1]
        if other := next((gate for gate in gates if len(gate.weight) != channels), None):
            raise GateError(
                f"the gate for {', '.join(map(repr, other.phrases)) or 'a concept'} reads text features of "
                f"{len(other.weight)} channels, but this model's have {channels}"
            )
        if shown.text.ids is None:
            # A blend, a weight or a small step closes any linear probe, so what no prompt accounts for opens.
            return torch.ones(len(shown.text), len(gates))
        threshold_K = torch.tensor([gate.threshold for gate in gates])
        kept = spans_in(shown.text.ids, [gate.kept for gate in gates], shown.reader)
        asked = spans_in(shown.text.ids, [gate.phrases for gate in gates], shown.reader)
        is_open_BK = scores(gates, shown.text, kept) > threshold_K
        is_named_KB = [
            [any(not _within(span, longer) for span in own) for own, longer in zip(*rows, strict=True)]
            for rows in zip(asked, kept, strict=True)
        ]
        is_open_BK |= torch.tensor(is_named_KB).T
        return is_open_BK.float()


def scores(gates: Sequence[ProbeGate], text: TextFeatures, kept: Sequence[Sequence[Sequence[Span]]] = ()) -> Tensor:
    """Return for each prompt and gate the highest score of any token: (B, K).

    An ordinary token scores about 0 and the concept's own about 1. All gates take one matrix product. `kept` has for
    each gate and prompt the spans of `text.ids` that do not count.
    """
    where = text.hidden_BTC.device
    weight_CK = torch.tensor([gate.weight for gate in gates], device=where).T
    score_BTK = text.hidden_BTC.float() @ weight_CK + torch.tensor([gate.bias for gate in gates], device=where)
    score_BTK = score_BTK.masked_fill(~read_mask(text).unsqueeze(-1), -torch.inf)
    for column, rows in enumerate(kept):
        for row, spans in enumerate(rows):
            for start, end in spans:
                score_BTK[row, start + text.start : end + text.start, column] = -torch.inf
    return score_BTK.amax(1).cpu()


def read_mask(text: TextFeatures) -> Tensor:
    """Return which positions a gate reads: those of the prompt's own tokens, (B, T) bool.

    The start token has seen nothing of the prompt. The end-of-text token mixes all of the prompt, which no one concept
    owns. Embeddings without tokens are read to the end of their mask, or to their end.
    """
    places_T = torch.arange(text.hidden_BTC.shape[1])
    if text.ids is None:
        shape = text.hidden_BTC.shape[:2]
        mask_BT = torch.ones(shape, dtype=torch.bool) if text.mask_BT is None else text.mask_BT.cpu()
        return (mask_BT & (places_T >= text.start)).to(text.hidden_BTC.device)
    ends_B1 = text.start + torch.tensor([len(row) for row in text.ids]).unsqueeze(1)
    return ((places_T >= text.start) & (places_T < ends_B1)).to(text.hidden_BTC.device)


def placed(phrases: Sequence[str]) -> list[str]:
    """Return each phrase as it starts a text and as it follows a space: a byte-level tokenizer has two words for it."""
    return [text for phrase in phrases for text in (phrase, f" {phrase}")]


def spans_in(prompts: Sequence[Ids], groups: Sequence[Sequence[str]], reader: Reader) -> list[list[list[Span]]]:
    """Return for each group of phrases and each prompt where the phrases stand word for word, in any usual spelling."""
    texts = [placed([spelling for phrase in phrases for spelling in spellings(phrase)]) for phrases in groups]
    distinct = list(dict.fromkeys(chain.from_iterable(texts)))
    ids_of = dict(zip(distinct, map(tuple, reader.tokens(distinct)), strict=True)) if distinct else {}
    # Most tokenizers know no case or no leading space, so that many spellings are the same tokens.
    parts = [list(dict.fromkeys(ids_of[text] for text in own if ids_of[text])) for own in texts]
    return [[[span for part in own for span in spans_of(part, ids)] for ids in prompts] for own in parts]


def spans_of(part: Sequence[Any], whole: Sequence[Any]) -> list[Span]:
    """Return where a part stands in a sequence: (start, end), the end not included."""
    if not part or part[0] not in whole:
        return []
    size = len(part)
    return [
        (start, start + size)
        for start in range(len(whole) - size + 1)
        if tuple(whole[start : start + size]) == tuple(part)
    ]


def last_token(ids: Ids, phrase: Ids) -> int | None:
    """Return the position of a phrase's last token in a prompt, counting the start token, or None if it is absent."""
    return next((end for _, end in spans_of(phrase, ids)), None)


def _within(span: Span, longer: Sequence[Span]) -> bool:
    return any(start <= span[0] and span[1] <= end for start, end in longer)


@dataclass(frozen=True)
class Near:
    """Prompts that must never open a gate, because they are what the concept is most easily taken for.

    Attributes:
        text: the prompts' features.
        own_NC: states of the neighbours' own last tokens; None if the gate reads none of them.
        kept: spans of each prompt that the gate does not read.
    """

    text: TextFeatures
    own_NC: Tensor | None
    kept: Sequence[Sequence[Span]]


def fit_probe(
    concept_NC: Tensor,
    target: TextFeatures,
    others: TextFeatures,
    *,
    near: Near | None = None,
    between: float = 0.5,
    phrases: Sequence[str] = (),
    kept: Sequence[str] = (),
) -> ProbeGate:
    """Fit the probe that separates the concept's tokens, in their contexts, from all other tokens.

    Fisher's linear discriminant with a shrunken covariance, scaled so that the mean token of the other prompts scores
    0 and the mean token of the concept 1. Where the scores of `target` and `others` overlap, other prompts stay closed
    and only the phrases open the gate. Of `others` a few may lie above the threshold, of `near` none.

    Args:
        concept_NC: states of the concept's last token in many sentences.
        target: prompts that ask for the concept.
        others: prompts that do not, nearest neighbours among them.
        near: prompts that do not and share words with the concept, or are the user's own.
        between: where the threshold lies, from 0 at the highest of the others to 1 at the lowest of the target.
        phrases: open the gate word for word.
        kept: longer phrases that do not.
    """
    other_NC = others.hidden_BTC[read_mask(others)].cpu().double()
    own_NC = concept_NC.cpu().double()
    spread_CC = (torch.cov(own_NC.T) + torch.cov(other_NC.T)) / 2
    if near is not None and near.own_NC is not None:
        # They are few among all tokens, but the score must not grow towards them.
        beside_NC = near.own_NC.cpu().double() - other_NC.mean(0)
        spread_CC += NEAR_WEIGHT * beside_NC.T @ beside_NC / len(beside_NC)
    spread_CC += SHRINKAGE * spread_CC.diagonal().mean() * torch.eye(len(spread_CC), dtype=torch.float64)
    apart_C = own_NC.mean(0) - other_NC.mean(0)
    weight_C = torch.linalg.solve(spread_CC, apart_C)
    weight_C /= weight_C @ apart_C
    gate = ProbeGate(
        weight=tuple(float(f"{value:.6g}") for value in weight_C.tolist()),
        bias=float(-(weight_C @ other_NC.mean(0))),
        threshold=0.0,
        phrases=tuple(phrases),
        kept=tuple(kept),
    )
    highest = scores([gate], others).quantile(1 - OUTLIERS)
    if near is not None:
        highest = torch.maximum(highest, scores([gate], near.text, [near.kept]).max())
    lowest = scores([gate], target).quantile(OUTLIERS)
    threshold = float(highest + between * (lowest - highest).clamp_min(0))
    return gate.model_copy(update={"threshold": round(threshold, 4), "margin": round(float(lowest - highest), 4)})


def _unit(text: TextFeatures) -> Tensor:
    vectors = text.pooled_BC if text.pooled_BC is not None else text.hidden_BTC.flatten(1)
    return torch.nn.functional.normalize(vectors.float(), dim=-1)
