"""The tokenizer takes any text, and every noun of the world is one token."""

import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from semiperm.terrarium import WEIGHTS, captions, world
from semiperm.terrarium.making.clip import tokenise
from semiperm.terrarium.making.tokenizer import END, START, train_tokenizer

SMALL = 700
TOKENS = 16

# characters that Python lowercases as the tokenizer does, which ignores case on purpose
letters = st.characters(categories=["L", "N", "P", "S"]).filter(lambda c: c.lower() == c)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[CLIPTokenizer, Path]:
    folder = tmp_path_factory.mktemp("tokenizer") / "new"
    return train_tokenizer(["a cat and a dog"] * 5000, SMALL, TOKENS, folder), folder


@pytest.fixture(scope="module")
def shipped() -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(WEIGHTS / "tokenizer")


@pytest.fixture(scope="module", params=["small", "shipped"])
def either(request: pytest.FixtureRequest, small: tuple[CLIPTokenizer, Path], shipped: CLIPTokenizer) -> CLIPTokenizer:
    return small[0] if request.param == "small" else shipped


def inner(tokenizer: CLIPTokenizer, text: str) -> list[int]:
    ids = tokenizer(text).input_ids
    assert ids[0] == tokenizer.bos_token_id
    assert ids[-1] == tokenizer.eos_token_id
    return ids[1:-1]


def squeezed(text: Any) -> str:
    return "".join(unicodedata.normalize("NFC", text).split())


@settings(deadline=None, max_examples=200)
# a text that spells a special token contains it, as in CLIP
@given(text=st.text().filter(lambda text: START not in text and END not in text))
def test_no_text_has_unknown_tokens(either: CLIPTokenizer, text: str) -> None:
    ids = inner(either, text)
    # as in CLIP
    assert either.unk_token == END
    special: list[Any] = [either.unk_token_id, either.bos_token_id]
    assert not set(special) & set(ids)
    assert all(0 <= number < len(either) for number in ids)
    assert bool(ids) or not text.strip() or not squeezed(text).isprintable()


@settings(deadline=None, max_examples=200)
@given(text=st.text(letters, max_size=40))
def test_text_comes_back_but_for_its_spaces(either: CLIPTokenizer, text: str) -> None:
    assert squeezed(either.decode(inner(either, text))) == squeezed(text)


@pytest.mark.parametrize(
    "text",
    [
        "a cat, please!",
        "naïve café",
        "日本の猫",
        "кошка и собака",
        "قطة",
        "🐈‍⬛ 🧶",
        "x² ≠ ½",
        "नमस्ते",
        "don't",
        "e\u0301te\u0301",
    ],
)
def test_scripts_of_the_world_come_back(either: CLIPTokenizer, text: str) -> None:
    assert squeezed(either.decode(inner(either, text))) == squeezed(text)


def test_case_and_spaces_do_not_matter(either: CLIPTokenizer) -> None:
    assert inner(either, "A  CAT \n and\ta Dog") == inner(either, "a cat and a dog")


def test_the_layout_is_clips(small: tuple[CLIPTokenizer, Path]) -> None:
    tokenizer, folder = small
    assert len(tokenizer) <= SMALL
    assert sorted(tokenizer.get_vocab().values()) == list(range(len(tokenizer)))
    assert {"vocab.json", "merges.txt"} <= {file.name for file in folder.iterdir()}
    again = CLIPTokenizer.from_pretrained(folder)
    for text in ("a cat and a dog", "something else entirely", "猫"):
        assert again(text).input_ids == tokenizer(text).input_ids
    assert again.model_max_length == TOKENS
    # a word that it was trained on is one token
    assert len(inner(tokenizer, "cat")) == 1


def test_training_is_repeatable(small: tuple[CLIPTokenizer, Path], tmp_path: Path) -> None:
    again = train_tokenizer(["a cat and a dog"] * 5000, SMALL, TOKENS, tmp_path)
    assert again.get_vocab() == small[0].get_vocab()


def test_start_end_and_padding(shipped: CLIPTokenizer) -> None:
    assert shipped.model_max_length == 48
    assert (shipped.bos_token, shipped.eos_token, shipped.pad_token) == (START, END, END)
    start: Any = shipped.bos_token_id
    end: Any = shipped.eos_token_id
    row = tokenise(shipped, ["a cat"])[0].tolist()
    assert len(row) == 48
    assert row[0] == start
    assert len(set(row[1:3]) - {start, end}) == 2
    assert row[3:] == [end] * 45
    cut = tokenise(shipped, ["a cat and " * 40])[0].tolist()
    assert len(cut) == 48
    assert cut[0] == start
    assert cut[-1] == end
    assert end not in cut[:-1]


def test_every_noun_of_the_world_is_one_token(shipped: CLIPTokenizer) -> None:
    for item in world.OBJECTS:
        for noun in (item.name, *item.synonyms):
            assert len(inner(shipped, noun)) == 1, noun
    for style in world.STYLES:
        assert len(inner(shipped, style.name)) == len(style.name.split())
    for colour in world.BACKGROUNDS:
        assert len(inner(shipped, colour)) == 1


def test_other_words_share_no_token_with_the_name(shipped: CLIPTokenizer) -> None:
    for item in world.OBJECTS:
        for text in (*item.synonyms, *item.phrases):
            assert not set(inner(shipped, item.name)) & set(inner(shipped, text)), (item.name, text)
    for style in world.STYLES:
        for form in style.synonyms:
            assert not set(inner(shipped, style.name)) & set(inner(shipped, form.format("cat"))), (style.name, form)
    for group, phrases in world.GROUP_PHRASES.items():
        for item in world.OBJECTS:
            if item.group == group:
                for phrase in phrases:
                    assert not set(inner(shipped, item.name)) & set(inner(shipped, phrase))


def test_the_worlds_sentences_fit(shipped: CLIPTokenizer) -> None:
    texts = [captions.prompt(name, style) for name in world.OBJECT_NAMES for style in world.STYLE_NAMES]
    assert max(len(shipped(text).input_ids) for text in texts) <= 48
