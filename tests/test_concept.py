"""A concept's name is any text, and its file's name is safe everywhere."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semiperm.concept import Concept, spellings


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("cat", "cat"),
        ("The Great Tide", "the-great-tide"),
        ("spider-man_2.0", "spider-man_2.0"),
        ("Größe", "größe"),
        ("Van Gogh", "van-gogh"),
        ("two\nlines", "two-lines"),
    ],
)
def test_a_slug_is_a_files_name(name: str, slug: str) -> None:
    assert Concept(name=name).slug == slug


@pytest.mark.parametrize(
    ("name", "readable"),
    [
        ("AC/DC", "ac-dc"),
        ("../../etc/passwd", "etc-passwd"),
        ("C:\\cats", "c-cats"),
        ('who? "me" <you> | *', "who-me-you"),
        (".hidden", "hidden"),
        ("???", "membrane"),
        ("a\udc80b", "a-b"),
        ("猫" * 300, "猫" * 50),
    ],
)
def test_a_slug_that_lacks_characters_ends_in_a_hash(name: str, readable: str) -> None:
    assert re.fullmatch(re.escape(readable) + "-[0-9a-f]{8}", Concept(name=name).slug)
    assert len(f"{Concept(name=name).slug}.checkpoint.safetensors".encode()) < 255


def test_concepts_of_other_names_have_other_slugs() -> None:
    names = ["c", "C++", "C#", "C?", "c.", "???", "!!!", "membrane", "x" * 60, "x" * 61, "x" * 50]
    assert len({Concept(name=name).slug for name in names}) == len(names)
    assert Concept(name="C++").slug == Concept(name="c++").slug


@pytest.mark.parametrize(
    ("name", "also"),
    [
        ("cat", {"Cat", "CAT"}),
        ("Tom and Jerry", {"Tom & Jerry", "tom & jerry", "TOM AND JERRY", "Tom And Jerry"}),
        ("Tom & Jerry", {"Tom and Jerry", "tom and jerry"}),
        ("Rubik's cube", {"Rubik\u2019s cube", "rubik's cube", "Rubik's Cube"}),
        ("Rubik\u2019s cube", {"Rubik's cube"}),
        ("Spider-Man", {"Spider Man", "spiderman", "SPIDER-MAN"}),
        ("Grumpy Cat", {"grumpy cat", "Grumpy-Cat"}),
        ("Beyonc\u00e9", {"Beyonce", "Beyonce\u0301", "beyonce"}),
        ("Dal\u00ed", {"Dali", "DALI"}),
        ("\u732b", set()),
    ],
)
def test_a_name_is_written_in_many_ways(name: str, also: set[str]) -> None:
    found = spellings(name)
    assert found[0] == name and also <= set(found) and len(set(found)) == len(found)


def test_spellings_do_not_invent_words() -> None:
    # a hotdog is no hot dog to a tokenizer, and nobody writes "ca-t"
    assert {text.lower() for text in spellings("hot dog")} == {"hot dog", "hot-dog"}
    assert {text.lower() for text in spellings("cat")} == {"cat"}


@given(st.text(min_size=1, max_size=30))
def test_spellings_of_any_text_start_with_it(name: str) -> None:
    found = spellings(name)
    assert found[0] == " ".join(name.split()) and len(found) < 2000
