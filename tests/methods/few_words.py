"""A short list of everyday concepts and few sentences for the gate: the full lists would only cost time."""

import pytest

from semiperm.methods import calibrate, sentences
from tests.tiny import WORDS


def use_few_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the lists that anchors and gate are made of, for one test."""
    monkeypatch.setattr(sentences, "everyday", lambda: tuple(WORDS[-14:]))
    monkeypatch.setattr(calibrate, "OTHERS", 30)
    monkeypatch.setattr(calibrate, "MIXED", 10)
