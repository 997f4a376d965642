"""A concept's name is any text, and its file's name is safe everywhere."""

import re

import pytest

from semiperm.concept import Concept


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
