"""Gates: the paper's against an explicit loop, and the fitted probe, which gives 0 or 1 and nothing else."""

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from semiperm.concept import Concept
from semiperm.erasure import Card
from semiperm.errors import GateError
from semiperm.gate import (
    Gate,
    OpenGate,
    PaperGate,
    ProbeGate,
    Shown,
    fit_probe,
    judge,
    read_mask,
    scores,
    token_share,
)
from semiperm.models.text import TextFeatures
from tests.methods.word_encoder import LENGTH, WordEncoder, axis

PROMPTS = ["a cat", "a dog", "a cat and a dog", "", "black cat", "a grumpy old black dog"]
IDS = st.lists(st.integers(0, 9), max_size=6).map(tuple)


def paper(targets: Sequence[str], text: TextFeatures, encoder: Any) -> Tensor:
    return judge([PaperGate(phrases=tuple(targets))], Shown(text, encoder))[:, 0]


def probed(gate: ProbeGate, text: TextFeatures, encoder: Any) -> Tensor:
    return judge([gate], Shown(text, encoder))[:, 0]


def score(gate: ProbeGate, text: TextFeatures) -> Tensor:
    return scores([gate], text)[:, 0]


def cosine(a: Sequence[float], b: Sequence[float]) -> float:
    product = sum(x * y for x, y in zip(a, b, strict=True))
    return product / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def gate(weight: Tensor, bias: float = 0.0, threshold: float = 0.5, phrases: Sequence[str] = ()) -> ProbeGate:
    return ProbeGate(weight=tuple(weight.tolist()), bias=bias, threshold=threshold, phrases=tuple(phrases))


# the paper's rule


@pytest.mark.parametrize("targets", [("cat",), ("black cat",), ("cat", "grumpy dog")])
def test_paper_is_equations_9_to_11_in_an_explicit_loop(targets: tuple[str, ...]) -> None:
    encoder = WordEncoder()
    found = paper(targets, encoder.encode(PROMPTS), encoder)
    for prompt, value in zip(PROMPTS, found.tolist(), strict=True):
        expected = 0.0
        for target in targets:
            vectors = [encoder.pooled(text).tolist() for text in (prompt, target)]
            own = set(target.split())
            expected = max(expected, cosine(*vectors), len(own & set(prompt.split())) / len(own))
        assert value == pytest.approx(min(1.0, expected), abs=1e-6)


def test_paper_opens_fully_where_all_tokens_of_the_concept_are() -> None:
    encoder = WordEncoder()
    found = paper(["black cat"], encoder.encode(["a cat on a black mat", "a cat"]), encoder)
    assert found[0] == 1 and found[1] >= 0.5


def test_paper_without_pooled_features_compares_the_states() -> None:
    def encode(prompts: Sequence[str]) -> TextFeatures:
        states = {"cat": [[1.0, 2.0], [0.0, 1.0]], "a dog": [[2.0, 0.0], [1.0, 1.0]]}
        ids = {"cat": (1,), "a dog": (2, 3)}
        return TextFeatures(
            torch.tensor([states[text.strip()] for text in prompts]), ids=tuple(ids[text.strip()] for text in prompts)
        )

    found = paper(["cat"], encode(["a dog"]), SimpleNamespace(encode=encode))
    assert found.item() == pytest.approx(cosine([2, 0, 1, 1], [1, 2, 0, 1]))


def test_an_opposite_prompt_closes_and_opens_no_further() -> None:
    encoder = WordEncoder(planted={"cat": axis(), "tac": -axis()})
    assert paper(["cat"], encoder.encode(["tac"]), encoder).item() == 0


@given(st.lists(IDS, min_size=1, max_size=4), st.lists(IDS, min_size=1, max_size=3))
def test_token_share_is_set_arithmetic_and_survives_empty_concepts(
    prompts: list[tuple[int, ...]], concepts: list[tuple[int, ...]]
) -> None:
    found = token_share(prompts, concepts)
    assert found.shape == (len(prompts),)
    for prompt, value in zip(prompts, found.tolist(), strict=True):
        expected = 0.0
        for concept in concepts:
            unique = set(concept)
            if unique:
                expected = max(expected, sum(token in prompt for token in unique) / len(unique))
        assert value == pytest.approx(expected)


def test_paper_with_a_concept_without_tokens_is_a_number() -> None:
    encoder = WordEncoder()

    def encode(prompts: Sequence[str]) -> TextFeatures:
        return encoder.encode(["" for _ in prompts])

    found = paper(["\u200b"], encoder.encode(["a dog", ""]), SimpleNamespace(encode=encode))
    assert torch.isfinite(found).all()


def test_paper_refuses_embeddings() -> None:
    encoder = WordEncoder()
    with pytest.raises(GateError, match="prompt_embeds"):
        paper(["cat"], TextFeatures(torch.zeros(2, 3, 4)), encoder)


def test_always_is_1_for_everything() -> None:
    encoder = WordEncoder()
    assert torch.equal(judge([OpenGate()], Shown(encoder.encode(PROMPTS), encoder)), torch.ones(len(PROMPTS), 1))
    assert torch.equal(judge([OpenGate()], Shown(TextFeatures(torch.zeros(2, 3, 4)), encoder)), torch.ones(2, 1))


# the fitted gate


def test_the_fitted_gate_gives_exactly_0_and_1() -> None:
    encoder = WordEncoder(planted={"cat": axis()})
    own = gate(axis())
    found = probed(own, encoder.encode(PROMPTS), encoder)
    assert found.tolist() == [float("cat" in prompt.split()) for prompt in PROMPTS]


def test_the_fitted_gate_opens_for_the_gates_phrases_word_for_word() -> None:
    # nothing is planted, so the probe itself finds nothing
    encoder = WordEncoder()
    own = gate(axis(), threshold=1e6, phrases=["black cat", "cats"])
    prompts = ["a black cat sleeps", "cats", "a cat black as night", "a cat", "black", ""]
    found = probed(own, encoder.encode(prompts), encoder)
    assert found.tolist() == [1, 1, 0, 0, 0, 0]


@pytest.mark.parametrize("value", [0.0, 1.0, math.nan, math.inf])
def test_embeddings_that_no_prompt_accounts_for_open_the_fitted_gate(value: float) -> None:
    encoder = WordEncoder()
    embeddings = TextFeatures(torch.full((2, LENGTH, encoder.channels), value))
    assert probed(gate(axis(), threshold=1e6), embeddings, encoder).tolist() == [1, 1]


@given(st.floats(0, 1))
def test_the_threshold_lies_where_it_was_asked_to(between: float) -> None:
    asking, others = planted_world(1, 60, own=True), planted_world(2, 90, own=False)
    fitted = fit_probe(own_tokens(asking, 1, 60), asking, others, between=between)
    low, high = (fit_probe(own_tokens(asking, 1, 60), asking, others, between=end).threshold for end in (0.0, 1.0))
    assert fitted.threshold == pytest.approx(low + between * (high - low), abs=2e-4)
    assert high - low == pytest.approx(fitted.margin, abs=2e-4)


def test_the_score_is_the_highest_of_the_tokens_that_are_read() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(3, 5, 4, generator=generator)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]).bool()
    weight = [0.5, -1.0, 2.0, 0.25]
    found = score(gate(torch.tensor(weight), bias=0.1), TextFeatures(hidden, mask_BT=mask))
    for row in range(3):
        scores = [
            sum(w * x for w, x in zip(weight, hidden[row, place].tolist(), strict=True)) + 0.1
            for place in range(1, 5)
            if mask[row, place]
        ]
        assert found[row].item() == pytest.approx(max(scores), abs=1e-5)


def test_what_is_behind_the_end_and_at_the_start_is_not_read() -> None:
    encoder = WordEncoder(planted={"cat": axis()})
    features = encoder.encode(["a cat", "a dog and a house"])
    own = gate(axis())
    before = score(own, features)
    assert features.mask_BT is not None
    hidden = features.hidden_BTC.clone()
    hidden[~features.mask_BT] = torch.nan
    hidden[:, 0] = torch.inf
    assert torch.equal(score(own, TextFeatures(hidden, mask_BT=features.mask_BT)), before)
    assert features.mask_BT[:, 0].all(), "the mask itself must stay as it was"
    # the prompts' own tokens, without the end of the text
    assert read_mask(features).sum(1).tolist() == [2, 5]


def test_embeddings_without_a_mask_are_read_to_their_end() -> None:
    hidden = torch.zeros(2, 4, 3)
    hidden[0, 3, 0] = 7
    hidden[1, 0, 0] = 7
    assert score(gate(axis(3)), TextFeatures(hidden)).tolist() == [7, 0]


def test_a_gate_refuses_the_features_of_another_text_encoder() -> None:
    encoder = WordEncoder(channels=32)
    with pytest.raises(GateError, match="16 channels.*have 32"):
        probed(gate(axis(16)), encoder.encode(PROMPTS), encoder)


# fitting


def planted_world(seed: int, prompts: int, own: bool, channels: int = 12) -> TextFeatures:
    """Correlated noise; a prompt that asks has one token that is shifted a little along one direction."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(channels, channels, generator=torch.Generator().manual_seed(99))
    hidden = torch.randn(prompts, LENGTH, channels, generator=generator)
    hidden[..., 0] *= 0.05
    mask = torch.zeros(prompts, LENGTH, dtype=torch.bool)
    mask[:, :9] = True
    if own:
        places = torch.randint(1, 9, (prompts,), generator=generator)
        hidden[torch.arange(prompts), places, 0] += 1
        hidden[torch.arange(prompts), 0, 1] = places.float()
    hidden = hidden @ mixing
    hidden[~mask] = 1e3
    return TextFeatures(hidden, mask_BT=mask)


def own_tokens(features: TextFeatures, seed: int, prompts: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    torch.randn(prompts, LENGTH, features.hidden_BTC.shape[-1], generator=generator)
    places = torch.randint(1, 9, (prompts,), generator=generator)
    return features.hidden_BTC[torch.arange(prompts), places]


def test_the_fitted_gate_tells_new_prompts_apart() -> None:
    asking, others = planted_world(1, 200, own=True), planted_world(2, 400, own=False)
    fitted = fit_probe(own_tokens(asking, 1, 200), asking, others)
    new_asking, new_others = planted_world(3, 300, own=True), planted_world(4, 300, own=False)
    assert (score(fitted, new_asking) > fitted.threshold).float().mean() > 0.99
    assert (score(fitted, new_others) <= fitted.threshold).float().mean() > 0.99
    assert fitted.margin > 0


def test_where_the_two_overlap_other_prompts_stay_shut() -> None:
    asking, others = planted_world(1, 60, own=False), planted_world(2, 200, own=False)
    fitted = fit_probe(own_tokens(asking, 1, 60), asking, others)
    assert fitted.margin < 0
    assert (score(fitted, others) <= fitted.threshold + 1e-3).float().mean() >= 0.99


def test_the_scale_is_0_for_other_tokens_and_1_for_the_concepts_own() -> None:
    asking, others = planted_world(1, 200, own=True), planted_world(2, 400, own=False)
    concept = own_tokens(asking, 1, 200)
    fitted = fit_probe(concept, asking, others)
    weight = torch.tensor(fitted.weight, dtype=torch.float64)
    assert (concept.double() @ weight + fitted.bias).mean().item() == pytest.approx(1, abs=1e-3)
    read = others.hidden_BTC[:, 1:9].flatten(0, 1).double()
    assert (read @ weight + fitted.bias).mean().item() == pytest.approx(0, abs=1e-3)


def test_a_gate_survives_json_and_the_card() -> None:
    asking, others = planted_world(1, 50, own=True), planted_world(2, 80, own=False)
    fitted = fit_probe(own_tokens(asking, 1, 50), asking, others)
    again = ProbeGate.model_validate_json(fitted.model_dump_json())
    on_card = Card(concepts=(Concept(name="cat"),), gate=fitted)
    assert again == fitted == Card.model_validate_json(on_card.model_dump_json()).gate
    assert torch.equal(score(again, others), score(fitted, others))


# several gates


def test_gates_of_all_kinds_are_judged_together_as_alone() -> None:
    encoder = WordEncoder(planted={"cat": axis(), "dog": axis(number=1)})
    gates: list[Gate] = [
        gate(axis()),
        OpenGate(),
        gate(axis(number=1), bias=0.25, threshold=0.75),
        PaperGate(phrases=("black cat",)),
        gate(axis(number=2), threshold=1e6, phrases=["black cat"]),
    ]
    shown = Shown(encoder.encode(PROMPTS), encoder)
    together = judge(gates, shown)
    assert together.shape == (len(PROMPTS), len(gates)) and together.dtype == torch.float32
    for column, one in enumerate(gates):
        assert torch.equal(together[:, column], judge([one], shown)[:, 0])
    assert judge([], shown).shape == (len(PROMPTS), 0)


class Given(Gate):
    """Gives what it was given, right or wrong."""

    value: Any

    def gamma(self, shown: Shown) -> Tensor:
        return self.value


@pytest.mark.parametrize("value", [torch.ones(3), torch.tensor([math.nan]), torch.tensor([[1.0]])])
def test_a_gate_must_give_one_finite_number_for_each_prompt(value: Tensor) -> None:
    encoder = WordEncoder()
    with pytest.raises(GateError, match="finite permeability for each of 1 prompts"):
        judge([Given(value=value)], Shown(encoder.encode(["a cat"]), encoder))


def test_a_gate_does_not_run_the_text_encoder() -> None:
    encoder = WordEncoder(planted={"cat": axis()})
    text = encoder.encode(PROMPTS)
    encoder.seen.clear()
    judge([gate(axis(), phrases=["cat", "black cat"])], Shown(text, encoder))
    assert encoder.seen == []
