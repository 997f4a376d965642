"""The features of the closed form: text behind the target is paired with itself in the surrogate's sentence."""

import pytest
import torch

from semiperm.concept import Concept
from semiperm.methods.sentences import target_prompts
from semiperm.methods.spm.instant import text_pairs
from semiperm.models.load import model_of
from tests.tiny import tiny_pipeline


@pytest.mark.parametrize("surrogate", ["", "dog", "a very big red house"])
def test_the_texts_are_aligned_at_their_ends(surrogate: str) -> None:
    model = model_of(tiny_pipeline())
    concept = Concept(name="cat", surrogate=surrogate)
    found, instead = text_pairs(concept, model, "an empty background")
    place = 0
    for prompt, other in target_prompts(concept, "an empty background"):
        asked, become = model.encode([prompt]), model.encode([other])
        assert asked.ids is not None and become.ids is not None
        own = model.encode(["cat"]).ids
        assert own is not None
        ids, length = list(asked.ids[0]), asked.hidden_BTC.shape[1]
        first = next(n for n in range(len(ids)) if ids[n : n + len(own[0])] == list(own[0])) + 1
        # Positions count from the end-of-text token, which stands behind the start token and the text.
        for position in range(first, length):
            from_end = position - (len(ids) + 1)
            beside = min(max(len(become.ids[0]) + 1 + from_end, 1), length - 1)
            assert torch.equal(found[place], asked.hidden_BTC[0, position])
            assert torch.equal(instead[place], become.hidden_BTC[0, beside])
            place += 1
    assert place == len(found) == len(instead)
