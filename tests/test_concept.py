"""A concept's name is any text, and its file's name is safe everywhere."""

import pytest

from semiperm.concept import Concept


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("cat", "cat"),
        ("The Great Tide", "the-great-tide"),
        ("spider-man_2.0", "spider-man_2.0"),
        ("Größe", "größe"),
        ("AC/DC", "ac-dc"),
        ("../../etc/passwd", "etc-passwd"),
        ("C:\\cats", "c-cats"),
        ('who? "me" <you> | *', "who-me-you"),
        (".hidden", "hidden"),
        ("two\nlines", "two-lines"),
        ("???", "membrane"),
    ],
)
def test_a_slug_is_a_files_name(name: str, slug: str) -> None:
    assert Concept(name=name).slug == slug
